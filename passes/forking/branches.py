"""Steps of one branch become steps of several: what they share, and what each has alone.

Branches of a request read a common prefix. Either they are sequences of their own
(``copied``: the batch is that many times larger, and each holds and reads the prefix),
or positions of one sequence that see their own rows and the prefix (``shared``: the
prefix is in memory once and read once a step, as cascade attention does).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, expand

from costgraph.errors import PipelineError
from costgraph.formula.terms import Span
from costgraph.ir.graph import Graph, Node
from costgraph.ir.op import Op
from costgraph.ir.program import Phase, Program
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops import SelectLast
from costgraph.ops.attending import repatterned
from costgraph.ops.fused import operations
from costgraph.ops.pattern import Branches, Parted, Pattern
from costgraph.passes.decoding.target import is_windowed, keeps_state
from costgraph.rewriting.pipeline import option
from costgraph.rewriting.rewrite import rebuild
from costgraph.symbols import B, T, q

SHARED, COPIED = "shared", "copied"
#: What every branching rests on, by how the prefix is held.
SAID = {
    SHARED: "branches share their prefix: it is in memory once and read once a step (cascade "
    "attention); rows of other branches are masked",
    COPIED: "branches are sequences of their own: each holds a copy of its prefix and reads it",
}


def prefix_option() -> str:
    """The option of how branches hold what they share."""
    text: str = option(
        "word", SHARED, "the prefix is in memory and read once for all branches, or once for each",
        choices=(SHARED, COPIED),
    )  # fmt: skip
    return text


@dataclass(frozen=True)
class Stretch:
    """Steps in which as many branches live.

    Attributes:
        branches: how many.
        lower, upper: contexts of a branch, the first and the last.
        start: context of a branch in front of the first step.
        kept: rows in the cache then, of all branches together and what they share.
    """

    branches: Expr
    lower: Expr
    upper: Expr
    start: Expr
    kept: Expr

    def rows(self, context: Expr) -> Expr:
        """Rows in the cache where each branch sees ``context`` of them."""
        return expand(self.kept + self.branches * (context - self.start))

    @property
    def hidden(self) -> Expr:
        """Rows that a position does not see, over all rows ``T`` in the cache."""
        return expand(T - self.start - (T - self.kept) / self.branches)


def steps_of(program: Program, name: str) -> tuple[Phase, ...]:
    """The phases of the decode steps that branches run.

    Raises:
        PipelineError: there are none, or they run in branches already.
    """
    found = program.decoding
    if not found:
        says = "makes its whole answer at once" if program.emits else "generates no tokens"
        raise PipelineError(f"{name}: {program.name} {says}: it has no decode steps to branch")
    if any(p.reach is not None for p in found) or not program.has_alike_steps:
        raise PipelineError(
            f"{name}: {program.name} runs in branches already: a request forks once"
        )
    if any(p.rounds != 1 for p in found):
        raise PipelineError(f"{name}: groups of sequences in pipeline stages do not fork")
    return found


def whole_span(phases: tuple[Phase, ...]) -> Span:
    """The contexts of the decode steps."""
    span = phases[0].span
    assert span is not None
    return span


def forked(phase: Phase, live: Stretch, prefix: str, answers: bool = True) -> Phase:
    """The phase with its steps run by the branches of a stretch.

    Args:
        phase: decode steps of one branch.
        live: the branches.
        prefix: ``shared`` or ``copied``.
        answers: tokens of all branches count, not those of one.

    Raises:
        PipelineError: a recurrent state or a window does not go with a shared prefix.
    """
    span = Span(T, live.lower, live.upper)
    made = replace(phase, span=span)
    if live.branches == 1:
        return made
    if answers:
        made = replace(made, tokens=made.tokens * live.branches)
    if prefix == SHARED:
        check_shared(phase.graph)
    if prefix == COPIED or not _caches(phase.graph):
        return times(made, live.branches)
    context = phase.substitution.get(T, T)
    rows = live.rows(context)
    bindings = {
        **phase.substitution,
        q: expand(phase.query * live.branches),
        T: rows,
    }
    graph = branched(phase.graph, live.branches, phase.query, live.hidden)
    return replace(made, graph=graph, bindings=tuple(bindings.items()), reach=context)


def times(phase: Phase, branches: Expr) -> Phase:
    """The phase with ``branches`` sequences in place of each."""
    if branches == 1:
        return phase
    many = {B: B * branches}
    made = phase.with_binding(B, B * branches)
    return replace(made, tokens=made.tokens.xreplace(many), weight=made.weight.xreplace(many))


def check_shared(graph: Graph) -> None:
    """Refuses graphs whose branches cannot share rows.

    Raises:
        PipelineError: says what does not go.
    """
    for found, what in (
        (keeps_state, "a recurrent state"),
        (is_windowed, "a cache that drops rows"),
    ):
        if found(graph):
            raise PipelineError(f"prefix=shared: {what} follows one branch: give prefix=copied")


def _caches(graph: Graph) -> bool:
    return any(t.role is Role.KV for _, given in operations(graph) for t in given)


def branched(graph: Graph, branches: Expr, width: Expr, hidden: Expr) -> Graph:
    """The graph for ``branches`` of ``width`` new positions each, in one sequence.

    ``hidden`` rows are other branches'. Each branch needs logits where one position does.
    """

    def new(node: Node, operands: tuple[Tensor, ...]) -> Op:
        op = node.op
        if isinstance(op, SelectLast):
            return op if q in op.count.free_symbols else SelectLast(op.count * branches)
        return repatterned(op, lambda pattern: apart(pattern, branches, width, hidden))

    return rebuild(graph, new)


def apart(pattern: Pattern, branches: Expr, width: Expr, hidden: Expr) -> Pattern:
    """A pattern for ``branches`` beside one another that hide ``hidden`` rows from each other.

    Where all pairs are computed, or all are useful, it stays.
    """
    inner = pattern.of if isinstance(pattern, Parted) else pattern
    # A causal row hides half of what is new, on average.
    levels = inner.levels if isinstance(inner, Branches) else ((width, (width - 1) / 2),)
    return pattern.branched(tuple((n * branches, h + hidden) for n, h in levels))
