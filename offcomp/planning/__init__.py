"""Plan a compression before anything runs: which modules to group, target sizes, estimated cost, and exact SVD errors.

Importing this package loads neither torch nor transformers.
"""
