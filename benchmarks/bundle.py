"""Make what is bundled: `python benchmarks/bundle.py` writes the spectra under assets/.

Needs the MiniLM-L6 package. Everything is computed here and now; nothing is copied from elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from offcomp.errors import InputError
from offcomp.grouping import GROUPINGS, STACKS, best_stack, blocks_of_layers, group_shape
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.loading import describe
from offcomp.plan import Group, Plan
from offcomp.spectra import compute, spectrum_key

ASSETS = Path(__file__).parents[1] / "assets"
MODEL = "minilm-l6"


def preset_groups(info: ModelInfo) -> Iterator[tuple[list[ModuleSpec], str]]:
    """Every group that a preset can make of whole kinds, in every stacking that fits."""
    specs = [spec for spec in info.modules if spec.default]
    linear = [spec for spec in specs if spec.layer is not None]
    gathered = [members for preset in ("module", "kind") for _, members in GROUPINGS[preset][1](specs)]
    for size in (2, 3):
        for kinds in combinations(("query", "key", "value"), size):
            chosen = [spec for spec in specs if spec.kind in kinds]
            gathered += [members for _, members in GROUPINGS["qkv"][1](chosen)]
            gathered.append(chosen)
    for block in (2, 3, 4, 5):
        gathered += [members for _, members in blocks_of_layers(linear, block)]
    gathered.append(linear)
    gathered.append(specs)
    for members in gathered:
        for stack in dict.fromkeys((best_stack(members), *STACKS)):
            try:
                group_shape(members, stack)
            except InputError:
                continue
            yield members, stack


def main() -> None:
    """Write assets/models and assets/spectra."""
    info = describe(MODEL)
    (ASSETS / "models" / f"{MODEL}.json").write_text(json.dumps(info.to_dict(), indent=1) + "\n", encoding="utf-8")
    by_key = {}
    for members, stack in preset_groups(info):
        name = f"g{len(by_key)}"
        by_key.setdefault(spectrum_key(members, stack), Group(name, tuple(m.name for m in members), stack))
    with TemporaryDirectory() as home:
        spectra = compute(Plan(MODEL, tuple(by_key.values())), Path(home))
    keyed = {key: spectra[group.name] for key, group in by_key.items()}
    path = ASSETS / "spectra" / f"{MODEL}.npz"
    np.savez_compressed(path, fingerprint=np.array(info.fingerprint), **keyed)
    print(f"{path.name}: {len(keyed)} spectra, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
