"""Execute plans and manage their results: calibration, compression, evaluation, storage, export and verification.

The modules `manifest` and `store`, and those that `store` depends on (`start`, `folders`, `documents`, `inputs`, `claims`,
`leftovers`), do not import torch.
"""
