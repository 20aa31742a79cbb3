"""What reading an exported graph found: recognised, folded, unknown, and how much is understood."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sympy import Add, Expr, Integer

from costgraph.counting.count import Row, rows
from costgraph.errors import InputError, ModelError, clip
from costgraph.ir.program import Phase, Program
from costgraph.models.traced.answering import answering
from costgraph.models.traced.formats import Dimensions
from costgraph.models.traced.lowering import Dialect
from costgraph.models.traced.program import read
from costgraph.models.traced.record import Branch, Call, Traced
from costgraph.ops.arrays import Move
from costgraph.ops.attention import AttentionScores, AttentionValues, KVAppend, ScoreCap, Softmax
from costgraph.ops.bias import ScoreBias
from costgraph.ops.elementwise import Activation, LayerNorm, Multiply, RMSNorm, Rope
from costgraph.ops.maps import Cumulate, Map, Reduce, SoftmaxOver, TopK
from costgraph.ops.matmul import GroupedMatMul, MatMul
from costgraph.ops.rotary import RotaryPair
from costgraph.rewriting.pipeline import Miss
from costgraph.symbols import symbol

#: The size at which shares are given where nothing else is said; a batch is one.
USUAL = 128
#: Operations that stand for an exporter's operators one by one: exact, and no pattern.
PLAIN = (Map, Reduce, SoftmaxOver, Cumulate, TopK, MatMul, GroupedMatMul, Move)
AS_WRITTEN = "as the exporter wrote it"
#: What kinds of operations are parts of, by their classes.
PARTS: Mapping[str, tuple[type, ...]] = MappingProxyType(
    {
        "attention": (AttentionScores, Softmax, AttentionValues, ScoreBias, ScoreCap),
        "caches": (KVAppend,),
        "norms": (RMSNorm, LayerNorm),
        "rotary embedding": (Rope, RotaryPair),
        "activations": (Activation,),
    }
)


@dataclass(frozen=True)
class Part:
    """Operations of one kind.

    Attributes:
        name: attention, norms, … or the kind of operation.
        operations: how many run in one step, repeated layers included.
        flop: of one step at the account's sizes.
        understood: they are operations of models, which passes know.
    """

    name: str
    operations: int
    flop: int
    understood: bool


@dataclass(frozen=True)
class Account:
    """What reading a file found.

    Attributes:
        name, dialect: the model, and whose operators the file holds.
        calls: operators in the file.
        constants: of them those that gave nothing but known numbers: shapes, scales, indices.
        unknown: operators without a cost rule and how often they stand there; nothing is
            counted then.
        dims: dynamic dimensions by the file's names, and what they became.
        program: the program; None where operators are unknown.
        patterns: what of a model was recognised, and how often it stands in one step.
        rules: rules that recognised what was written out, and how often.
        layers: runs of layers that were folded: name and count.
        missed: patterns that were nearly there, why not, and how often.
        parts: what the operations of one step are, the most FLOP first.
        at: the sizes of that step.
    """

    name: str
    dialect: str
    calls: int
    constants: int
    unknown: tuple[tuple[str, int], ...]
    dims: tuple[tuple[str, Expr], ...]
    program: Program | None = None
    patterns: tuple[tuple[str, int], ...] = ()
    rules: tuple[tuple[str, int], ...] = ()
    layers: tuple[str, ...] = ()
    missed: tuple[tuple[str, int], ...] = ()
    parts: tuple[Part, ...] = ()
    at: tuple[tuple[str, int], ...] = ()

    @property
    def flop(self) -> int:
        """FLOP of one step."""
        return sum(p.flop for p in self.parts)

    @property
    def understood(self) -> float | None:
        """The share of FLOP in operations that passes know; None where nothing is counted."""
        if self.program is None or not self.flop:
            return None
        return sum(p.flop for p in self.parts if p.understood) / self.flop


def account(
    path: str | os.PathLike[str],
    dims: Mapping[str, Any] | None = None,
    *,
    mask: str = "skip",
    decoder: str | None = None,
    at: Mapping[str, Any] | None = None,
) -> Account:
    """Reads an ``.onnx`` or ``.pt2`` file and says what became of it.

    Args:
        path: the file; nothing in it is run.
        dims, mask: as for :func:`costgraph.models.load_model`.
        decoder: files of the decoder, as for :func:`costgraph.models.onnx_graph.from_onnx`.
        at: sizes at which shares are given, by symbol (B=1, all others 128, or what limits
            leave of that).

    Raises:
        ModelError: the file cannot be read. Operators without a rule are no error here.
        InputError: a size is none of the graph's.
    """
    known = Dimensions(dims)
    (traced, *decoders), dialect = _traced(Path(os.fsdecode(path)), known, decoder)
    calls = [call for graph in (traced, *decoders) for call in _calls(graph.calls)]
    unknown = Counter(c.target for c in calls if c.target not in dialect.rules)
    listed = tuple(sorted(unknown.items(), key=lambda i: (-i[1], i[0])))
    bound = tuple(known.used.items())
    if unknown:
        return Account(traced.name, traced.dialect, len(calls), 0, listed, bound)
    found = answering(traced, decoders, dialect, mask) if decoders else read(traced, dialect, mask)
    parts, sizes = _parts(found.program, at or {})
    folds = tuple(h.removeprefix("fold: ") for h in found.hits if h.startswith("fold: "))
    rules = Counter(h.partition(":")[0] for h in found.hits if not h.startswith("fold: "))
    return Account(
        traced.name,
        traced.dialect,
        len(calls),
        found.constants,
        (),
        bound,
        found.program,
        _patterns(found.program, dict(sizes)),
        tuple(rules.most_common()),
        folds,
        _reasons(found.misses),
        parts,
        sizes,
    )


def _traced(path: Path, dims: Dimensions, decoder: str | None) -> tuple[list[Traced], Dialect]:
    """The graphs of the files, the encoder's first where there are several."""
    kind = path.suffix.lower()
    if kind == ".onnx":
        from costgraph.models.onnx_graph import read_files, read_onnx
        from costgraph.models.traced.onnx_layers import DIALECT

        if decoder is not None:
            return list(read_files(path, decoder, dims)), DIALECT
        return [read_onnx(path, dims)], DIALECT
    if decoder is not None:
        raise ModelError("an encoder and its decoder are read from .onnx files")
    if kind == ".pt2":
        from costgraph.models.pt2_file import read_pt2
        from costgraph.models.traced.aten import DIALECT as ATEN

        return [read_pt2(path, dims)], ATEN
    raise ModelError(f"{clip(str(path), 200)}: an exported graph is an .onnx or a .pt2 file")


