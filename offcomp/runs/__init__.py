"""Execute a plan and keep the results: calibrate, compress, score, store, export, verify.

`store`, the modules it depends on (`start`, `folders`, `documents`, `inputs`, `claims`, `leftovers`) and `manifest` do not
import torch.
"""
