"""Memory and time by size of the model: `python -m benchmarks.streaming [--sizes .4,1.3,4] [--wide [MODULES]]`.

Makes random bfloat16 checkpoints with the shapes of a Llama (hidden size 2048), in shards, that differ only in their number of
layers, and runs commands on each of them: `modules`, `predict`, `spectra`, a data-free `run` (SVD to a third) of all key
matrices, one group per matrix, and `task`: the same run scored by the perplexity of 20 random texts. Only the last loads the
model. `--wide` instead runs a checkpoint of four layers of Llama-7B, by default with every matrix to a third by SVD; MODULES,
such as word_embeddings,ffn_in.0, limits the plan to some of them.

"CPU s/GB" is the time of a command beyond that of the same command on a tiny model, its start-up, per GB of the checkpoint.

"peak" is the largest sum of the anonymous memory (RssAnon in /proc/PID/status) of a command's processes, sampled every 50 ms.
Pages of files, which the system can drop at any time, are not part of it. "CPU" is the time that these processes computed.
Checkpoints are made in a temporary folder (`--folder`) and deleted at the end. This benchmark needs Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from offcomp.cli.text import format_table
from offcomp.planning.data.task_fields import own_task
from offcomp.planning.data.tasks import Task
from offcomp.planning.plan import Group, Plan
from offcomp.runs.resident import RESIDENT_VARIABLE

REST = 0.05
SHARD_BYTES = 500_000_000
BYTES = 2
COMMANDS = ("modules", "predict", "spectra", "run", "task")
TEXTS, WORDS = 20, 128
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Shapes:
    """The sizes of a Llama with tied word embeddings."""

    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    vocabulary: int = 32_000

    def layer(self) -> dict[str, tuple[int, ...]]:
        """The tensors of one layer, by the end of their names."""
        kv = self.hidden // self.heads * self.kv_heads
        return {
            "self_attn.q_proj.weight": (self.hidden, self.hidden),
            "self_attn.k_proj.weight": (kv, self.hidden),
            "self_attn.v_proj.weight": (kv, self.hidden),
            "self_attn.o_proj.weight": (self.hidden, self.hidden),
            "mlp.gate_proj.weight": (self.ffn, self.hidden),
            "mlp.up_proj.weight": (self.ffn, self.hidden),
            "mlp.down_proj.weight": (self.hidden, self.ffn),
            "input_layernorm.weight": (self.hidden,),
            "post_attention_layernorm.weight": (self.hidden,),
        }

    def tensors(self, layers: int) -> dict[str, tuple[int, ...]]:
        """All tensors of a model, by name."""
        named = {"model.embed_tokens.weight": (self.vocabulary, self.hidden), "model.norm.weight": (self.hidden,)}
        return named | {f"model.layers.{n}.{end}": shape for n in range(layers) for end, shape in self.layer().items()}

    def num_bytes(self, layers: int) -> int:
        """Size of all tensors in bytes."""
        return BYTES * sum(int(np.prod(shape)) for shape in self.tensors(layers).values())

    def layers_for(self, num_bytes: float) -> int:
        """The number of layers with which a model has about this size."""
        return max(1, round((num_bytes - self.num_bytes(0)) / (self.num_bytes(1) - self.num_bytes(0))))


TINY = Shapes(hidden=64, ffn=64, heads=4, kv_heads=4)
NARROW = Shapes(hidden=2048, ffn=5632, heads=32, kv_heads=8)
WIDE = Shapes(hidden=4096, ffn=11008, heads=32, kv_heads=32)
WIDE_LAYERS = 4


def make_checkpoint(folder: Path, shapes: Shapes, layers: int) -> None:
    """Write a model with random weights, in shards, and a tokenizer of words. Equal shapes have equal weights."""
    folder.mkdir()
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": shapes.hidden,
        "intermediate_size": shapes.ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": shapes.heads,
        "num_key_value_heads": shapes.kv_heads,
        "vocab_size": shapes.vocabulary,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    words = {f"w{number}": number for number in range(shapes.vocabulary)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))  # noqa: S106
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "w0", "pad_token": "w0"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    weight_map: dict[str, str] = {}
    shards = list(in_shards(shapes.tensors(layers)))
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_shard(folder / name, shard)
        weight_map |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": shapes.num_bytes(layers)}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def in_shards(tensors: dict[str, tuple[int, ...]]) -> Iterator[dict[str, tuple[int, ...]]]:
    """Divide tensors into shards of about `SHARD_BYTES`."""
    shard: dict[str, tuple[int, ...]] = {}
    size = 0
    for name, shape in tensors.items():
        shard[name] = shape
        size += BYTES * int(np.prod(shape))
        if size >= SHARD_BYTES:
            yield shard
            shard, size = {}, 0
    if shard:
        yield shard


@lru_cache(maxsize=4)
def random_values(size: int) -> bytes:
    """Random bfloat16 numbers between 1/128 and 1/32, of either sign."""
    bits = np.frombuffer(np.random.default_rng(size).bytes(BYTES * size), np.uint16)
    return ((bits & 0x80FF) | 0x3C00).tobytes()  # the sign, the mantissa and the last bit of the exponent


def write_shard(file: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    """Write random tensors, one at a time."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in tensors.items():
        end = start + BYTES * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for shape in tensors.values():
            stream.write(random_values(int(np.prod(shape))))


