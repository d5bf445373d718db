"""Make what is bundled: `python -m benchmarks.bundle` writes the spectra and the example runs under assets/.

Needs the MiniLM-L6 package. Everything is computed here and now; nothing is copied from elsewhere.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep

import numpy as np

from offcomp.errors import InputError
from offcomp.grouping import GROUPINGS, STACKS, best_stack, blocks_of_layers, group_shape
from offcomp.methods import method_of_role
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.listing import model_info
from offcomp.models.loading import describe
from offcomp.plan import Group, Plan, make_groups
from offcomp.runs import RunStore
from offcomp.spectra import compute, spectrum_key

ASSETS = Path(__file__).parents[1] / "assets"
MODEL = "minilm-l6"
EXAMPLES = ("svd", "autoencoder")


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


def run_examples(info: ModelInfo) -> None:
    """Measure the runs of the Start page: query and key, one group per kind, at 3x."""
    specs = [spec for spec in info.modules if spec.kind in ("query", "key")]
    for method in map(method_of_role, EXAMPLES):
        with TemporaryDirectory() as home:
            store = RunStore(Path(home))
            plan = Plan(MODEL, make_groups(specs, "kind", method=method.name, ratio=3.0))
            run = store.submit(plan, model_info(MODEL, store.home))
            while not run.ended:
                sleep(0.2)
                run = store.get(run.id)
            shutil.copy(run.folder / "run.json", ASSETS / "runs" / f"{MODEL}-{method.role}.json")
            print(f"{method.title}: run {run.id} {run.status}")


def write_spectra(info: ModelInfo) -> None:
    """Write assets/spectra."""
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


def main() -> None:
    """Write everything."""
    info = describe(MODEL)
    run_examples(info)
    write_spectra(info)


if __name__ == "__main__":
    main()
