"""Drafts: models of their own, the target's first layers, extra heads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Expr, Integer, Min

from costgraph.errors import InputError, PipelineError
from costgraph.ir.graph import Builder, Graph, Node
from costgraph.ir.presence import EVERYONE
from costgraph.ir.program import Phase, Program
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Role, Tensor
from costgraph.models import load_model
from costgraph.ops import Activation, Add, Linear, Sample
from costgraph.ops.fused import operations
from costgraph.passes.decoding.drafting import Asked, Drafting, Source
from costgraph.passes.precision.layers import in_order
from costgraph.symbols import B, T, q

ONE = Integer(1)
#: Rows by which two vocabularies of one tokenizer may differ: embedding tables are padded
#: to multiples of up to 128 rows. llama.cpp draws the line there, too.
PADDING = 128


def stepping(program: Program) -> Phase:
    """The phase of decode steps that emit one token each.

    Raises:
        PipelineError: there is none; says what the program does instead.
    """
    found = [p for p in program.phases if p.span is not None]
    if any(p.tokens != 1 or p.weight != 1 for p in found):
        raise PipelineError(
            f"{program.name} already emits several tokens per step: a program speculates once"
        )
    if len(found) == 1:
        return found[0]
    if all(p.tokens == 0 for p in program.phases):
        raise PipelineError(f"{program.name} is no language model: it generates no tokens")
    raise PipelineError(f"{program.name} makes its whole answer at once, not token by token")


def loaded(name: str, target: Program) -> Program:
    """The model that drafts for ``target``: a shipped name or a path.

    Raises:
        PipelineError: it cannot be read, or cannot draft for this target.
    """
    try:
        draft = load_model(name)
        step = stepping(draft)
    except InputError as error:
        raise PipelineError(f"draft: {error}") from None
    mine = stepping(target)
    if step.span != mine.span:
        kinds = [
            "decodes behind an encoder" if _has_encoder(p) else "reads its prompt itself"
            for p in (draft, target)
        ]
        raise PipelineError(
            f"draft: {draft.name} {kinds[0]}, {target.name} {kinds[1]}: their steps do not match"
        )
    extra = {p.name for p in draft.phases} - {p.name for p in target.phases}
    if extra:
        raise PipelineError(
            f"draft: {draft.name} has a phase ({', '.join(sorted(extra))}) that "
            f"{target.name} has no input for"
        )
    return draft.assuming(*_same_tokens(draft, target))


def _has_encoder(program: Program) -> bool:
    return any(p.name == "encode" for p in program.phases)


def _same_tokens(draft: Program, target: Program) -> tuple[str, ...]:
    sizes = [vocabulary(p) for p in (draft, target)]
    known = [n for n in sizes if n is not None and n.is_Integer]
    said = "draft and target are taken to share one tokenizer"
    if len(known) < 2 or known[0] == known[1]:
        return (said,)
    few, many = sorted(map(int, known))
    if many - few > PADDING:
        raise PipelineError(
            f"draft: vocabularies of {int(known[0]):,} ({draft.name}) and {int(known[1]):,} "
            f"({target.name}) tokens cannot verify one another"
        )
    return (f"{said}: vocabularies of {few:,} and {many:,} rows differ by padding alone",)


def vocabulary(program: Program) -> Expr | None:
    """Tokens that decode steps choose from; None where they choose none."""
    for op, operands in operations(stepping(program).graph):
        if isinstance(op, Sample):
            return operands[0].shape[-1].xreplace(dict(program.dims))
    return None


def keeps_state(graph: Graph) -> bool:
    """True if some operation of the graph keeps a recurrent state."""
    return any(t.role is Role.STATE for _, operands in operations(graph) for t in operands)


def is_windowed(graph: Graph) -> bool:
    """True if some cache of the graph keeps a window of its positions."""
    held = (t for _, given in operations(graph) for t in given if t.role is Role.KV)
    return any(size.has(Min) for t in held for size in t.shape)


def first_layers(target: Program, layers: Expr) -> Program:
    """The target with fewer layers; weights and caches are the target's own.

    Raises:
        PipelineError: the number does not fit, or which layers come first is not known.
    """
    step = stepping(target)
    flat, regions = in_order(_all_present(step.graph), "draft=skip")
    counts = [n.op.count for n in regions if isinstance(n.op, Repeat)]
    total = sum(counts, Integer(0))
    kept = layers
    if layers == 0:
        kept = total // 2 if total.is_Integer else total / 2
    if kept.is_number and not (kept.is_Integer and kept > 0):
        raise PipelineError(f"layers must be a whole number of layers, not {kept}")
    if kept.is_number and total.is_number and kept > total:
        raise PipelineError(f"layers: the model has only {total} layers")
    if len(regions) > 1 and not kept.is_Integer:
        raise PipelineError(f"layers: {kept} of layers that differ: state a number")
    made: dict[str, Node] = {}
    left = kept
    for region, count in zip(regions, counts, strict=True):
        assert isinstance(region.op, Repeat)
        ends = len(regions) == 1 or left <= count
        # What follows the layers takes the last one's result by its name.
        outputs = regions[-1].outputs if ends else region.outputs
        op = replace(region.op, count=left if ends else count)
        made[region.name] = replace(region, op=op, outputs=outputs)
        left = left - count
        if ends:
            break
    names = {n.name for n in regions}
    nodes = [made.get(n.name, n) for n in flat.nodes if n.name in made or n.name not in names]
    graph = replace(flat.with_nodes(nodes), name=f"{target.name}-draft")
    return Program(f"{target.name}'s first layers", (replace(step, graph=graph),))


def _all_present(graph: Graph) -> Graph:
    """The graph without early exits: every layer runs for every token."""
    nodes = []
    for node in graph.nodes:
        if isinstance(node.op, Repeat):
            if node.op.rounds == "other":
                continue
            node = replace(node, op=replace(node.op, presence=EVERYONE))
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def heads(target: Program, count: Expr) -> Program:
    """``count`` extra heads on the last hidden state: ``d·d + d·V`` weights each."""
    step = stepping(target)
    table = next(
        (
            t
            for name in ("lm_head.weight", "embed.weight")
            for t in step.graph.sources
            if t.role is Role.WEIGHT and t.name == name
        ),
        None,
    )
    if table is None:
        raise PipelineError(f"draft=heads: {target.name} has no projection to logits")
    vocab, d = table.shape
    body = Builder("head")
    x = body.source(Tensor("hidden", (B, ONE, d), table.dtype))
    mixed = body.add(
        "head_mix",
        Linear(),
        x,
        body.source(Tensor("head_mix.weight", (d, d), table.dtype, Role.WEIGHT)),
    )
    mixed = body.add("head_act", Activation("silu"), mixed)
    mixed = body.add("head_add", Add(), mixed, x)
    logits = body.add(
        "head_out",
        Linear(),
        mixed,
        body.source(Tensor("head_out.weight", (vocab, d), table.dtype, Role.WEIGHT)),
    )
    body.add("head_sample", Sample(), logits)
    g = Builder(f"{target.name}-heads")
    hidden = g.source(Tensor("hidden", (B, ONE, d), table.dtype))
    region = Repeat(body.build(x), count, rounds="other")
    graph = g.build(g.add("heads", region, hidden))
    phase = replace(step, graph=graph, bindings=((q, ONE), (T, T)), resident=())
    return Program(f"{target.name}'s heads", (phase,))


def _skipping(asked: Asked) -> Drafting:
    return Drafting(first_layers(asked.target, asked.layers), part=True)


def _with_heads(asked: Asked) -> Drafting:
    return Drafting(heads(asked.model, asked.depth), at_once=True)


def _with_model(asked: Asked) -> Drafting:
    return Drafting(loaded(asked.name, asked.model))


#: Words of the option ``draft`` and what drafts under them.
SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "skip": Source(_skipping, inherits=False, takes_layers=True),
        "heads": Source(_with_heads),
    }
)
#: Any other word: a model of its own.
MODEL = Source(_with_model)


def source_of(word: str) -> Source:
    """What drafts under a word: one of :data:`SOURCES`, else a model."""
    return SOURCES.get(word, MODEL)
