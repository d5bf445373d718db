"""The Groups page: which modules to compress together."""
