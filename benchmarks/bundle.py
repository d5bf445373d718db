"""Generate the bundled files: `python -m benchmarks.bundle [--model NAME]` writes to assets/.

The listing, spectra and example runs of a model in the catalogue are computed afresh from its weights. Example runs, which the
Start page shows, are carried out for MiniLM-L6 only. With --rekey nothing is computed; see `benchmarks.rekey`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep

import numpy as np

from benchmarks.rekey import rekey
from offcomp.errors import InputError
from offcomp.methods import method_of_style_key
from offcomp.models.catalogue import ModelInfo, ModuleSpec
from offcomp.models.listing import model_info
from offcomp.models.loading import describe
from offcomp.planning.grouping import GROUPINGS, STACKS, best_stack, blocks_of_layers, group_shape
from offcomp.planning.plan import Group, Plan, make_groups
from offcomp.planning.sizes import resolved
from offcomp.planning.spectra import compute
from offcomp.planning.spectrum import spectrum_key
from offcomp.runs.store import RunStore

ASSETS = Path(__file__).parents[1] / "assets"
FIRST = "minilm-l6"
EXAMPLES = ("svd", "autoencoder")


def preset_groups(info: ModelInfo) -> Iterator[tuple[list[ModuleSpec], str]]:
    """Every group that a preset can form from whole kinds, in every stacking that fits."""
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
    """Carry out the example runs of the Start page: query and key, one group per kind, at ratio 3."""
    specs = [spec for spec in info.modules if spec.kind in ("query", "key")]
    for method in map(method_of_style_key, EXAMPLES):
        with TemporaryDirectory() as home:
            store = RunStore(Path(home))
            plan = resolved(Plan(model=FIRST, groups=make_groups(specs, "kind", method=method.name, ratio=3.0)), info)
            run = store.submit(plan, model_info(FIRST, store.home))
            while not run.ended:
                sleep(0.2)
                run = store.get(run.id)
            shutil.copy(run.folder / "run.json", ASSETS / "runs" / f"{FIRST}-{method.style_key}.json")
            print(f"{method.title}: run {run.id} {run.status}")


def write_spectra(info: ModelInfo) -> None:
    """Write assets/spectra."""
    by_key: dict[str, Group] = {}
    for members, stack in preset_groups(info):
        name = f"g{len(by_key)}"
        by_key.setdefault(spectrum_key(members, stack), Group(name=name, modules=tuple(m.name for m in members), stack=stack))
    with TemporaryDirectory() as home:
        spectra = compute(Plan(model=info.model, groups=tuple(by_key.values())), Path(home))
    keyed = {key: spectra[group.name] for key, group in by_key.items()}
    path = ASSETS / "spectra" / f"{info.model}.npz"
    np.savez_compressed(path, allow_pickle=False, fingerprint=np.array(info.fingerprint), **keyed)
    print(f"{path.name}: {len(keyed)} spectra, {path.stat().st_size / 1e3:.0f} kB")


def write_listing(info: ModelInfo) -> None:
    """Write assets/models/NAME.json, one module per line."""
    document = info.to_dict()
    modules = ",\n".join(f"  {json.dumps(module)}" for module in document.pop("modules"))
    head = json.dumps(document, indent=1).removesuffix("\n}")
    (ASSETS / "models" / f"{info.model}.json").write_text(f'{head},\n "modules": [\n{modules}\n ]\n}}\n', encoding="utf-8")


def main() -> None:
    """Write all files of one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=FIRST)
    parser.add_argument("--rekey", action="store_true", help="only convert existing files to the current model identity")
    arguments = parser.parse_args()
    if arguments.rekey:
        rekey()
        return
    info = describe(arguments.model)
    write_listing(info)
    if info.model == FIRST:
        run_examples(info)
    write_spectra(info)


if __name__ == "__main__":
    main()
