"""Tucker decomposition of the stacked modules of a group."""
