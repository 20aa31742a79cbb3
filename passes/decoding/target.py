"""What speculation asks of a program: its decode steps, its vocabulary, what it keeps."""

from __future__ import annotations

from sympy import Expr

from costgraph.errors import PipelineError
from costgraph.ir.graph import Graph
from costgraph.ir.program import Phase, Program
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops import KVAppend, Sample
from costgraph.ops.fused import operations


def stepping(program: Program) -> Phase:
    """The phase of decode steps that emit one token each.

    Raises:
        PipelineError: there is none; says what the program does instead.
    """
    found = [p for p in program.phases if p.span is not None]
    between = [p.name for p in found if p.tokens == 0]
    if between and all(p.tokens == p.weight == 1 for p in found if p.tokens != 0):
        raise PipelineError(
            f"{program.name} has other steps between those that emit tokens ({', '.join(between)})"
            ": what speculates counts decode steps alone"
        )
    if any(p.tokens != 1 or p.weight != 1 for p in found):
        raise PipelineError(
            f"{program.name} already emits several tokens per step: a program speculates once"
        )
    if len(found) == 1:
        return found[0]
    if all(p.tokens == 0 for p in program.phases):
        raise PipelineError(f"{program.name} is no language model: it generates no tokens")
    raise PipelineError(f"{program.name} makes its whole answer at once, not token by token")


def vocabulary(program: Program) -> Expr | None:
    """Tokens that decode steps choose from; None where they choose none."""
    logits = logits_of(program)
    return None if logits is None else logits.shape[-1].xreplace(dict(program.dims))


def logits_of(program: Program) -> Tensor | None:
    """The logits that decode steps choose from; None where they choose none."""
    for op, operands in operations(stepping(program).graph):
        if isinstance(op, Sample):
            return operands[0]
    return None


def keeps_state(graph: Graph) -> bool:
    """True if some operation of the graph keeps a recurrent state."""
    return any(t.role is Role.STATE for _, operands in operations(graph) for t in operands)


def is_windowed(graph: Graph) -> bool:
    """True if some cache of the graph drops positions, such as those before a window."""
    return any(isinstance(op, KVAppend) and op.keeps.drops for op, _ in operations(graph))
