"""Compute the surveys bundled for the page Groups: `python -m benchmarks.group_surveys` writes assets/groups/MODEL.json.

Covers each kind with several matrices in the model, the kinds selected in a new draft, and the usual ratios. Compares the SVD
of every pair, of all matrices together, and of all merges with the SVD of each matrix alone, at the same number of stored
parameters. Results are exact and computed from the weights alone, within seconds.
"""

from __future__ import annotations

import argparse
import json

from offcomp.files import write_bytes
from offcomp.models.bundled_models import MODELS
from offcomp.models.families import KINDS
from offcomp.models.loading import load
from offcomp.planning.grams import Grams
from offcomp.planning.merge_search import survey
from offcomp.planning.merge_survey import BUNDLED

RATIOS = (2.0, 3.0)
CHOICES = (*((kind,) for kind in KINDS), ("query", "key"))


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=MODELS[0].name)
    model = parser.parse_args().model
    loaded = load(model)
    grams = Grams.of_model(loaded.model)
    kinds = [[spec for spec in loaded.info.modules if spec.kind in choice] for choice in CHOICES]
    surveys = [survey(grams, loaded.info, specs, ratio) for specs in kinds if len(specs) > 1 for ratio in RATIOS]
    lines = ",\n".join(json.dumps(each.to_dict(compact=True), separators=(",", ":")) for each in surveys)
    write_bytes(BUNDLED / f"{model}.json", f"[\n{lines}\n]\n".encode())


if __name__ == "__main__":
    main()
