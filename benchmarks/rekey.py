"""Give what is bundled the identity of today's kind: `python -m benchmarks.rekey`, or `python -m benchmarks.bundle --rekey`.

Files of former versions name their model by a sample of its weights. Where that is the sample of the model that is here, whose
weights have the checksum of the catalogue besides, the digest of all bytes takes its place; nothing is computed again. A file
that has today's kind already is left as it is, so the command may be run any number of times. It stops at a file of another
model. Run it after anything under assets/ was made by an older version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from offcomp.models.bundled_models import MODELS, CatalogueModel
from offcomp.models.environment import COMPUTING
from offcomp.models.identity import CONFIG, Identity, identify
from offcomp.models.safetensors_files import read_header, weight_files
from offcomp.models.sources import check_checksum, resolve
from offcomp.planning.plan import Plan
from offcomp.runs.inputs import RESULTS_VERSION, inputs_of, run_id

ASSETS = Path(__file__).parents[1] / "assets"
SAMPLE_BYTES = 65536
COMPACT = (",", ":")


class OtherModelError(SystemExit):
    """A bundled file belongs to a model that is not here, or not to what it says."""


def sampled_fingerprint(folder: Path) -> str:
    """What former versions took for the identity of a model: config, and of each weight file size, header and both ends."""
    digest = hashlib.sha256((folder / CONFIG).read_bytes())
    for file in weight_files(folder):
        size = file.stat().st_size
        digest.update(f"{file.name}\n{size}\n".encode())
        digest.update(read_header(file))
        with file.open("rb") as stream:
            digest.update(hashlib.sha256(stream.read(SAMPLE_BYTES)).digest())
            stream.seek(max(0, size - SAMPLE_BYTES))
            digest.update(hashlib.sha256(stream.read(SAMPLE_BYTES)).digest())
    return digest.hexdigest()


class Rekeying:
    """One model of the catalogue and the files that are bundled for it."""

    def __init__(self, entry: CatalogueModel, assets: Path):
        folder = resolve(entry.name).folder
        assert folder is not None  # a model of the catalogue lies in a package, or beside the code
        check_checksum(entry, folder)
        self.name, self.assets = entry.name, assets
        self.sampled, self.identity = sampled_fingerprint(folder), identify(folder)

    def mark(self, found: Any, file: Path) -> Identity:
        """The identity that takes the place of a mark. Raises OtherModelError where that is of another model."""
        if found not in (self.sampled, self.identity.fingerprint):
            raise OtherModelError(f"{file} is of other weights than the {self.name} that is here ({found}); make it anew")
        return self.identity

    def files(self) -> Iterator[Path]:
        """Every file that was changed."""
        listing = self.assets / "models" / f"{self.name}.json"
        changed = {
            listing: self.listing,
            self.assets / "groups" / f"{self.name}.json": self.surveys,
            self.assets / "spectra" / f"{self.name}.npz": self.spectra,
            self.assets / "runs" / f"{self.name}-sweep.json": self.sweep,
            self.assets / "runs" / f"{self.name}-svd.json": self.run,
            self.assets / "runs" / f"{self.name}-autoencoder.json": self.run,
        }
        for file, rekey in changed.items():
            if file.is_file():
                before = file.read_bytes()
                after = rekey(file)
                if after != before:
                    file.write_bytes(after)
                    yield file

    def listing(self, file: Path) -> bytes:
        """A listing has a module a line, so its text is changed and not written anew."""
        text = file.read_text(encoding="utf-8")
        found = json.loads(text)["fingerprint"]
        now = self.mark(found, file)
        fields = f'"fingerprint": "{now.fingerprint}"'
        reads = f',\n "reads": "{now.reads}"'
        text = text.replace(f'"fingerprint": "{found}"', fields)
        if "reads" not in json.loads(text):
            text = text.replace(fields, fields + reads)
        return text.encode()

    def surveys(self, file: Path) -> bytes:
        """Surveys of groups, one a line."""
        surveys = json.loads(file.read_text(encoding="utf-8"))
        for survey in surveys:
            survey["fingerprint"] = self.mark(survey["fingerprint"], file).fingerprint
        return "[\n{}\n]\n".format(",\n".join(json.dumps(survey, separators=COMPACT) for survey in surveys)).encode()

    def spectra(self, file: Path) -> bytes:
        """Singular values by group, as numpy writes them."""
        with np.load(file, allow_pickle=False) as arrays:
            kept = dict(arrays)
        now = self.mark(str(kept["fingerprint"]), file).fingerprint
        if str(kept["fingerprint"]) == now:
            return file.read_bytes()
        content = BytesIO()
        np.savez_compressed(content, allow_pickle=False, **kept | {"fingerprint": np.array(now)})
        return content.getvalue()

    def sweep(self, file: Path) -> bytes:
        """Measurements of many plans, which have scores too."""
        document = json.loads(file.read_text(encoding="utf-8"))
        now = self.mark(document["fingerprint"], file)
        marks = {"fingerprint": now.fingerprint, "reads": now.reads}
        placed: dict[str, Any] = {}
        for name, value in document.items():
            placed |= marks if name == "fingerprint" else {name: value}
        return f"{json.dumps(placed | marks, separators=COMPACT)}\n".encode()

    def run(self, file: Path) -> bytes:
        """A run.json, whose id follows from its plan and its inputs."""
        document = json.loads(file.read_text(encoding="utf-8"))
        model, plan = document["model"], Plan.from_dict(document["plan"])
        now = self.mark(model["fingerprint"], file)
        if model["fingerprint"] == self.sampled:
            document["inputs"] = self._former_inputs(document, plan, file)
            document["id"] = run_id(plan, document["inputs"])
        model |= {"fingerprint": now.fingerprint, "reads": now.reads}
        return json.dumps(document, indent=1).encode()

    def _former_inputs(self, document: Mapping[str, Any], plan: Plan, file: Path) -> dict[str, Any]:
        """The inputs of a run that was made before they were written down; versions that it does not tell are empty."""
        examples = [[task.version, []] for task in plan.resolved_tasks]
        if document["id"] != former_run_id(plan, self.sampled, examples):
            raise OtherModelError(f"{file} was made by another version of the results or on other examples; make it anew")
        told = document["environment"]
        return inputs_of(plan, self.identity.reads) | {"environment": {name: told.get(name, "") for name in COMPUTING}}


def former_run_id(plan: Plan, fingerprint: str, examples: list[Any]) -> str:
    """The name of a run on bundled examples before its inputs had one."""
    asked = plan.to_dict() | {"model": fingerprint, "results": RESULTS_VERSION, "examples": examples}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]


def rekey(assets: Path = ASSETS) -> None:
    """Look at every bundled file of every model of the catalogue, and name those that were changed."""
    for entry in MODELS:
        for file in Rekeying(entry, assets).files():
            print(file.relative_to(assets))


if __name__ == "__main__":
    rekey()
