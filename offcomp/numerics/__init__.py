"""Pure functions on tensors and integers. The module `accounting` does not import torch."""
