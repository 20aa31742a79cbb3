"""The driver of rewriting: what it finds, what it refuses, and how often it asks."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from sympy import Integer

from costgraph.hardware import load_hardware
from costgraph.hardware.machine import Machine
from costgraph.ir.dtypes import BF16
from costgraph.ir.graph import Builder, Graph, Node
from costgraph.ir.tensor import Role, Tensor
from costgraph.ir.verify import verify
from costgraph.ops import Activation, Add, LayerNorm, Linear, Multiply
from costgraph.ops.views import Reshape
from costgraph.passes.fusion.fuse import Fuse
from costgraph.rewriting.draft import Draft
from costgraph.rewriting.rewrite import Replacement, rewrite_graph
from costgraph.symbols import B

WIDTH = Integer(64)


def anything(seed: int, size: int) -> Graph:
    """A random graph of products, norms and element-wise work, with several results."""
    chance = random.Random(seed)
    builder = Builder("random")
    made = [builder.source(Tensor(f"x{i}", (B, WIDTH), BF16)) for i in range(2)]
    weight = [builder.source(Tensor(f"w{i}", (WIDTH, WIDTH), BF16, Role.WEIGHT)) for i in range(3)]
    for index in range(size):
        a, b = (chance.choice(made[-8:]) for _ in range(2))
        kind = chance.randrange(5)
        name = f"n{index}"
        if kind == 0:
            made.append(builder.add(name, Linear(), a, chance.choice(weight)))
        elif kind == 1:
            made.append(builder.add(name, Activation("silu"), a))
        elif kind == 2:
            made.append(builder.add(name, LayerNorm(bias=False, weight=False), a))
        else:
            made.append(builder.add(name, Add() if kind == 3 else Multiply(), a, b))
    used = {i for n in builder.build().nodes for i in n.inputs}
    results = [n for n in made if n not in used and n.startswith("n")]
    return builder.build(*results, chance.choice(made[-5:]))


def one_by_one(graph: Graph, rules, machine: Machine) -> tuple[Graph, list[str]]:
    """The same by definition: after each hit everything is looked at again from the start."""
    hits = []
    for rule in rules:
        changed = True
        while changed:
            changed = False
            draft = Draft(graph)
            for node in graph.nodes:
                found = rule.match(draft, node, machine)
                if isinstance(found, Replacement):
                    draft.put(found.nodes, (*found.also, found.new))
                    graph = draft.graph()
                    hits.append(f"{rule.name}: {found.new.name}")
                    changed = True
                    break
    return graph, hits


@pytest.mark.parametrize("seed", range(12))
def test_what_is_found_is_what_looking_again_from_the_start_finds(seed):
    graph, machine = anything(seed, 60), load_hardware("h100")
    rules = Fuse(prologue=bool(seed % 2)).rules()
    made, hits, _ = rewrite_graph(graph, rules, machine, "test")
    verify(made)
    expected, listed = one_by_one(graph, rules, machine)
    assert list(hits) == listed
    assert made == expected


@dataclass(frozen=True)
class Asked:
    """A rule that counts how often it is asked."""

    rule: object
    times: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.rule.name

    def match(self, graph, node, machine):
        self.times.append(node.name)
        return self.rule.match(graph, node, machine)


def test_questions_grow_with_the_graph_and_no_faster():
    def asked(size: int) -> int:
        rules = [Asked(r) for r in Fuse().rules()]
        rewrite_graph(anything(1, size), rules, load_hardware("h100"), "test")
        return sum(len(r.times) for r in rules)

    few, many = asked(200), asked(1600)
    assert few > 200
    assert many < 1.5 * 8 * few


# --- rewrites that would not hold


@dataclass(frozen=True)
class Bad:
    """A rule that proposes one replacement at one node."""

    at: str
    make: object
    name: str = "bad"

    def match(self, graph, node, machine):
        return self.make(graph, node) if node.name == self.at else None


def little() -> Graph:
    builder = Builder("little")
    x = builder.source(Tensor("x", (B, WIDTH), BF16))
    a = builder.add("a", Activation("silu"), x)
    b = builder.add("b", Activation("relu"), a)
    c = builder.add("c", Add(), a, b)
    return builder.build(c)


def turned(graph, node):
    shape = (2 * B, WIDTH / 2)
    result = replace(graph.tensors["b"], shape=shape)
    return Replacement((node,), replace(node, op=Reshape(shape), outputs=(result,)))


PROPOSALS = {
    "a result that others need": lambda g, n: Replacement(
        (n,), Node("new", Activation("relu"), ("x",), (Tensor("other", (B, WIDTH), BF16),))
    ),
    "a cycle": lambda g, n: Replacement(
        (g.node("a"), g.node("c")),
        Node("new", Add(), ("x", "b"), (g.tensors["a"], g.tensors["c"])),
    ),
    "another shape": lambda g, n: Replacement(
        (n,),
        replace(
            n,
            op=Reshape((2 * B, WIDTH / 2)),
            outputs=(replace(g.tensors["b"], shape=(2 * B, WIDTH / 2)),),
        ),
    ),
    "a shape that does not follow": lambda g, n: Replacement(
        (n,), replace(n, outputs=(replace(n.outputs[0], shape=(B, Integer(3))),))
    ),
    "a name that is taken": lambda g, n: Replacement((n,), replace(n, name="a")),
    "an operand that nothing makes": lambda g, n: Replacement(
        (n,), replace(n, inputs=("nothing",))
    ),
    "operands that do not fit": lambda g, n: Activation("nonsense").infer(g.operands(n)),
}


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_a_rewrite_that_would_not_hold_is_not_made_and_says_why(proposal):
    graph = little()
    rule = Bad("c" if proposal == "a cycle" else "b", PROPOSALS[proposal])
    made, hits, misses = rewrite_graph(graph, [rule], load_hardware("h100"), "test")
    assert made == graph
    assert hits == ()
    (miss,) = misses
    assert miss.reason.startswith("the result would not hold: ")
