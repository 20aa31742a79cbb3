"""LSTM, GRU and plain cells: products by a count in integers, and the same written out."""

from __future__ import annotations

import pytest
from sympy import expand

import costgraph as cg
from costgraph.counting.count import exact_cost, parameters, rows
from costgraph.errors import ModelError
from costgraph.hardware.machine import Engine
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Role
from costgraph.ir.verify import verify_program
from costgraph.models.onnx_graph import from_onnx
from costgraph.symbols import B, S
from tests.importers.checks import costs_as_written_out
from tests.importers.onnx_files import NODE, TensorProto, graph, saved, zeros

IN, HIDDEN = 8, 16
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
#: Sigmoids, tangents, and plain operations per state element and step, sums of gates apart.
CELLS = {"LSTM": (3, 2, 4), "GRU": (2, 1, 5), "RNN": (0, 1, 0)}


def layer(tmp_path, kind, ways=1, length="seq", batch="batch", bias=True, start=False,
          lengths=False, options=None):  # fmt: skip
    wide = GATES[kind] * HIDDEN
    held = {"w": (ways, wide, IN), "r": (ways, wide, HIDDEN), "b": (ways, 2 * wide)}
    states = ["h", "c"] if kind == "LSTM" else ["h"]
    operands = ["x", "w", "r", "b" if bias else ""]
    inputs = [("x", [length, batch, IN])]
    if lengths:
        operands.append("lengths")
        inputs.append(("lengths", [batch], TensorProto.INT32))
    if start:
        operands += ["", *(f"{s}0" for s in states)]
        held |= {f"{s}0": (ways, 2, HIDDEN) for s in states}
    outs = ["y", *states]
    node = NODE(
        kind, operands, outs, hidden_size=HIDDEN,
        direction="bidirectional" if ways == 2 else "forward", **(options or {}),
    )  # fmt: skip
    made = graph([node], inputs, [(o, None) for o in outs], [zeros(n, *s) for n, s in held.items()])
    return from_onnx(saved(tmp_path / "cell.onnx", made))


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("ways", [1, 2])
def test_products_and_weights(kind, ways, tmp_path):
    program = layer(tmp_path, kind, ways)
    verify_program(program)
    wide = GATES[kind] * HIDDEN
    products = 2 * wide * (IN + HIDDEN) * ways
    assert expand(exact_cost(program.graph).flops_of(Engine.TENSOR) - products * B * S) == 0
    assert parameters(program.graph) == ways * (wide * (IN + HIDDEN) + 2 * wide)
    shapes = [program.graph.tensors[o].shape for o in program.graph.outputs]
    assert shapes[0] == (S, ways, B, HIDDEN)
    assert set(shapes[1:]) == {(ways, B, HIDDEN)}


@pytest.mark.parametrize("kind", GATES)
def test_work_of_a_step_element_by_element(kind, tmp_path):
    cost = exact_cost(layer(tmp_path, kind, bias=False).graph)
    sigmoids, tangents, plain = CELLS[kind]
    gates = GATES[kind] if kind != "GRU" else 3
    per = 2 * sigmoids + plain + gates
    assert expand(cost.flops_of(Engine.SPECIAL) - (sigmoids + tangents) * HIDDEN * B * S) == 0
    assert expand(cost.flops_of(Engine.VECTOR) - per * HIDDEN * B * S) == 0


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("ways", [1, 2])
def test_steps_are_a_region_that_costs_what_it_costs_written_out(kind, ways, tmp_path):
    program = layer(tmp_path, kind, ways, length=5, batch=2, start=True)
    regions = [n for n in program.graph.nodes if isinstance(n.op, Repeat)]
    assert [n.op.count for n in regions] == [5] * ways
    costs_as_written_out(program.graph)


def test_steps_run_one_after_another(tmp_path):
    program = layer(tmp_path, "LSTM")
    compiled = cg.compile(program, "h100", "fuse,quantize{preset=w8a16}")
    (row,) = (r for r in compiled.breakdown("forward", B=1, S=1000).rows if "recurrent" in r.name)
    # Every step reads the recurrent matrix, here of a byte an element with scales and biases.
    gates = GATES["LSTM"] * HIDDEN
    assert (row.count, row.bytes_by_role["weight"]) == (
        1000,
        gates * HIDDEN + 2 * gates + 4 * gates,
    )
    assert compiled.latency(B=1, S=1000) > 50 * compiled.latency(B=1, S=10)
    # Memory holds one set of weights; a step adds its gates' inputs and its state.
    more = compiled.memory(B=1, S=1000) - compiled.memory(B=1, S=100)
    assert more == 900 * 4 * (gates + HIDDEN)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("options", [{"num_layers": 2, "bidirectional": True}, {"bias": False}])
