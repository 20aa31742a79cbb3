"""Encoder–decoder models exported as several graphs: encode, prefill and decode."""

from __future__ import annotations

import json

import pytest
from sympy import expand

import costgraph as cg
from costgraph.cli import main
from costgraph.counting.count import exact_cost, parameters
from costgraph.counting.footprint import cache_bytes
from costgraph.errors import CostgraphError, ModelError
from costgraph.hardware.machine import Engine
from costgraph.ir.verify import verify_program
from costgraph.models import load_model
from costgraph.models.onnx_graph import from_onnx
from costgraph.symbols import B, S, T, q
from tests.importers.onnx_files import NODE, TensorProto, graph, numbers, saved, zeros

#: Width, heads, width of a head, vocabulary.
D, H, DH, V = 32, 4, 8, 96
CACHE = ["batch_size", H, "past", DH]
CROSS = ["batch_size", H, "source", DH]


IDS = ("ids", ["batch_size", "target"], TensorProto.INT64)
STATES = ("states", ["batch_size", "source", D])


class Graph:
    """Nodes and weights of one graph."""

    def __init__(self):
        self.nodes = []
        self.stored = [numbers("split", 0, 0, H, DH), numbers("join", 0, 0, D)]

    def add(self, kind, *operands, **attributes):
        name = f"v{len(self.nodes)}"
        self.nodes.append(NODE(kind, [*operands], [name], **attributes))
        return name

    def matrix(self, x, name, *shape):
        self.stored.append(zeros(name, *shape))
        return self.add("MatMul", x, name)

    def heads(self, x, name):
        made = self.add("Reshape", self.matrix(x, name, D, D), "split")
        return self.add("Transpose", made, perm=[0, 2, 1, 3])

    def called(self, x, name):
        self.nodes.append(NODE("Identity", [x], [name]))

    def attend(self, query, keys, values, name):
        turned = self.add("Transpose", keys, perm=[0, 1, 3, 2])
        seen = self.add("Softmax", self.add("MatMul", query, turned), axis=-1)
        mixed = self.add("Transpose", self.add("MatMul", seen, values), perm=[0, 2, 1, 3])
        return self.matrix(self.add("Reshape", mixed, "join"), name, D, D)

    def saved(self, path, inputs, outputs):
        made = graph(self.nodes, inputs, [(o, None) for o in outputs], self.stored)
        return saved(path, made)


def encoder(path, width=D, length="source"):
    g = Graph()
    g.stored.append(zeros("table", V, width))
    x = g.add("Gather", "table", "text")
    g.matrix(x, "mix", width, width)
    g.called(f"v{len(g.nodes) - 1}", "result")
    return g.saved(path, [("text", ["batch_size", length], TensorProto.INT64)], ["result"])


CACHES = ["keys", "values"]


def decoder(g, later, mark=""):
    """A layer; its caches, and those of the encoder's positions, are results or operands."""
    g.stored.append(zeros("embed", V, D))
    x = g.add("Gather", "embed", "ids")
    query, *rows = (g.heads(x, n) for n in ("q", "k", "v"))
    own = (
        [g.add("Concat", c, r, axis=2) for c, r in zip(CACHES, rows, strict=True)]
        if later
        else rows
    )
    x = g.add("Add", x, g.attend(query, *own, "o"))
    query = g.heads(x, "cross_q")
    cross = [f"cross_{c}" for c in CACHES]
    if not later:
        cross = [g.heads("states", f"cross_{n}") for n in ("k", "v")]
    x = g.add("Add", x, g.attend(query, *cross, "cross_o"))
    results = [g.matrix(x, "lm_head", D, V), *own, *([] if later else cross)]
    names = [f"{mark}{n}" for n in ("logits", "own_k", "own_v", "new_k", "new_v")]
    for made, name in zip(results, names, strict=False):
        g.called(made, name)
    return names[: len(results)]


PAST = [(c, CACHE) for c in CACHES] + [(f"cross_{c}", CROSS) for c in CACHES]


def first(path):
    g = Graph()
    return g.saved(path, [IDS, STATES], decoder(g, False))


def later(path):
    g = Graph()
    return g.saved(path, [IDS, *PAST], decoder(g, True))


def merged(path):
    """Both in one file, behind an ``If`` on an operand, as optimum writes them."""
    branches, stored, names = [], {}, ["logits", "own_k", "own_v"]
    for later_, mark in ((True, "a_"), (False, "b_")):
        g = Graph()
        made = decoder(g, later_, mark)[:3]
        stored |= {s.name: s for s in g.stored}
        for node in g.nodes:  # names of values stay apart
            node.output[:] = [f"{mark}{o}" if o.startswith("v") else o for o in node.output]
            node.input[:] = [
                f"{mark}{i}" if i.startswith("v") and i[1:].isdigit() else i for i in node.input
            ]
        branches.append(graph(g.nodes, [], [(o, None) for o in made], name=mark))
    g = Graph()
    g.nodes = [NODE("If", ["cached"], names, then_branch=branches[0], else_branch=branches[1])]
    g.stored = list(stored.values())
    choice = ("cached", [1], TensorProto.BOOL)
    return g.saved(path, [IDS, STATES, *PAST, choice], names)


