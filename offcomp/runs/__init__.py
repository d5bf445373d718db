"""Run plans and keep the results: calibrate, compress, evaluate, store, export and verify.

`store`, the modules it depends on (`start`, `folders`, `documents`, `inputs`, `claims`, `leftovers`) and `manifest` do not
import torch.
"""
