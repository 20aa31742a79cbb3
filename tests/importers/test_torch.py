"""The whole way from PyTorch; skipped where it is not installed."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from sympy import expand

import costgraph as cg
from costgraph.counting.count import exact_cost, parameters
from costgraph.errors import ModelError
from costgraph.hardware.machine import Engine
from costgraph.ir.tensor import Role
from costgraph.ir.verify import verify_program
from costgraph.symbols import B, S, symbol

torch = pytest.importorskip("torch")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from costgraph.models.torch_export import from_torch, load_pt2, trace  # noqa: E402
from tests.importers import tiny_llama  # noqa: E402
from tests.importers.programs import PROGRAMS, made  # noqa: E402
from tests.importers.tiny_models import ConvNet, Encoder  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def decoder():
    model = tiny_llama.made()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model, tiny_llama.exported(model, tiny_llama.example())


@pytest.fixture(scope="module")
def core(decoder):
    return decoder[1].run_decompositions()


def counted(model, *example) -> int:
    # The counter has no rule for the CPU's fused attention: let it see the products.
    written_out = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), written_out:
        model(*example)
    return counter.get_total_flops()


@pytest.mark.parametrize("shape", [(2, 8), (3, 17)])
@pytest.mark.parametrize("recognise", [False, True])
def test_products_equal_pytorchs_own_count(decoder, shape, recognise):
    model, exported = decoder
    program = from_torch(exported, mask="compute", recognise=recognise)
    verify_program(program)
    point = {B: shape[0], S: shape[1]}
    mine = exact_cost(program.graph).flops_of(Engine.TENSOR).xreplace(point)
    assert mine == counted(model, torch.zeros(shape, dtype=torch.int64))
    assert parameters(program.graph) == sum(p.numel() for p in model.parameters())


def test_the_decomposed_program_counts_the_same(decoder, core):
    _, exported = decoder
    whole, parts = (
        exact_cost(from_torch(e, mask="compute").graph).flops_of(Engine.TENSOR)
        for e in (exported, core)
    )
    assert expand(whole - parts) == 0


def test_encoder_and_convolutions_equal_pytorchs_own_count():
    encoder = Encoder().eval()
    program = from_torch(tiny_llama.exported(encoder, tiny_llama.example()))
    mine = exact_cost(program.graph).flops_of(Engine.TENSOR).xreplace({B: 2, S: 8})
    assert mine == counted(encoder, tiny_llama.example())
    model, image = ConvNet().eval(), torch.zeros((2, 3, 32, 32))
    shapes = ({0: torch.export.Dim("batch")},)
    program = from_torch(torch.export.export(model, (image,), dynamic_shapes=shapes))
    cost = exact_cost(program.graph)
    # Depthwise products run on the vector engine here: 9 taps, three blocks.
    depthwise = 3 * 2 * 2 * 16 * 8 * 8 * 9
    assert cost.flops_of(Engine.TENSOR).xreplace({B: 2}) + depthwise == counted(model, image)
    assert any("buffers" in note for note in program.notes)


def test_names_of_dimensions_come_from_the_export(decoder):
    _, exported = decoder
    program = from_torch(exported, symbols={"batch": "N_seq", "seq": 32})
    assert program.graph.tensors["ids"].shape == (symbol("N_seq"), 32)
    with pytest.raises(ModelError, match="no dimension is called 'sequence'"):
        from_torch(exported, symbols={"sequence": "S"})


def test_saved_programs_are_read(decoder, tmp_path: Path):
    _, exported = decoder
    path = tmp_path / "tiny.pt2"
    torch.export.save(exported, path)
    program = load_pt2(path)
    assert program.name == "tiny"
    assert {B, S} <= exact_cost(program.graph).total_flops.free_symbols
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ModelError, match=r"not a program of torch\.export"):
        load_pt2(path)


def test_programs_that_change_their_operands_are_read():
    class Adds(torch.nn.Module):
        def forward(self, x):
            y = x * 2
            y.add_(1)
            return y.relu_()

    exported = torch.export.export(Adds(), (torch.zeros(4, 8),))
    program = from_torch(exported, recognise=False)
    assert [n.op.kind for n in program.graph.nodes] == ["scale", "map", "activation"]


def test_only_programs_are_taken():
    with pytest.raises(ModelError, match=r"not a program of torch\.export"):
        trace(torch.nn.Linear(2, 2))


def reread(exported, tmp_path: Path, **options):
    path = tmp_path / "model.pt2"
    torch.export.save(exported, path)
    return load_pt2(path, **options)


@pytest.mark.parametrize("name", PROGRAMS)
def test_writing_is_undone_as_pytorch_undoes_it(name, tmp_path):
    """Our own rewriting, PyTorch's, and the file give one program."""
    module, inputs = PROGRAMS[name]
    exported = torch.export.export(module(), inputs)
    mine = from_torch(trace(exported), recognise=False).graph
    theirs = from_torch(trace(exported.run_decompositions({})), recognise=False).graph
    for found in (exact_cost(g) for g in (mine, theirs)):
        assert found.flops == exact_cost(mine).flops
        assert found.total_bytes == exact_cost(mine).total_bytes
    kinds = [sorted(n.op.kind for n in g.nodes if n.op.kind != "transpose") for g in (mine, theirs)]
    assert kinds[0] == kinds[1]
    assert [mine.tensors[o].shape for o in mine.outputs] == (
        [theirs.tensors[o].shape for o in theirs.outputs]
    )
    assert parameters(mine) == parameters(theirs)
    assert reread(exported, tmp_path, recognise=False).graph == mine


