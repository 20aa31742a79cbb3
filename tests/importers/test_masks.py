"""Masks in many spellings: the pairs that count are those that the mask lets be seen.

Each graph is run by the reference evaluator of the ``onnx`` package with equal scores; what
gets a probability is what the mask shows.
"""

from __future__ import annotations

import itertools

import pytest

import costgraph as cg
from costgraph.counting.count import exact_cost
from costgraph.hardware.machine import Engine
from costgraph.ir.regions import Repeat
from costgraph.ops.flash import FlashAttention
from costgraph.ops.pattern import CAUSAL
from costgraph.symbols import S, symbol

onnx = pytest.importorskip("onnx")
np = pytest.importorskip("numpy")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from costgraph.models.onnx_graph import from_onnx  # noqa: E402

NODE = helper.make_node
HEADS, SIZE, WINDOW, REACH = 2, 4, 3, 2
NUMBERS = {
    "zero": 0, "one": 1, "window": WINDOW, "reach": REACH, "minus_window": -WINDOW, "minus_one": -1,
    "first": [0], "second": [1], "third": [2], "fourth": [3], "two": [2], "all": [0, 1, 2, 3],
}  # fmt: skip
FLOATS = {"f0": 0.0, "f1": 1.0, "low": -3.4028234663852886e38, "inf": -np.inf, "nines": -1e9}


class Mask:
    """Builds the nodes of one mask; names of values come from a counter."""

    def __init__(self) -> None:
        self.nodes = []
        self.count = itertools.count()

    def __call__(self, kind, *inputs, **attributes):
        out = f"m{next(self.count)}"
        self.nodes.append(NODE(kind, list(inputs), [out], **attributes))
        return out

    # pieces that masks are made of

    def length(self, of, axis):
        shape = self("Shape", of)
        return self("Squeeze", self("Gather", shape, axis, axis=0), "first")

    def places(self, kind="INT64"):
        """(rows (q, 1), columns (1, T)); queries stand at the end of the keys."""
        new, total = self.length("q", "third"), self.length("k", "third")
        before = self("Sub", total, new)
        rows = self("Range", before, total, "one")
        columns = self("Range", "zero", total, "one")
        made = self("Unsqueeze", rows, "second"), self("Unsqueeze", columns, "first")
        if kind != "INT64":
            made = tuple(self("Cast", m, to=TensorProto.FLOAT) for m in made)
        return made

    def filled(self, value):
        sizes = [self("Unsqueeze", self.length(x, "third"), "first") for x in ("q", "k")]
        shape = self("Concat", *sizes, axis=0)
        tensor = numpy_helper.from_array(np.array([value], "float32"))
        return self("ConstantOfShape", shape, value=tensor)

    def later(self):
        """Truth values: the key stands after the query."""
        return self("Greater", *self.places()[::-1])

    def hidden(self, truth, low="low"):
        """An addend that hides where ``truth`` does not hold."""
        return self("Where", truth, "f0", low)


def causal(m):
    rows, columns = m.places()
    return m("LessOrEqual", columns, rows)


def windowed(m):
    rows, columns = m.places()
    near = m("Less", m("Sub", rows, columns), "window")
    return m("And", m("LessOrEqual", columns, rows), near)


