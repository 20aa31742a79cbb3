"""Regions that run at once: the rules of the IR, and times against a simulation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Integer, Rational

from costgraph.counting.count import counted, flat, parameters
from costgraph.counting.footprint import footprint
from costgraph.errors import VerifyError
from costgraph.formula import Formula
from costgraph.hardware.machine import Engine, Machine, Memory
from costgraph.ir.cost import Access, Work
from costgraph.ir.dtypes import FP32
from costgraph.ir.graph import Builder, Graph
from costgraph.ir.op import Op, Spec, Tensors, read
from costgraph.ir.program import Phase
from costgraph.ir.regions import Body, Parallel, Repeat
from costgraph.ir.tensor import Role, Tensor
from costgraph.ir.verify import verify
from costgraph.rewriting.overlap import side_by_side
from costgraph.rewriting.unrolled import unrolled
from costgraph.timing import roofline

ONE = Integer(1)
X = Tensor("x", (ONE,), FP32)
MACHINE = Machine(
    "toy",
    "toy",
    {(Engine.TENSOR, "fp32"): ONE, (Engine.VECTOR, "fp32"): ONE},
    Memory(ONE),
)
#: Names of the resources of the toy machine, in the order of an operation's amounts.
RESOURCES = ("tensor:fp32", "vector:fp32", "memory")


@dataclass(frozen=True)
class Toy(Op):
    """An operation that keeps three resources busy for the seconds that it states."""

    kind: ClassVar[str] = "toy"
    tensor: int = 0
    vector: int = 0
    memory: int = 0

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        return (Spec((ONE,), FP32),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {
            (Engine.TENSOR, "fp32"): Integer(self.tensor),
            (Engine.VECTOR, "fp32"): Integer(self.vector),
        }

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        return (read(inputs[0], Integer(self.memory)),)


# --- random programs -------------------------------------------------------------------

amount = st.integers(0, 6)
leaf = st.tuples(amount, amount, amount).map(lambda a: ("op", a))
plans = st.recursive(
    leaf,
    lambda inner: st.one_of(
        st.tuples(st.just("repeat"), st.integers(1, 3), st.lists(inner, min_size=1, max_size=2)),
        st.tuples(
            st.just("parallel"),
            st.lists(st.lists(inner, min_size=1, max_size=2), min_size=1, max_size=3),
        ),
    ),
    max_leaves=6,
)


def build(plan: list, name: str = "g") -> Graph:
    """A chain of operations and regions, each reading what the one before made."""
    g = Builder(name)
    x = g.source(X)
    for i, item in enumerate(plan):
        label = f"{name}_{i}"
        if item[0] == "op":
            x = g.add(label, Toy(*item[1]), x)
        elif item[0] == "repeat":
            x = g.add(label, Repeat(build(item[2], label), Integer(item[1])), x)
        else:
            bodies = tuple(
                Body(f"b{j}", build(body, f"{label}{j}"), (0,)) for j, body in enumerate(item[1])
            )
            results = g.add_many(label, Parallel(bodies), x)
            x = g.add(f"{label}_join", Join(), *results)
    return g.build(x)


@dataclass(frozen=True)
class Join(Op):
    """Waits for its operands; costs nothing."""

    kind: ClassVar[str] = "join"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        return (Spec((ONE,), FP32),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return {}

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        return ()


# --- a simulation that shares no code with the formulas ----------------------------------


def written_out(plan: list, apart: bool, prefix: str = "") -> list:
    """Rounds written out; with ``apart`` every body has resources of its own."""
    out: list = []
    for item in plan:
        if item[0] == "op":
            out.append((tuple(prefix + r for r in RESOURCES), item[1]))
        elif item[0] == "repeat":
            for _ in range(item[1]):
                out.extend(written_out(item[2], apart, prefix))
        else:
            out.append(
                [
                    written_out(body, apart, f"{prefix}{i}/" if apart else prefix)
                    for i, body in enumerate(item[1])
                ]
            )
    return out


def simulate(plan: list, apart: bool = False) -> int:
    """End of a list schedule: each resource serves one operation at a time, first come."""
    free: dict[str, int] = {}

    def run(items: list, start: int) -> int:
        """Runs a series greedily and returns its end; bodies go step by step in time."""
        states = [[list(items), start]]
        return advance(states)

    def advance(states: list) -> int:
        end = 0
        while states:
            states.sort(key=lambda s: s[1])
            items, now = states.pop(0)
            if not items:
                end = max(end, now)
                continue
            head, rest = items[0], items[1:]
            if isinstance(head, tuple):
                finish = now
                for resource, seconds in zip(*head, strict=True):
                    if seconds:
                        begin = max(now, free.get(resource, 0))
                        free[resource] = begin + seconds
                        finish = max(finish, begin + seconds)
                states.append([rest, finish])
            else:
                states.append([rest, advance([[list(body), now] for body in head])])
        return end

    return run(written_out(plan, apart), 0)


def seconds(plan: list) -> Rational:
    graph = build(plan)
    verify(graph)
    phase = Phase("p", graph, ())
    terms = roofline.step_terms(phase, counted(graph), MACHINE)
    f = Formula("f", "s", terms)
    assert float(f.expr) == pytest.approx(f.evaluate(), rel=1e-12, abs=1e-12)
    return Rational(f.expr)


@settings(max_examples=150, deadline=None)
@given(st.lists(plans, min_size=1, max_size=3))
def test_no_schedule_undercuts_the_formula(plan):
    assert seconds(plan) <= simulate(plan)


@settings(max_examples=100, deadline=None)
@given(st.lists(plans, min_size=1, max_size=3))
def test_counts_and_weights_are_those_of_the_graph_written_out(plan):
    graph = build(plan)
    flat_graph = unrolled(graph)
    verify(flat_graph)
    assert graph.cost.total_flops == flat_graph.cost.total_flops
    assert graph.cost.total_bytes == flat_graph.cost.total_bytes
    rows = flat(counted(graph))
    assert sum(r.count * r.cost.total_flops for r in rows) == graph.cost.total_flops
    assert parameters(graph) == 0


#: Bodies that use one resource each, all different: nothing is shared.
single = st.integers(0, 9)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 3),
            st.lists(single, min_size=1, max_size=3),
            st.lists(single, min_size=1, max_size=3),
            st.lists(single, min_size=1, max_size=3),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_where_nothing_is_shared_the_formula_is_the_schedule(rounds):
    plan: list = []
    for count, *bodies in rounds:
        made = [
            [("op", tuple(a if i == kind else 0 for i in range(3))) for a in amounts]
            for kind, amounts in enumerate(bodies)
        ]
        plan.append(("repeat", count, [("parallel", made)]))
    brute = sum(count * max(sum(b) for b in bodies) for count, *bodies in rounds)
    assert seconds(plan) == brute == simulate(plan)


def test_shared_resources_add_up():
    # Each body alone takes 3 s; both use memory for 2 s and 3 s of these.
    plan = [("parallel", [[("op", (3, 0, 2))], [("op", (0, 3, 3))]])]
    assert seconds(plan) == 5 == simulate(plan)


# --- the IR ------------------------------------------------------------------------------


def chain(*links: tuple[str, str]) -> Graph:
    """Operations ``(name, operand)``."""
    g = Builder("g")
    g.source(X)
    for name, operand in links:
        g.add(name, Toy(1, 2, 3), operand)
    return g.build(links[-1][0])


def test_nodes_side_by_side():
    graph = chain(("a", "x"), ("b", "x"), ("c", "b"), ("d", "a"))
    graph = replace(graph, outputs=("c", "d"))
    made = side_by_side(graph, {"left": ["a", "d"], "right": ["b", "c"]}, "both")
    verify(made)
    (node,) = made.nodes
    assert [b.name for b in node.op.bodies] == ["left", "right"]
    assert {t.name for t in node.outputs} == {"c", "d"}
    assert node.op.bodies[0].graph.outputs == ("d",)
    assert made.cost.total_flops == graph.cost.total_flops
    assert node.origin.nodes == ("a", "b", "c", "d")


def test_a_body_that_needs_another_waits():
    graph = chain(("a", "x"), ("b", "a"), ("c", "b"))
    with pytest.raises(VerifyError, match=r"'c' of body 'two' needs what body 'one' makes"):
        side_by_side(graph, {"one": ["a"], "two": ["c"]})
    with pytest.raises(VerifyError, match="no nodes"):
        side_by_side(graph, {"one": ["a"], "two": []})


def region(first: Graph, second: Graph) -> Graph:
    g = Builder("g")
    bodies = (Body("one", first, (0,)), Body("two", second, (0,)))
    return g.build(*g.add_many("r", Parallel(bodies), g.source(X)))


def test_bodies_that_read_one_another_are_refused():
    first = chain(("a", "x"))
    g = Builder("second")
    g.source(X)
    g.source(Tensor("a", (ONE,), FP32, Role.WEIGHT))
    second = g.build(g.add("b", Toy(1), "a"))
    with pytest.raises(VerifyError, match="body 'two' reads 'a', which body 'one' makes"):
        verify(region(first, second))
    made = region(first, first)
    (node,) = made.nodes
    bodies = (node.op.bodies[0], replace(node.op.bodies[1], name="one"))
    with pytest.raises(VerifyError, match="two bodies of one name"):
        verify(replace(made, nodes=(replace(node, op=Parallel(bodies)),)))


def weighty(name: str) -> Graph:
    g = Builder(name)
    g.source(X)
    w = g.source(Tensor("w", (Integer(10),), FP32, Role.WEIGHT))
    y = g.add("y", Toy(1, 0, 1), w)
    return g.build(g.add("z", Toy(1, 0, 1), y))


def test_memory_of_bodies_adds_up_and_one_model_is_in_memory_once():
    made = region(weighty("one"), weighty("two"))
    assert footprint(made).weights == 80
    (node,) = made.nodes
    shared = replace(node.op, one_model=True)
    once = replace(made, nodes=(replace(node, op=shared),))
    assert footprint(once).weights == 40
    assert parameters(once) == 10
    # Both bodies hold two live results of 4 byte at their peak, beside the operand.
    assert footprint(made).activations == (20,)


def test_units_have_resources_of_their_own():
    first, second = build([("op", (0, 0, 3))], "one"), build([("op", (0, 0, 4))], "two")
    g = Builder("g")
    bodies = (Body("one", first, (0,)), Body("two", second, (0,), "other"))
    graph = g.build(*g.add_many("r", Parallel(bodies), g.source(X)))
    phase = Phase("p", graph, ())
    (term,) = roofline.step_terms(phase, counted(graph), MACHINE)
    assert {a.resource for a in term.arms} == {"other/memory"}
    assert Fraction(str(term.count * term.value)) == 4
