"""Plan a run before starting it: which modules to group, target sizes, estimated cost, and exact SVD errors.

Importing this package does not load torch or transformers.
"""