#: name: (function from a Mask to the name of an addend, of truth values, or both; kernel)
SPELLINGS = {
    "columns <= rows": lambda m: m.hidden(causal(m)),
    "rows >= columns": lambda m: m.hidden(m("GreaterOrEqual", *m.places())),
    "not columns > rows": lambda m: m.hidden(m("Not", m.later())),
    "hidden where columns > rows": lambda m: m("Where", m.later(), "low", "f0"),
    "difference >= 0": lambda m: m.hidden(
        m("GreaterOrEqual", m("Sub", *m.places()), "zero"), "inf"
    ),
    "difference > -1": lambda m: m.hidden(m("Greater", m("Sub", *m.places()), "minus_one")),
    "floats": lambda m: m.hidden(m("LessOrEqual", *m.places("FLOAT")[::-1])),
    "with truth everywhere": lambda m: m.hidden(
        m("And", causal(m), m("Cast", m.filled(1.0), to=TensorProto.BOOL))
    ),
    "(1 - mask) times low": lambda m: m(
        "Mul", m("Sub", "f1", m("Cast", causal(m), to=TensorProto.FLOAT)), "nines"
    ),
    "low times hidden": lambda m: m(
        "Mul", m.filled(-1e9), m("Cast", m.later(), to=TensorProto.FLOAT)
    ),
    "lower triangle of ones": lambda m: m.hidden(
        m("Cast", m("Trilu", m.filled(1.0), upper=0), to=TensorProto.BOOL)
    ),
    "triangle equal to zero": lambda m: m(
        "Where", m("Equal", m("Trilu", m.filled(1.0), upper=0), "f0"), "low", "f0"
    ),
    "upper triangle of low": lambda m: m("Trilu", m.filled(-1e9), "one", upper=1),
    "not both of two": lambda m: m(
        "Where",
        m("Or", m.later(), m("Less", *m.places()[::-1])),
        "low",
        "f0",
    ),
    "two addends": lambda m: m("Add", m.hidden(causal(m)), m.hidden(causal(m), "nines")),
    "window by a difference": lambda m: m.hidden(windowed(m)),
    "window by bounds": lambda m: m.hidden(
        m("And", causal(m), m("Greater", m.places()[1], m("Sub", m.places()[0], "window")))
    ),
    "window of triangles": lambda m: m.hidden(
        m("Cast", m("Trilu", m("Trilu", m.filled(1.0), upper=0), "minus_two"), to=TensorProto.BOOL)
    ),
    "window, hidden where either says": lambda m: m(
        "Where",
        m("Or", m.later(), m("GreaterOrEqual", m("Sub", *m.places()), "window")),
        "low",
        "f0",
    ),
    "near both ways": lambda m: m.hidden(
        m("LessOrEqual", m("Abs", m("Sub", *m.places())), "reach")
    ),
    "all shown": lambda m: m.hidden(m("GreaterOrEqual", m.places()[1], "zero")),
}  # fmt: skip
#: Spellings in which queries at the end of longer keys are no square of the same kind.
SQUARE = {
    "lower triangle of ones", "triangle equal to zero", "upper triangle of low",
    "window of triangles", "near both ways",
}  # fmt: skip


def model(make, put="add", batch=1, extra=()):
    m = Mask()
    mask = make(m)
    scores = [
        NODE("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        NODE("MatMul", ["q", "kt"], ["product"]),
    ]
    where = [NODE("Where", [mask, "product", "low"], ["scores"])]
    added = [NODE("Add", ["product", mask], ["scores"])]
    nodes = [
        *scores,
        *m.nodes,
        *(where if put == "where" else added),
        NODE("Softmax", ["scores"], ["chances"], axis=-1),
        NODE("MatMul", ["chances", "k"], ["y"]),
    ]
    stored = [numpy_helper.from_array(np.array(v, "int64"), n) for n, v in NUMBERS.items()]
    stored += [numpy_helper.from_array(np.array(v, "float32"), n) for n, v in FLOATS.items()]
    stored.append(numpy_helper.from_array(np.array(-2, "int64"), "minus_two"))
    inputs = [
        helper.make_tensor_value_info("q", TensorProto.FLOAT, [batch, HEADS, "seq", SIZE]),
        helper.make_tensor_value_info("k", TensorProto.FLOAT, [batch, HEADS, "keys", SIZE]),
        *extra,
    ]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("y", "chances")]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def seen(made, new, total, **more):
    """Pairs that get a probability, by the standard's own evaluator."""
    given = {"q": np.zeros((1, HEADS, new, SIZE), "f"), "k": np.zeros((1, HEADS, total, SIZE), "f")}
    with np.errstate(all="ignore"):
        _, chances = ReferenceEvaluator(made).run(None, {**given, **more})
    return int(np.count_nonzero(chances))


def imported(made, tmp_path, keys):
    del made.graph.output[1:]
    path = tmp_path / "mask.onnx"
    path.write_bytes(made.SerializeToString())
    return from_onnx(path, dims={"keys": keys})


def kernels(graph):
    found = []
    for node in graph.nodes:
        assert not isinstance(node.op, Repeat)
        if isinstance(node.op, FlashAttention):
            found.append(node.op)
    return found


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_pairs_that_count_are_pairs_that_are_seen(spelling, tmp_path):
    made = model(SPELLINGS[spelling])
    counts = {n: seen(made, n, n) for n in (1, 2, 5, 8)}
    program = imported(made, tmp_path, "S")
    counted = exact_cost(program.graph).flops_of(Engine.TENSOR)
    for length, pairs in counts.items():
        assert counted.xreplace({S: length}) == 2 * 2 * SIZE * pairs
    (kernel,) = kernels(cg.compile(program, "h100", "fuse").graph)
    assert kernel.biases == 0


