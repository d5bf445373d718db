"""Transformer models: listing their weight matrices, loading them safely, and reading and substituting weights.

`catalogue` (with `families`) and `sources` (with `safetensors_files` and `folder_faults`) need neither torch nor transformers.
"""
