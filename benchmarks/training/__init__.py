"""Training small models for offcomp: each script is one command, seeded, and goes on where it was cut off."""