@pytest.mark.parametrize("spelling", sorted(set(SPELLINGS) - SQUARE))
def test_queries_may_stand_at_the_end_of_longer_keys(spelling, tmp_path):
    made = model(SPELLINGS[spelling])
    counts = {(n, t): seen(made, n, t) for n, t in ((1, 1), (1, 6), (3, 3), (3, 7), (4, 9))}
    program = imported(made, tmp_path, "keys")
    counted = exact_cost(program.graph).flops_of(Engine.TENSOR)
    for (new, total), pairs in counts.items():
        values = {S: new, symbol("keys"): total}
        assert counted.xreplace(values) == 2 * 2 * SIZE * pairs


def test_truth_values_may_choose_scores(tmp_path):
    made = model(windowed, put="where")
    pairs = seen(made, 9, 9)
    program = imported(made, tmp_path, "S")
    assert exact_cost(program.graph).flops_of(Engine.TENSOR).xreplace({S: 9}) == 4 * SIZE * pairs


PADDING = helper.make_tensor_value_info("padding", TensorProto.BOOL, [1, 1, 1, "keys"])
BIAS = helper.make_tensor_value_info("bias", TensorProto.FLOAT, [HEADS, "seq", "keys"])


def padded(m):
    return m.hidden(m("And", causal(m), "padding"))


def padded_twice(m):
    """A causal addend, with keys hidden by data written into it."""
    return m("Where", m("Not", "padding"), "low", m.hidden(causal(m)))


def with_bias(m):
    return m("Add", m.hidden(causal(m)), "bias")


@pytest.mark.parametrize(
    ("make", "extra", "element", "rows"),
    [(padded, PADDING, 1, False), (padded_twice, PADDING, 1, False), (with_bias, BIAS, 4, True)],
)
def test_data_in_a_mask_is_an_operand_of_the_kernel(make, extra, element, rows, tmp_path):
    program = imported(model(make, extra=[extra]), tmp_path, "S")
    compiled = cg.compile(program, "h100", "fuse")
    (node,) = (n for n in compiled.graph.nodes if isinstance(n.op, FlashAttention))
    assert (node.op.pattern, node.op.biases) == (CAUSAL, 1)
    accesses = node.op.accesses(compiled.graph.operands(node), node.outputs)
    (moved,) = (a.bytes for a in accesses if a.tensor == node.inputs[-1])
    for length in (1, 4, 11):
        # A row per query is read as far as it is seen.
        pairs = length * (length + 1) // 2 * HEADS if rows else length
        assert moved.xreplace({S: length}) == element * pairs
    plain = imported(model(lambda m: m.hidden(causal(m))), tmp_path, "S")
    flops = exact_cost(program.graph).flops_of(Engine.TENSOR)
    assert flops == exact_cost(plain.graph).flops_of(Engine.TENSOR)


def test_a_mask_of_data_alone_hides_no_pair_from_the_count(tmp_path):
    info = helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 1, "seq", "keys"])
    program = imported(model(lambda m: "mask", extra=[info]), tmp_path, "S")
    assert exact_cost(program.graph).flops_of(Engine.TENSOR) == 4 * SIZE * HEADS * S**2
    (kernel,) = kernels(cg.compile(program, "h100", "fuse").graph)
    assert kernel.biases == 1


def test_rows_without_any_pair_may_be_guarded(tmp_path):
    """Exporters replace what is no number by zeros."""
    made = model(padded, extra=[PADDING])
    guard = [NODE("IsNaN", ["chances"], ["nan"]), NODE("Where", ["nan", "f0", "chances"], ["safe"])]
    for node in made.graph.node:
        if node.output[0] == "y":
            node.input[0] = "safe"
    last = made.graph.node.pop()
    made.graph.node.extend([*guard, last])
    program = imported(made, tmp_path, "S")
    (kernel,) = kernels(cg.compile(program, "h100", "fuse").graph)
    assert (kernel.pattern, kernel.biases) == (CAUSAL, 1)