def _calls(calls: tuple[Call, ...]) -> Iterator[Call]:
    """Calls, and those of graphs inside them."""
    for call in calls:
        yield call
        for item in call.attributes.values():
            if isinstance(item, Branch):
                yield from _calls(item.calls)


def _steps(program: Program) -> Iterator[Phase]:
    """A phase for each graph of a program; one that runs it once where there is one."""
    done: set[int] = set()
    for phase in sorted(program.phases, key=lambda p: p.span is not None):
        if id(phase.graph) not in done:
            done.add(id(phase.graph))
            yield phase


def _patterns(program: Program, at: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """Attention, norms, feed-forward blocks … of one step."""
    found: Counter[str] = Counter()
    sizes = {symbol(name): Integer(n) for name, n in at.items()}
    for phase, row in ((p, r) for p in _steps(program) for r in rows(p.graph)):
        op, users = row.node.op, row.graph.consumers[row.node.outputs[0].name]
        if isinstance(op, AttentionValues):
            name = "attention"
        elif isinstance(op, Activation):
            gates = any(isinstance(u.op, Multiply) for u in users)
            name = "gated feed-forward" if gates else "activation"
        elif isinstance(op, AttentionScores | Softmax | ScoreBias):
            continue
        else:
            name, understood = _part_of(row)
            if not understood or row.node.op.is_view:
                continue
        found[name] += int(phase.bind(row.count).xreplace(sizes))
    return tuple(found.most_common())


def _reasons(misses: tuple[Miss, ...]) -> tuple[tuple[str, int], ...]:
    return tuple(Counter(f"{m.rule}: {m.reason}" for m in misses).most_common())


def _parts(
    program: Program, given: Mapping[str, Any]
) -> tuple[tuple[Part, ...], tuple[tuple[str, int], ...]]:
    """What the steps of a program are made of, one of each graph, and at what sizes."""
    steps = tuple(_steps(program))
    counted = [
        (row, phase.bind(row.total.total_flops), phase.bind(row.count))
        for phase in steps
        for row in rows(phase.graph)
    ]
    limits = [phase.limited(x) for phase in steps for x in program.limits]
    free = {s for _, flop, count in counted for e in (flop, count) for s in e.free_symbols}
    free |= {symbol(name) for name in given} & {s for x in limits for s in x.symbols}
    unused = sorted(set(given) - {s.name for s in free})
    if unused:
        raise InputError(f"{program.name}: no size of a step is called {clip(unused[0])}")
    most = USUAL
    while True:
        sizes = {s: Integer(given.get(s.name, 1 if s.name == "B" else most)) for s in free}
        broken = next((why for x in limits if (why := x.broken(sizes))), None)
        if broken is None:
            break
        if most == 1:
            raise InputError(f"{program.name}: {broken}")
        most //= 2
    flops: dict[tuple[str, bool], Expr] = {}
    counts: dict[tuple[str, bool], Expr] = {}
    for row, flop, count in counted:
        key = _part_of(row)
        flops[key] = Add(flops.get(key, Integer(0)), flop.xreplace(sizes))
        counts[key] = counts.get(key, Integer(0)) + count.xreplace(sizes)
    made = [
        Part(name, int(counts[name, known]), int(flops[name, known]), known)
        for name, known in flops
    ]
    shown = tuple(sorted((s.name, int(v)) for s, v in sizes.items()))
    return tuple(sorted(made, key=lambda p: (-p.flop, p.name))), shown


def _part_of(row: Row) -> tuple[str, bool]:
    op = row.node.op
    if isinstance(op, PLAIN):
        return f"{row.kind} ({AS_WRITTEN})", False
    for name, classes in PARTS.items():
        if isinstance(op, classes):
            return name, True
    return row.kind, True
