"""The Inspect page: one weight matrix, and how compressible it is."""
