"""The Groups page: which modules are better compressed together."""
