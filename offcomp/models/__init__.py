"""List the weight matrices of transformer models, load models safely, and read and substitute weights.

`catalogue`, `families`, `sources`, `safetensors_files` and `folder_faults` require neither torch nor transformers.
"""
