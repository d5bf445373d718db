"""Parse the modules of a sentence-transformers folder that turn hidden states into sentence embeddings. Does not require torch.

`modules.json` lists the Transformer, then Pooling (one mode, or several concatenated), and any Dense and Normalize modules.
`sentence_bert_config.json` limits the number of tokens per text, and `config_sentence_transformers.json` can specify a prompt
to prepend to each text. A folder without `modules.json` defaults to mean pooling, also if the model is a causal language model,
for which sentence-transformers takes the last token since version 6; the task option `pooling` chooses another mode. Unknown
modules and options are rejected with an error that names them, since ignoring them would produce different embeddings.

Format: https://sbert.net/docs/sentence_transformer/usage/custom_models.html; names and defaults are those of version 6.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeGuard

from offcomp.errors import ModelError
from offcomp.models.safetensors_files import WEIGHTS, read_any_json, read_json, stored_tensors

MODULES = "modules.json"
PROMPTS = "config_sentence_transformers.json"
TRANSFORMER_CONFIGS = tuple(
    f"sentence_{name}_config.json" for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""The first of these files that exists is used; current sentence-transformers versions always write the `bert` file."""
PACKAGE = "sentence_transformers."

POOLINGS = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""Pooling modes and their flags before sentence-transformers 5.4. Outputs of several modes are concatenated in this order."""
TITLES = {  # saved with scores and compared between runs, so do not reword them
    "cls": "the first token",
    "max": "the maximum over tokens",
    "mean": "the mean over tokens",
    "mean_sqrt_len_tokens": "the sum over tokens divided by the square root of their number",
    "weightedmean": "the mean over tokens weighted by position",
    "lasttoken": "the last token",
}
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU", "LeakyReLU", "ELU", "Softplus", "Mish")
"""Supported activations of a Dense module: torch.nn classes, created without arguments."""
NO_EFFECT = ("Dropout",)  # in evaluation mode
ON_EMBEDDINGS = dict.fromkeys(("module_input_name", "module_output_name"), "sentence_embedding")
"""Config fields that name the input and output of a module after Pooling, and their only supported value."""


@dataclass(frozen=True)
class Dense:
    """A dense layer: activation(weight x + bias). `file` contains linear.weight (out_features, in_features) and linear.bias.

    Attributes:
        residual: whether to add x to the output (or residual.weight x, if in_features and out_features differ).
    """

    file: Path
    in_features: int
    out_features: int
    bias: bool
    activation: str
    residual: bool

    def __str__(self) -> str:
        return f"a dense layer ({self.in_features} to {self.out_features}, {self.activation})"


@dataclass(frozen=True)
class Normalize:
    """x / ‖x‖₂."""

    def __str__(self) -> str:
        return "normalised"


@dataclass(frozen=True)
class SentenceModules:
    """How to compute a text's embedding from its last hidden states.

    Attributes:
        pooling: pooling modes (keys of `POOLINGS`), in order.
        layers: layers to apply to the pooled vector, in order.
        declared: whether the folder declares its modules, as opposed to using mean pooling by default.
        max_tokens: maximum number of tokens per text, including special tokens; None if the folder sets no limit.
        prompt: prompt to prepend to each text.
        pools_prompt: whether pooling includes the prompt's tokens.
        lower_case: whether to lower-case texts before tokenising them.
    """

    pooling: tuple[str, ...] = ("mean",)
    layers: tuple[Dense | Normalize, ...] = ()
    declared: bool = False
    max_tokens: int | None = None
    prompt: str = ""
    pools_prompt: bool = True
    lower_case: bool = False

    def __str__(self) -> str:
        """A description, such as "the mean over tokens, then normalised"."""
        return ", then ".join([" and ".join(TITLES[mode] for mode in self.pooling), *map(str, self.layers)])

    def prepared(self, text: str) -> str:
        """The text as passed to the tokenizer."""
        prompted = self.prompt + text
        return prompted.lower() if self.lower_case else prompted


def sentence_modules(folder: Path) -> SentenceModules:
    """The modules declared in the folder; mean pooling if there are none.

    Raises:
        ModelError: a file is damaged or requires an unsupported feature; the message names the file.
    """
    if not (folder / MODULES).is_file():
        return SentenceModules()
    entries = _entries(folder / MODULES)
    if not entries or entries[0][0] != "Transformer":
        actual = f"begins with {entries[0][0]}" if entries else "is empty"
        raise ModelError(f"'{folder / MODULES}' must begin with a Transformer, but it {actual}.")
    if PurePosixPath(entries[0][1]).parts:
        raise ModelError(
            f"'{folder / MODULES}' has its Transformer in '{entries[0][1]}', but offcomp reads the model from the top-level "
            "folder; move the Transformer's files there and set its path to '', or remove modules.json."
        )
    modules = [(kind, path) for kind, path in entries[1:] if kind not in NO_EFFECT]
    for index, (kind, path) in enumerate(modules):
        if kind not in (("Dense", "Normalize") if index else ("Pooling",)):
            raise ModelError(
                f"'{folder / MODULES}' has the module {kind} at '{path}', which is not supported there; after the Transformer, "
                "offcomp supports one Pooling module, followed by Dense and Normalize modules."
            )
    if not modules:
        raise ModelError(f"'{folder / MODULES}' lists no Pooling module, which sentence embeddings require; add 1_Pooling.")
    pooling, pools_prompt = _pooling(folder / modules[0][1])
    layers = tuple(_dense(folder / path) if kind == "Dense" else _normalize(folder / path) for kind, path in modules[1:])
    limit, lower_case = _transformer(folder)
    return SentenceModules(pooling, layers, True, limit, _prompt(folder), pools_prompt, lower_case)


def dense_files(folder: Path) -> tuple[str, ...]:
    """Relative paths of the weight files of a folder's Dense modules; empty if modules.json is missing or damaged."""
    try:
        entries = _entries(folder / MODULES) if (folder / MODULES).is_file() else []
    except ModelError:
        return ()  # reported when embeddings are needed
    return tuple((PurePosixPath(path) / WEIGHTS).as_posix() for kind, path in entries if kind == "Dense")