@pytest.mark.parametrize("model", ["decoder", "core", "encoder", "convolutions"])
def test_a_saved_program_is_the_program_in_memory(decoder, core, model, tmp_path):
    if model in ("decoder", "core"):
        exported = core if model == "core" else decoder[1]
    elif model == "encoder":
        exported = tiny_llama.exported(Encoder().eval(), tiny_llama.example())
    else:
        shapes = ({0: torch.export.Dim("batch")},)
        image = torch.zeros((2, 3, 32, 32))
        exported = torch.export.export(ConvNet().eval(), (image,), dynamic_shapes=shapes)
    assert reread(exported, tmp_path).graph == from_torch(exported).graph


def test_a_buffer_may_be_called_as_a_node(tmp_path):
    module, inputs = PROGRAMS["called_alike"]
    graph = from_torch(torch.export.export(module(), inputs), recognise=False).graph
    assert parameters(graph) == 8 + 4 + 32
    (product,) = (n for n in graph.nodes if set(n.inputs) == {"cos", "add"})
    assert all(graph.tensors[i].role is Role.WEIGHT for i in product.inputs)


def test_weights_that_share_memory_count_once(tmp_path):
    module, inputs = PROGRAMS["tied"]
    exported = torch.export.export(module(), inputs)
    assert parameters(from_torch(exported).graph) == 8 * 8 + 2 * 8
    assert parameters(reread(exported, tmp_path).graph) == 8 * 8 + 2 * 8


def test_writing_into_repeated_elements_is_refused():
    def repeated(m, x):
        y = x[:1] + 1
        y.expand(4, 8)[0].mul_(2)
        return y

    exported = torch.export.export(made(repeated), (torch.zeros(4, 8),))
    with pytest.raises(ModelError, match="elements repeat"):
        trace(exported)


class Differs(torch.nn.Module):
    """Operators that only PyTorch's decompositions make readable, beside one that stays whole."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(8)

    def forward(self, x):
        y = torch.nn.functional.pairwise_distance(self.norm(x), x)
        return y.logit()


def test_what_has_no_rule_is_decomposed_and_said(tmp_path):
    exported = torch.export.export(Differs().eval(), (torch.zeros(4, 8),))
    try:
        from_torch(trace(exported))
    except ModelError as error:
        reason = str(error)
    else:
        pytest.skip("every operator of the example has a rule by now")
    program = from_torch(exported)
    assert any("decomposed" in note and reason[:60] in note for note in program.notes)
    assert "layer-norm" in {n.op.kind for n in program.graph.nodes}  # not decomposed
    with pytest.raises(ModelError, match=r"save exported\.run_decompositions\(\) instead"):
        reread(exported, tmp_path)
    assert exact_cost(reread(exported.run_decompositions(), tmp_path).graph).total_flops > 0


def test_what_pytorch_cannot_decompose_either_is_the_first_error():
    class Random(torch.nn.Module):
        def forward(self, x):
            return x[x > 0]

    exported = torch.export.export(Random(), (torch.zeros(4, 8),))
    with pytest.raises(ModelError, match="depends on data"):
        from_torch(exported)


def test_compile_takes_a_program_in_memory(decoder):
    compiled = cg.compile(decoder[1], "h100", "fuse", dims={"batch": "B", "seq": "T + 1"})
    assert compiled.latency.symbols == (B, symbol("T"))


@pytest.mark.parametrize("name", ["T", "q", "N", "G", "K", "L", "past", "c"])
def test_any_symbol_is_a_dimension_like_any_other(decoder, name):
    """No name is bound to another length: costs are the same under every name."""
    plain = cg.compile(from_torch(decoder[1], {"seq": "length9"}), "h100")
    named = cg.compile(from_torch(decoder[1], {"seq": name}), "h100")
    point = {"B": 2, "length9": 33}
    for metric in ("latency", "flops", "bytes", "memory"):
        one, other = getattr(plain, metric), getattr(named, metric)
        assert one.evaluate(**point) == other.evaluate(**{"B": 2, name: 33})


def test_bounds_of_dimensions_decide_what_pytorch_leaves_open():
    """The last positions of a table, as long as the export promises there are so many."""

    class Table(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("b", torch.zeros(4, 256))

        def forward(self, x):
            s = x.shape[-1]
            return x + self.b[:, max(0, self.b.size(1) - s) :]

    shapes = ({1: torch.export.Dim("seq", max=200)},)
    exported = torch.export.export(Table(), (torch.zeros(4, 8),), dynamic_shapes=shapes)
    program = from_torch(exported)
    assert program.graph.tensors[program.graph.outputs[0]].shape == (4, S)
    assert [(x.expr, x.bound) for x in program.limits] == [(S, 200)]
