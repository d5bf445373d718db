"""Pure functions: tensors or integers in, tensors or integers out. `accounting` needs no torch."""
