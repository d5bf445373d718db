"""offcomp: see what offline compression does to a transformer language model."""

__version__ = "0.1.0"
