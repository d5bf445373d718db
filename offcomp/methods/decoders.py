"""All decoders: functions that turn stored tensors back into a matrix.

`CompressedMatrix.decoder` is the name of one of these functions. Each method lists its decoders in `Method.decoders`.
"""

from __future__ import annotations

from offcomp.methods import METHODS, all_methods
from offcomp.methods.base import Decode, dense

DECODERS: tuple[Decode, ...] = (
    dense,
    *(getattr(method.computing_module(), name) for method in METHODS for name in method.decoders),
)
"""The decoders of offcomp itself."""


def find_decoder(name: str) -> Decode | None:
    """The decoder with this name, of offcomp or of an installed plugin; None if there is none.

    Raises InputError if the plugin that defines it cannot be imported.
    """
    for decode in DECODERS:
        if decode.__name__ == name:
            return decode
    owner = next((method for method in all_methods() if name in method.decoders), None)
    return getattr(owner.computing_module(), name, None) if owner else None
