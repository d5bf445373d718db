"""The Inspect page: how compressible a weight matrix is."""