def test_pytorchs_layers_count_as_their_steps_written_out(kind, options):
    torch = pytest.importorskip("torch")
    from costgraph.models.torch_export import from_torch

    cell = getattr(torch.nn, kind)(IN, HIDDEN, batch_first=True, **options).eval()
    whole = torch.export.export(cell, (torch.zeros(2, 5, IN),), strict=False)
    counted = [
        exact_cost(from_torch(e).graph).flops_of(Engine.TENSOR)
        for e in (whole, whole.run_decompositions())
    ]
    assert counted[0] == counted[1] > 0
    assert parameters(from_torch(whole).graph) == sum(p.numel() for p in cell.parameters())


@pytest.mark.parametrize("before", [0, 1])
def test_a_reset_gate_before_or_behind_the_product(before, tmp_path):
    options = {"linear_before_reset": before}
    program = layer(tmp_path, "GRU", 2, start=True, batch=2, length=5, options=options)
    verify_program(program)
    costs_as_written_out(program.graph)
    products = 2 * 3 * HIDDEN * (IN + HIDDEN) * 2
    assert exact_cost(program.graph).flops_of(Engine.TENSOR) == products * 2 * 5
    held = 2 * 2 * HIDDEN  # the first states, of two sequences
    assert parameters(program.graph) == 2 * 3 * HIDDEN * (IN + HIDDEN + 2) + held
    (region, *_) = (n.op for n in program.graph.nodes if isinstance(n.op, Repeat))
    weights = [t for t in region.body.sources if t.role is Role.WEIGHT]
    assert len(weights) == (2 if before else 4)


def test_activations_of_cells_are_those_that_the_file_names(tmp_path):
    usual = exact_cost(layer(tmp_path, "LSTM", bias=False).graph)
    named = ["HardSigmoid", "Relu", "Tanh"]
    other = exact_cost(layer(tmp_path, "LSTM", bias=False, options={"activations": named}).graph)
    # Three gates of 4 instead of 2 and an exponential; one of what is added of 1 instead of one.
    assert expand(
        other.flops_of(Engine.SPECIAL) - usual.flops_of(Engine.SPECIAL) + 4 * HIDDEN * B * S
    ) == 0  # fmt: skip
    assert expand(
        other.flops_of(Engine.VECTOR) - usual.flops_of(Engine.VECTOR) - 7 * HIDDEN * B * S
    ) == 0  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": 3.0}, "'clip' is not supported"),
        ({"input_forget": 1}, "'input_forget' is not supported"),
        ({"activations": ["Affine", "Tanh", "Tanh"]}, "activations.*Affine.*not supported"),
        ({"activations": ["Sigmoid"]}, "activations.*not supported"),
    ],
)
def test_what_changes_a_cell_and_is_not_known_is_refused(options, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        layer(tmp_path, "LSTM", options=options)


def test_lengths_per_sequence_are_said_not_to_count(tmp_path):
    program = layer(tmp_path, "GRU", lengths=True)
    assert any("all steps count for every sequence" in note for note in program.notes)


CLASSES = [
    (kind, {**options, **more})
    for kind in ("LSTM", "GRU", "RNN")
    for options in (
        {},
        {"num_layers": 2, "bidirectional": True},
        {"bias": False, "batch_first": True},
    )
    for more in (
        ({}, {"proj_size": 6})
        if kind == "LSTM"
        else ({}, {"nonlinearity": "relu"})
        if kind == "RNN"
        else ({},)
    )
]


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "options"), CLASSES)
def test_products_and_their_bytes_are_those_that_pytorch_runs(kind, options):
    torch = pytest.importorskip("torch")
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    from costgraph.models.torch_export import from_torch

    class Moved(TorchDispatchMode):
        """Bytes of the operands and results of products."""

        total = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
                self.total += sum(t.nbytes for t in (*args, made))
            return made

    cell = getattr(torch.nn, kind)(IN, HIDDEN, **options).eval()
    x = torch.zeros(3, 5, IN)
    counter, moved = FlopCounterMode(display=False), Moved()
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        with counter:
            cell(x)
        with moved:
            cell(x)
    program = from_torch(torch.export.export(cell, (x,), strict=False))
    verify_program(program)
    assert exact_cost(program.graph).flops_of(Engine.TENSOR) == counter.get_total_flops() > 0
    assert parameters(program.graph) == sum(p.numel() for p in cell.parameters())
    products = [r for r in rows(program.graph) if r.kind == "linear"]
    assert sum(r.count * r.cost.total_bytes for r in products) == moved.total


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_a_cell_is_one_step_of_its_layer(kind):
    torch = pytest.importorskip("torch")
    from costgraph.models.torch_export import from_torch

    cell = getattr(torch.nn, f"{kind}Cell")(IN, HIDDEN).eval()
    whole = torch.export.export(cell, (torch.zeros(3, IN),), strict=False)
    program = from_torch(whole)
    verify_program(program)
    gates = GATES[kind] * HIDDEN
    assert exact_cost(program.graph).flops_of(Engine.TENSOR) == 2 * 3 * gates * (IN + HIDDEN)
    assert parameters(program.graph) == sum(p.numel() for p in cell.parameters())