@pytest.fixture
def files(tmp_path):
    made = {"encoder": encoder, "first": first, "later": later, "merged": merged}
    return {name: f(tmp_path / f"{name}.onnx") for name, f in made.items()}


ONE = {"encoder": V * D + D * D, "decoder": 2 * V * D + 8 * D * D}


def flop(program, phase):
    part = program.phase(phase)
    return expand(part.bind(exact_cost(part.graph).flops_of(Engine.TENSOR)))


@pytest.mark.parametrize("names", [["first", "later"], ["later", "first"], ["merged"]])
def test_both_steps_and_the_encoder_are_one_program(names, files):
    program = load_model(files["encoder"], decoder=[files[n] for n in names])
    verify_program(program)
    assert [p.name for p in program.phases] == ["encode", "prefill", "decode"]
    assert parameters(program) == ONE["encoder"] + ONE["decoder"]
    assert flop(program, "encode") == 2 * D * D * B * S
    head = 2 * D * V * B
    # Attention to one token of its own and S of the encoder; six matrices of each token, and
    # keys and values of the encoder's result.
    begin = 6 * 2 * D * D * B + 2 * 2 * D * D * B * S + 4 * D * B * (1 + S) + head
    assert expand(flop(program, "prefill") - begin) == 0
    assert expand(flop(program, "decode") - (6 * 2 * D * D * B + 4 * D * B * (T + S) + head)) == 0
    step = program.phase("decode")
    assert expand(step.bind(cache_bytes(step.graph)) - 8 * D * B * (T + S)) == 0
    apart = "merged" not in names
    assert any("in memory twice" in said for said in program.assumptions) == apart
    held = sum(count * t.numel for t, count in step.weights())
    twice = ONE["decoder"] - 2 * D * D if apart else 0
    assert held == ONE["encoder"] + ONE["decoder"] + twice
    compiled = cg.compile(program, "h100")
    assert compiled.ttft(B=1, S=64) > 0
    assert compiled.tpot(B=1, S=64, T=20) > 0


def test_without_caches_every_step_computes_all_tokens_again(files):
    program = load_model(files["encoder"], decoder=files["first"])
    verify_program(program)
    per = 2 * 6 * D * D + 2 * D * V
    step = per * B * T + 2 * 2 * D * D * B * S + 4 * D * B * T * (T + S)
    assert expand(flop(program, "decode") - step) == 0
    assert flop(program, "prefill") == flop(program, "decode").xreplace({T: 1})
    assert any("all tokens so far again" in said for said in program.assumptions)


def test_the_command_reads_all_files(files, capsys):
    given = ["import", str(files["encoder"]), "--decoder", f"{files['first']},{files['later']}"]
    assert main([*given, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["phases"] == ["encode", "prefill", "decode"]
    assert found["recognised"]["attention"] == 4
    assert main(["formula", *given[1:], "--on", "h100", "--metric", "tpot"]) == 0
    assert "T" in capsys.readouterr().out


def test_of_a_merged_file_alone_the_step_with_caches_is_read(files):
    program = from_onnx(files["merged"], dims={"source": 7})
    verify_program(program)
    assert any("the one with caches" in note for note in program.notes)
    assert flop(program, "forward" if len(program.phases) == 1 else "decode") != 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["later"], "name the decoder of the first step"),
        (["first", "first"], "2 graphs of the decoder start"),
        (["encoder"], "could be the encoder's result"),
    ],
)
def test_what_is_no_decoder_is_refused(names, message, files):
    with pytest.raises(ModelError, match=message):
        load_model(files["encoder"], decoder=[files[n] for n in names])


def test_results_that_do_not_fit_are_refused(files, tmp_path):
    with pytest.raises(ModelError, match="could be the encoder's result"):
        load_model(encoder(tmp_path / "wide.onnx", 48), decoder=files["first"])
    fixed = encoder(tmp_path / "fixed.onnx", length=10)
    program = load_model(fixed, decoder=files["merged"])
    assert S not in {s for p in program.phases for s in flop(program, p.name).free_symbols}
    with pytest.raises(ModelError, match=r"\.onnx"):
        load_model("llama-3-8b", decoder=files["first"])
    with pytest.raises(CostgraphError, match="no dimension is called 'sauce'"):
        load_model(files["encoder"], decoder=files["first"], dims={"sauce": 3})
    assert q not in flop(program, "decode").free_symbols
