"""Transformer models: which weight matrices they have, safe loading, reading and substituting weights.

`catalogue` (with `families`) and `sources` (with `safetensors_files` and `folder_faults`) need neither torch nor transformers.
"""
