"""Recognise the kinds of the matrices in one layer by their shapes and, as hints, by the words in their paths."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from offcomp.models.patterns import QKV
from offcomp.models.pieces import StoredWeight
from offcomp.models.places import EXPERT_LIST

WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
READERS = {
    **dict.fromkeys(("q", "query", "queries", "wq"), "query"),
    **dict.fromkeys(("k", "key", "keys", "wk"), "key"),
    **dict.fromkeys(("v", "value", "values", "wv"), "value"),
}
FUSED_WORD = re.compile(r"w?qkv\w*|kv")
ATTENTION_WORD = re.compile(r".*(?:att|mha).*")
WITHOUT_MEANING = re.compile(r"\.(?:linear|dense|lin|fc)$")
"""The end of a path that says nothing, so that the name before it counts."""
STATE_SPACE_WORDS = {"mamba", "ssm", "mixer", "recurrent", "temporal", "conv"}
OUT_WORDS = {"o", "out", "output", "wo", "down", "w2", "fc2", "proj"}
GATE_WORDS = {"gate", "gated", "wg", "w1"}
SIDE_WORDS = {"pos", "position", "positional", "relative", "rel", "r", "norm", "lora"}
"""Words of matrices beside the main ones, such as projections of relative positions."""


def words_of(path: str) -> list[str]:
    """The words in a path, in lower case: `SelfAttention.q_proj` has self, attention, q and proj."""
    return [word.lower() for name in re.split(r"[._]", path) for word in ([name] if name.islower() else WORD.findall(name))]


@dataclass
class Matrix:
    """A weight in a layer. `is_double` is set once it turns out to hold the gate and the input of a feed-forward layer."""

    path: str
    rows: int
    cols: int
    experts: int
    expert: int | None
    is_linear: bool
    is_double: bool = False

    @classmethod
    def of(cls, weight: StoredWeight, rest: str) -> Matrix:
        shape = weight.shape[1:] if weight.experts else weight.shape
        rows, cols = (shape[-1], shape[0]) if weight.transposed else (shape[0], shape[-1])
        numbered = EXPERT_LIST.search(rest)
        return cls(rest, rows, cols, weight.experts, int(numbered[1]) if numbered else None, not weight.is_bare)

    @property
    def is_expert(self) -> bool:
        return bool(self.experts) or self.expert is not None

    @property
    def is_attention(self) -> bool:
        return any(map(ATTENTION_WORD.fullmatch, self.words))

    @property
    def words(self) -> set[str]:
        return set(words_of(self.path))

    @property
    def name(self) -> str:
        """The last name in the path that says something."""
        return WITHOUT_MEANING.sub("", self.path).rpartition(".")[2]

    @property
    def leaf(self) -> set[str]:
        return set(words_of(self.name))

    @property
    def scope(self) -> str:
        return WITHOUT_MEANING.sub("", self.path).rpartition(".")[0]

    @property
    def attention(self) -> str:
        """The path of the attention that the matrix belongs to; empty if no name in its path says so."""
        names = self.path.split(".")
        ends = [end for end, name in enumerate(names, 1) if any(map(ATTENTION_WORD.fullmatch, words_of(name)))]
        return ".".join(names[: ends[0]]) if ends else ""


class Layer:
    """The matrices of one layer, by number, the width of the residual stream, and whether any layer's paths name attention."""

    def __init__(self, matrices: Mapping[int, Matrix], width: int, names_attention: bool) -> None:
        self.matrices, self.width, self.names_attention = matrices, width, names_attention

    def kinds(self) -> dict[int, tuple[str, str]]:
        """The kind and part of each matrix."""
        kinds = dict.fromkeys(self.matrices, ("other", ""))
        attention = [index for index in self._attention() if "router" not in self.matrices[index].words]
        groups: dict[tuple[bool, str], list[int]] = defaultdict(list)
        for index in attention:
            groups[self._is_cross(index), self.matrices[index].attention].append(index)
        for (is_cross, _), members in groups.items():
            kinds |= {index: (kind, "cross" if is_cross else "") for index, kind in self._attention_kinds(members)}
        rest = [index for index in self.matrices if index not in attention]
        routers = {index: ("router", self._shared(index)) for index in rest if self._is_router(index)}
        for members in self._scopes(index for index in rest if index not in routers):
            kinds |= dict(self._feed_forward_kinds(members))
        return kinds | routers

    def _attention(self) -> list[int]:
        """The matrices of attention: those with such a name, else those beside a query, key and value.

        Failing that, those that fit no feed-forward layer.
        """
        named = [index for index, matrix in self.matrices.items() if matrix.is_attention]
        if named:
            return named
        scopes: dict[str, set[str]] = defaultdict(set)
        for matrix in self.matrices.values():
            fused = QKV if any(map(FUSED_WORD.fullmatch, matrix.leaf)) else ()
            scopes[matrix.scope] |= _roles(matrix) | set(fused)
        if any(len(roles) == len(QKV) for roles in scopes.values()):
            inner = self._inner_of_feed_forward()
            beside = [index for index, matrix in self.matrices.items() if len(scopes[matrix.scope]) == len(QKV)]
            return [index for index in beside if self.matrices[index].scope or inner not in self._sides(index)]
        if self.names_attention or any(matrix.is_expert for matrix in self.matrices.values()):
            return []
        inner = self._inner_of_feed_forward()
        rest = [
            index
            for index, matrix in self.matrices.items()
            if matrix.is_linear and inner not in self._sides(index) and not STATE_SPACE_WORDS & matrix.words
        ]
        return (
            rest if len(rest) > (1 if inner else 3) and any(self.matrices[index].rows == self.width for index in rest) else []
        )

    def _sides(self, index: int) -> tuple[int, int]:
        return self.matrices[index].rows, self.matrices[index].cols

    def _inner_of_feed_forward(self) -> int:
        """The width inside the feed-forward layer: of the widest writer with exactly one or two readers; 0 if there is none."""
        reads = Counter(matrix.rows for matrix in self.matrices.values() if matrix.cols == self.width)
        widths = [m.cols for m in self.matrices.values() if m.rows == self.width and 0 < reads[m.cols] + reads[2 * m.cols] < 3]
        return max(widths, default=0)

    def _is_cross(self, index: int) -> bool:
        words = words_of(self.matrices[index].path)
        joined = " ".join(words)
        return "cross" in joined or "encoder" in words or {"enc", "dec"} <= set(words)

    def _attention_kinds(self, members: Sequence[int]) -> Iterator[tuple[int, str]]:
        """The kinds of matrices of one attention."""
        unnamed = []
        members = [index for index in members if not SIDE_WORDS & self.matrices[index].leaf]
        for index in members:
            matrix = self.matrices[index]
            leaf = words_of(matrix.name) or [matrix.path]
            roles = {READERS[word] for word in leaf if word in READERS}
            if any(map(FUSED_WORD.fullmatch, leaf)) or len(roles) > 1:
                yield index, self._fused_kind(members, matrix, leaf)
            elif roles:
                role = roles.pop()
                yield index, self._latent_kind(members, index, role) if role == "query" else role
            else:
                unnamed.append(index)
        yield from self._unnamed_kinds(unnamed, len(members))

    def _fused_kind(self, members: Sequence[int], matrix: Matrix, leaf: Sequence[str]) -> str:
        """The kind of a matrix that makes keys and values, and perhaps queries, in one step or in two."""
        is_whole = any(map(FUSED_WORD.fullmatch, leaf)) and "kv" not in leaf
        if matrix.cols != self.width and not is_whole:
            return "kv_up"
        others = [self.matrices[other] for other in members]
        in_steps = any("kv" in other.leaf and other.cols != self.width for other in others)
        return "kv_down" if "kv" in leaf and in_steps else "qkv"

    def _latent_kind(self, members: Sequence[int], index: int, role: str) -> str:
        """`query_down` or `query_up` if the queries are made in two steps, otherwise `query`."""
        matrix = self.matrices[index]
        queries = [self.matrices[other] for other in members if READERS.keys() & self.matrices[other].leaf]
        if matrix.cols != self.width and any(other.rows == matrix.cols and "query" in _roles(other) for other in queries):
            return "query_up"
        is_down = any(other.cols == matrix.rows != self.width and "query" in _roles(other) for other in queries)
        return "query_down" if is_down and matrix.cols == self.width else role

    def _unnamed_kinds(self, unnamed: Sequence[int], size: int) -> Iterator[tuple[int, str]]:
        """The kinds of those matrices of an attention, of `size` in all, whose names do not say query, key or value."""
        ends = [index for index in unnamed if not GATE_WORDS & self.matrices[index].leaf]
        writers = [index for index in ends if self.matrices[index].rows == self.width]
        named_out = [index for index in writers or ends if OUT_WORDS & self.matrices[index].leaf]
        chosen = (named_out or writers)[-1:] if size > 1 else []
        yield from ((index, "attention_output") for index in chosen)
        rest = [index for index in unnamed if index not in chosen and self.matrices[index].cols == self.width]
        if len(rest) == 3 and size == 4:
            yield from zip(rest, ("query", "key", "value"), strict=True)
        elif len(rest) == 1 and size == len(unnamed):
            yield rest[0], "qkv"

    def _shared(self, index: int) -> str:
        return "shared" if "shared" in self.matrices[index].words else ""

    def _scopes(self, members: Iterable[int]) -> list[list[int]]:
        """Feed-forward layers: experts, shared experts, modules with a reader and a writer, and all others together."""
        scopes: dict[tuple[bool, str], list[int]] = defaultdict(list)
        members = list(members)
        for index in members:
            matrix = self.matrices[index]
            alike = [other for other in members if self.matrices[other].scope == matrix.scope and not matrix.is_expert]
            is_whole = any(self.width == self.matrices[a].cols for a in alike) and any(
                self.width == self.matrices[a].rows for a in alike
            )
            scopes[matrix.is_expert, matrix.scope if is_whole else self._shared(index)].append(index)
        return list(scopes.values())

    def _feed_forward_kinds(self, members: Sequence[int]) -> Iterator[tuple[int, tuple[str, str]]]:
        """The kinds of matrices of one feed-forward layer, or of a state-space layer, and `shared` for a shared expert."""
        is_expert = any(self.matrices[index].is_expert for index in members)
        part = "" if is_expert else next(map(self._shared, members), "")
        writers = [index for index in members if self._writes(index)]
        inner = Counter(self.matrices[index].cols for index in writers)
        readers = [index for index in members if index not in writers and self._reads(index, inner)]
        if self._is_state_space(members, readers, writers):
            yield from self._state_space_kinds(members, writers, inner)
            return
        stem = "expert" if is_expert else "ffn"
        yield from ((index, (f"{stem}_out", part)) for index in writers if readers)
        gates = self._gates(readers)
        yield from ((index, (f"{stem}_{'gate' if index in gates else 'in'}", part)) for index in readers)

    def _state_space_kinds(
        self, members: Sequence[int], writers: Sequence[int], inner: Mapping[int, int]
    ) -> Iterator[tuple[int, tuple[str, str]]]:
        """The kinds of the matrices of a state-space layer: what enters, leaves, and makes its parameters and step."""
        for index in members:
            matrix = self.matrices[index]
            if not matrix.is_linear:
                continue
            if index in writers:
                yield index, ("ssm_out", "")
            elif matrix.cols == self.width and matrix.rows >= self.width:
                yield index, ("ssm_in", "")
            elif matrix.cols in inner or matrix.rows in inner:
                yield index, ("ssm_x" if matrix.cols in inner else "ssm_dt", "")

    def _writes(self, index: int) -> bool:
        matrix = self.matrices[index]
        return (
            (matrix.is_linear or matrix.is_expert)
            and matrix.rows == self.width
            and (matrix.cols != self.width or bool(OUT_WORDS & matrix.leaf))
        )

    def _reads(self, index: int, inner: Mapping[int, int]) -> bool:
        matrix = self.matrices[index]
        matrix.is_double = matrix.rows not in inner and matrix.rows % 2 == 0 and matrix.rows // 2 in inner
        return matrix.cols == self.width and (matrix.rows in inner or matrix.is_double)

    def _is_state_space(self, members: Sequence[int], readers: Sequence[int], writers: Sequence[int]) -> bool:
        """Whether these are matrices of a state-space layer, as in Mamba: words say so, or no reader fits the writer."""
        matrices = [self.matrices[index] for index in members]
        entries = [
            self.matrices[index] for index in members if index not in writers and self.matrices[index].cols == self.width
        ]
        if not writers or not entries or any(matrix.is_expert for matrix in matrices):
            return False
        words = STATE_SPACE_WORDS & {word for matrix in matrices for word in words_of(matrix.scope)}
        is_plain = bool(readers) and not any(self.matrices[index].is_double for index in readers)
        if words and not (words == {"mixer"} and is_plain):
            return True
        return not readers and not self.names_attention and any(m.cols == self.width < m.rows for m in matrices)

    def _gates(self, readers: Sequence[int]) -> set[int]:
        """The readers of a gated layer that go through the activation function; of each pair, one."""
        pairs: dict[tuple[str, int | None], list[int]] = defaultdict(list)
        for index in readers:
            pairs[self.matrices[index].scope, self.matrices[index].expert].append(index)
        named = {index for index in readers if GATE_WORDS & self.matrices[index].leaf and not self.matrices[index].is_double}
        return named or {pair[0] for pair in pairs.values() if len(pair) == 2}

    def _is_router(self, index: int) -> bool:
        """Whether a matrix chooses among experts: it has one row for each, or is called router or gate beside experts."""
        matrix = self.matrices[index]
        stacked = {other.experts for other in self.matrices.values() if other.experts}
        listed = {other.expert for other in self.matrices.values() if other.expert is not None}
        if matrix.is_expert or matrix.cols != self.width or not (stacked or listed):
            return False
        is_named = "router" in matrix.words or (matrix.leaf and matrix.leaf <= {"gate", "shared", "expert"})
        return matrix.rows in (stacked | {len(listed)}) or bool(is_named)


def _roles(matrix: Matrix) -> set[str]:
    return {READERS[word] for word in matrix.leaf if word in READERS}