def anonymous_bytes(pid: int) -> int:
    """The anonymous memory of a process in bytes; 0 if it has ended."""
    try:
        found = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def cpu_seconds(pid: int) -> float:
    """The time that a process has computed so far; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


def measured(command: Sequence[str], home: Path) -> dict[str, Any]:
    """Run a command of offcomp. Returns its peak memory and times."""
    environment = os.environ | {"OFFCOMP_HOME": str(home), RESIDENT_VARIABLE: "0"}
    began, peak = time.perf_counter(), 0
    cpu: dict[int, float] = {}
    process = subprocess.Popen(
        [sys.executable, "-m", "offcomp.cli", *command, "--json"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        try:
            pids = [process.pid, *(child.pid for child in watched.children(recursive=True))]
        except psutil.Error:
            break
        peak = max(peak, sum(map(anonymous_bytes, pids)))
        cpu |= {pid: max(cpu_seconds(pid), cpu.get(pid, 0.0)) for pid in pids}
        time.sleep(REST)
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"offcomp {' '.join(command)} failed: {said.decode()}")
    return {"peak MB": peak / 1e6, "CPU s": sum(cpu.values()), "s": time.perf_counter() - began}


def write_plan(file: Path, model: Path, names: Sequence[str], tasks: tuple[Task, ...] = ()) -> None:
    """Write a plan that compresses each of these modules alone, to a third by SVD."""
    groups = tuple(Group(name=name, modules=(name,), ratio=3.0) for name in names)
    file.write_text(Plan(model=str(model), groups=groups, tasks=tasks).to_json())


def perplexity(file: Path) -> Task:
    """Write random texts to a file. Returns the task that scores a model on them."""
    numbers = np.random.default_rng(1).integers(NARROW.vocabulary, size=(TEXTS, WORDS))
    file.write_text("\n".join(["text", *(" ".join(f"w{number}" for number in text) for text in numbers)]))
    return own_task(str(file), "causal-lm", {"text": "text"})


def command_on(name: str, shapes: Shapes, layers: int, folder: Path) -> dict[str, Any]:
    """Measure one of COMMANDS on a checkpoint, which is made in this folder unless it is there."""
    model, plan = folder / "model", folder / f"{name}.json"
    if not model.exists():
        make_checkpoint(model, shapes, layers)
    tasks = (perplexity(folder / "texts.csv"),) if name == "task" else ()
    write_plan(plan, model, [f"key.{layer}" for layer in range(layers)], tasks)
    argument = model if name == "modules" else plan
    return measured(["run" if name == "task" else name, str(argument)], folder / f"home-{name}")


@cache
def start_up(name: str) -> float:
    """The CPU seconds of a command on a tiny model."""
    with TemporaryDirectory() as folder:
        return float(command_on(name, TINY, 1, Path(folder))["CPU s"])


def commands_on(names: Sequence[str], layers: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Measure commands on one of the narrow checkpoints."""
    size = NARROW.num_bytes(layers) / 1e9
    for name in names:
        row = command_on(name, NARROW, layers, folder)
        slope = {"CPU s/GB": (row["CPU s"] - start_up(name)) / size}
        yield {"GB": size, "layers": layers, "command": name} | row | slope


def wide_run(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Measure a run on four layers of Llama-7B; without names, all matrices are compressed."""
    model, plan = folder / "wide", folder / "plan.json"
    make_checkpoint(model, WIDE, WIDE_LAYERS)
    kinds = ("query", "key", "value", "attention_output", "ffn_gate", "ffn_in", "ffn_out")
    every = ["word_embeddings", *(f"{kind}.{layer}" for layer in range(WIDE_LAYERS) for kind in kinds)]
    chosen = names or every
    write_plan(plan, model, chosen)
    size = {"GB": WIDE.num_bytes(WIDE_LAYERS) / 1e9, "matrices": f"{len(chosen)} of {len(every)}"}
    return size | measured(["run", str(plan)], folder / "home")


def main() -> None:
    """Print the table."""
    flags = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    flags.add_argument("--sizes", default=".4,1.3,4", help="sizes of the checkpoints in GB")
    flags.add_argument("--commands", default=",".join(COMMANDS), help="commands to run on them")
    flags.add_argument("--wide", nargs="?", const="", metavar="MODULES", help="run four layers of Llama-7B instead")
    flags.add_argument("--folder", help="where the checkpoints are made")
    asked = flags.parse_args()
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory(dir=asked.folder) as temporary:
        if asked.wide is not None:
            rows.append(wide_run(Path(temporary), asked.wide.split(",") if asked.wide else []))
        for size in map(float, asked.sizes.split(",") if asked.wide is None else ()):
            layers = NARROW.layers_for(size * 1e9)
            with TemporaryDirectory(dir=temporary) as folder:
                for row in commands_on(asked.commands.split(","), layers, Path(folder)):
                    rows.append(row)
                    print(f"{row['GB']:.2f} GB {row['command']}: {row['peak MB']:.0f} MB", file=sys.stderr)
    print(format_table(rows))


if __name__ == "__main__":
    main()
