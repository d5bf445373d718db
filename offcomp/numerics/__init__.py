"""Pure functions: tensors or integers in, tensors or integers out. `accounting` does not need torch."""
