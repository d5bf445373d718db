"""Convert bundled files to the current model identity: `python -m benchmarks.rekey`, or `python -m benchmarks.bundle --rekey`.

Files made by earlier versions identify their model by a sample of its weights. If the sample matches the installed model, whose
weights are also checked against the catalogue's checksum, it is replaced by the digest of all bytes; nothing is recomputed.
Files that already use the current identity are not changed, so the command can be run repeatedly. It stops at a file that
belongs to a different model. Run it whenever a file under assets/ was made by an older version.
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
from offcomp.runs.inputs import inputs_of, run_id
from offcomp.runs.result import Inputs

ASSETS = Path(__file__).parents[1] / "assets"
SAMPLE_BYTES = 65536
FORMER_RESULTS = 3
"""The version of results of the runs that were made before inputs were recorded."""
COMPACT = (",", ":")


class OtherModelError(SystemExit):
    """A bundled file was made with different weights, examples or versions than those installed."""


def sampled_fingerprint(folder: Path) -> str:
    """The identity used by earlier versions: a digest of the config and of each weight file's size, header and both ends."""
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
    """A model in the catalogue, and the files that are bundled for it."""

    def __init__(self, entry: CatalogueModel, assets: Path):
        folder = resolve(entry.name).folder
        assert folder is not None  # a catalogue model is in a package or next to the code
        check_checksum(entry, folder)
        self.name, self.assets = entry.name, assets
        self.sampled, self.identity = sampled_fingerprint(folder), identify(folder)

    def mark(self, found: Any, file: Path) -> Identity:
        """The identity that replaces the one found in a file. Raises OtherModelError if that belongs to a different model."""
        if found not in (self.sampled, self.identity.fingerprint):
            raise OtherModelError(f"{file} was made with other weights ({found}) than the installed {self.name}; make it again")
        return self.identity

    def files(self) -> Iterator[Path]:
        """Convert the model's files; yields each file that was changed."""
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
        """The converted listing. Its text is edited in place, to keep its format of one module per line."""
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
        """The converted surveys of groups, one per line."""
        surveys = json.loads(file.read_text(encoding="utf-8"))
        for survey in surveys:
            survey["fingerprint"] = self.mark(survey["fingerprint"], file).fingerprint
        return "[\n{}\n]\n".format(",\n".join(json.dumps(survey, separators=COMPACT) for survey in surveys)).encode()

    def spectra(self, file: Path) -> bytes:
        """The converted singular values by group, in NumPy's format."""
        with np.load(file, allow_pickle=False) as arrays:
            kept = dict(arrays)
        now = self.mark(str(kept["fingerprint"]), file).fingerprint
        if str(kept["fingerprint"]) == now:
            return file.read_bytes()
        content = BytesIO()
        np.savez_compressed(content, allow_pickle=False, **kept | {"fingerprint": np.array(now)})
        return content.getvalue()

    def sweep(self, file: Path) -> bytes:
        """The converted measurements of many plans, which include scores."""
        document = json.loads(file.read_text(encoding="utf-8"))
        now = self.mark(document["fingerprint"], file)
        marks = {"fingerprint": now.fingerprint, "reads": now.reads}
        placed: dict[str, Any] = {}
        for name, value in document.items():
            placed |= marks if name == "fingerprint" else {name: value}
        return f"{json.dumps(placed | marks, separators=COMPACT)}\n".encode()

    def run(self, file: Path) -> bytes:
        """The converted run.json. Its id is derived from its plan and its inputs."""
        document = json.loads(file.read_text(encoding="utf-8"))
        model, plan = document["model"], Plan.from_dict(document["plan"])
        now = self.mark(model["fingerprint"], file)
        if model["fingerprint"] == self.sampled:
            inputs = self._former_inputs(document, plan, file)
            document |= {"inputs": inputs.to_dict(), "id": run_id(plan, inputs)}
        model |= {"fingerprint": now.fingerprint, "reads": now.reads}
        return json.dumps(document, indent=1).encode()

    def _former_inputs(self, document: Mapping[str, Any], plan: Plan, file: Path) -> Inputs:
        """The inputs of a run that was made before inputs were recorded; versions that the run does not record are empty."""
        examples = [[task.version, []] for task in plan.resolved_tasks]
        if document["id"] != former_run_id(plan, self.sampled, examples):
            raise OtherModelError(f"{file} was made by a different results version or on other examples; make it again")
        told = document["environment"]
        known = {name: told.get(name, "") for name in COMPUTING}
        return inputs_of(plan, self.identity.reads).model_copy(update={"environment": known})


def former_run_id(plan: Plan, fingerprint: str, examples: list[Any]) -> str:
    """The id of a run on bundled examples, as computed before inputs were part of it."""
    asked = plan.to_dict() | {"model": fingerprint, "results": FORMER_RESULTS, "examples": examples}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]


def rekey(assets: Path = ASSETS) -> None:
    """Convert every bundled file of every model in the catalogue, and print those that were changed."""
    for entry in MODELS:
        for file in Rekeying(entry, assets).files():
            print(file.relative_to(assets))


if __name__ == "__main__":
    rekey()