def _entries(file: Path) -> list[tuple[str, str]]:
    """The class name and subfolder of each module, in order. Raises ModelError."""
    document = read_any_json(file)
    if not isinstance(document, list):
        raise ModelError(f"'{file}' does not contain a list of modules; restore it from the original model.")
    return [_entry(file, entry) for entry in document]


def _entry(file: Path, entry: Any) -> tuple[str, str]:
    kind, path = (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(path, str):
        raise ModelError(f"'{file}' contains the entry {str(entry)[:80]!r}; each entry needs a 'type' and a 'path'.")
    if not kind.startswith(PACKAGE):
        raise ModelError(f"'{file}' lists the module '{kind[:80]}', which is custom code; offcomp does not run custom code.")
    if Path(path).is_absolute() or ".." in Path(path).parts or "\0" in path:
        raise ModelError(f"'{file}' lists the folder '{path[:80]}', which is outside the model folder.")
    return kind.rpartition(".")[2], path


def _config(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The config file of a module and its contents, which are empty if the file does not exist."""
    file = folder / "config.json"
    return file, _read_optional(file)


def _read_optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def _pooling(folder: Path) -> tuple[tuple[str, ...], bool]:
    """The pooling modes, and whether pooling includes the prompt's tokens."""
    file, config = _config(folder)
    declared = config.get("pooling_mode")
    if declared is None:
        declared = [mode for mode, flag in POOLINGS.items() if config.get(flag)] or ["mean"]
    modes = [declared] if isinstance(declared, str) else declared
    if not isinstance(modes, list) or not modes:
        raise ModelError(f"'{file}' sets pooling_mode to {declared!r}; it must be one or more of {', '.join(POOLINGS)}.")
    unknown = [mode for mode in modes if not isinstance(mode, str) or mode not in POOLINGS]
    unknown += [key for key in config if key.startswith("pooling_mode_") and key not in POOLINGS.values() and config[key]]
    if unknown:
        raise ModelError(f"'{file}' uses the pooling mode {unknown[0]!r}; supported modes are {', '.join(POOLINGS)}.")
    return tuple(modes), _flag(file, config, "include_prompt", True)


def _flag(file: Path, config: Mapping[str, Any], name: str, default: bool) -> bool:
    value = config.get(name, default)
    if not isinstance(value, bool):
        raise ModelError(f"'{file}' sets {name} to {value!r}; it must be true or false.")
    return value


def _is_positive(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _check_only(file: Path, config: Mapping[str, Any], supported: Mapping[str, str]) -> None:
    """Check that each field in `supported` is absent or has its only supported value. Raises ModelError."""
    for name, value in supported.items():
        if config.get(name) not in (None, value):
            raise ModelError(f"'{file}' sets {name} to {config[name]!r}; only {value!r} is supported.")


def _normalize(folder: Path) -> Normalize:
    _check_only(*_config(folder), ON_EMBEDDINGS)
    return Normalize()


def _dense(folder: Path) -> Dense:
    file, config = _config(folder)
    _check_only(file, config, ON_EMBEDDINGS)
    inputs, outputs = config.get("in_features"), config.get("out_features")
    if not (_is_positive(inputs) and _is_positive(outputs)):
        raise ModelError(
            f"'{file}' must set in_features and out_features to positive integers, not {inputs!r} and {outputs!r}."
        )
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    name = str(activation).rpartition(".")[2]
    if not str(activation).startswith("torch.nn.") or name not in ACTIVATIONS:
        raise ModelError(
            f"'{file}' uses the activation {activation!r}; supported torch.nn activations are {', '.join(ACTIVATIONS)}."
        )
    bias, residual = _flag(file, config, "bias", True), _flag(file, config, "use_residual", False)
    dense = Dense(folder / WEIGHTS, inputs, outputs, bias, name, residual)
    _check_dense(dense)
    return dense


def _check_dense(dense: Dense) -> None:
    """Check that the layer's file matches its config. Raises ModelError."""
    if not dense.file.is_file():
        raise ModelError(
            f"'{dense.file.parent}' has no '{WEIGHTS}', and pickled weights are not supported; copy that file from the "
            "original model or, if it is missing there too, save the model again."
        )
    expected: dict[str, tuple[int, ...]] = {"linear.weight": (dense.out_features, dense.in_features)}
    if dense.bias:
        expected["linear.bias"] = (dense.out_features,)
    if dense.residual and dense.in_features != dense.out_features:
        expected["residual.weight"] = expected["linear.weight"]
    stored = {name: tensor.shape for name, tensor in stored_tensors([dense.file]).items()}
    for name, shape in expected.items():
        if stored.get(name) != shape:
            actual = stored.get(name, "(missing)")
            raise ModelError(f"'{dense.file}' has shape {actual} for {name}, not the required {shape}; copy the model again.")


def _transformer(folder: Path) -> tuple[int | None, bool]:
    """The maximum number of tokens per text, and whether to lower-case texts."""
    file = next((folder / name for name in TRANSFORMER_CONFIGS if (folder / name).is_file()), None)
    if file is None:
        return None, False
    config = read_json(file)
    _check_only(file, config, {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"})
    if set(config.get("modality_config") or {}) - {"text"}:
        raise ModelError(f"'{file}' lists the input types {', '.join(config['modality_config'])}; only text is supported.")
    for name in ("query_length", "document_length", "query_expansion", "processing_kwargs"):
        if config.get(name):
            raise ModelError(f"'{file}' sets {name}, which is not supported; remove it to evaluate the model without it.")
    limit = config.get("max_seq_length")
    if limit is not None and not _is_positive(limit):
        raise ModelError(f"'{file}' sets max_seq_length to {limit!r}; it must be a positive integer.")
    return limit, _flag(file, config, "do_lower_case", False)


def _prompt(folder: Path) -> str:
    """The default prompt."""
    file = folder / PROMPTS
    config = _read_optional(file)
    name, prompts = config.get("default_prompt_name"), config.get("prompts") or {}
    if name is None:
        return ""
    prompt = prompts.get(name) if isinstance(prompts, dict) and isinstance(name, str) else None
    if not isinstance(prompt, str):
        raise ModelError(f"'{file}' sets default_prompt_name to {name!r}, but contains no prompt with that name.")
    return prompt
