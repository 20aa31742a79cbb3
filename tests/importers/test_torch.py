"""The whole way from PyTorch; skipped where it is not installed."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from sympy import expand

from costgraph.count import exact_cost, parameters
from costgraph.errors import ModelError
from costgraph.machine import Engine
from costgraph.symbols import B, S, symbol
from costgraph.verify import verify_program

torch = pytest.importorskip("torch")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from costgraph.models.torch_export import from_torch, load_pt2, trace  # noqa: E402
from tests.importers import tiny_llama  # noqa: E402
from tests.importers.tiny_models import ConvNet, Encoder  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def decoder():
    model = tiny_llama.made()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model, tiny_llama.exported(model, tiny_llama.example())


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


def test_the_decomposed_program_counts_the_same(decoder):
    _, exported = decoder
    whole, parts = (
        exact_cost(from_torch(e, mask="compute").graph).flops_of(Engine.TENSOR)
        for e in (exported, exported.run_decompositions())
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
