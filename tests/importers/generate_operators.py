"""Makes ``data/operators.json`` anew; needs ``costgraph[torch]``.

    python tests/importers/generate_operators.py

Small programs of one or a few of PyTorch's operators, exported whole and decomposed, and the
products that PyTorch's own counter finds when they run.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, export
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[2]))

from costgraph.models.torch_export import trace
from costgraph.models.traced.codec import to_json

OUT = Path(__file__).parent / "data" / "operators.json"
z = torch.zeros
BATCH, LENGTH = Dim("batch"), Dim("seq", max=200)
ROWS = {0: BATCH, 1: LENGTH}


def whole(*shape: int) -> Tensor:
    """Indices."""
    return z(shape, dtype=torch.int64)


def padded_table(m: Any, x: Tensor) -> Tensor:
    """The end of a stored table, of the length of the operand."""
    table = m[0].weight
    return x + table[max(0, table.size(0) - x.shape[1]) :]


def regions(m: Any, x: Tensor) -> Tensor:
    """A mask that is written part by part."""
    mask = x.new_zeros((8, 8))
    mask[0:4, 0:4] = 1
    mask[4:8] = 2
    return x + mask


def rotated(m: Any, x: Tensor, angles: Tensor) -> Tensor:
    """Rotary embedding by complex numbers."""
    return torch.view_as_real(torch.view_as_complex(x) * torch.view_as_complex(angles))


#: Functions of modules and operands, the modules, the operands.
CASES: dict[str, tuple[Any, ...]] = {
    "rotary by complex numbers": (rotated, (), (z(2, 8, 4, 8, 2), z(1, 8, 1, 8, 2))),
    "shared keys": (
        lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), (),
        (z(2, 8, 16, 32), z(2, 2, 16, 32), z(2, 2, 16, 32)),
    ),
    "causal from the first key": (
        lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), (),
        (z(2, 4, 3, 16), z(2, 4, 9, 16), z(2, 4, 9, 16)),
    ),
    "multi-head attention": (
        lambda m, x: m[0](x, x, x, need_weights=False)[0],
        (lambda: nn.MultiheadAttention(64, 4, batch_first=True),), (z(2, 9, 64),),
    ),
    "multi-head attention, weights handed out": (
        lambda m, x: m[0](x, x, x)[0],
        (lambda: nn.MultiheadAttention(64, 4, batch_first=True),), (z(2, 9, 64),),
    ),
    "encoder layer": (
        lambda m, x: m[0](x),
        (lambda: nn.TransformerEncoderLayer(64, 4, 128, batch_first=True),), (z(2, 9, 64),),
    ),
    "encoder and decoder": (
        lambda m, x, y: m[0](x, y),
        (lambda: nn.Transformer(64, 4, 1, 1, 128, batch_first=True),), (z(2, 9, 64), z(2, 5, 64)),
    ),
    "addend of a batched product": (
        lambda m, a, q, k: torch.baddbmm(a, q, k, beta=1.0, alpha=0.25), (),
        (z(4, 1, 8), z(4, 8, 16), z(4, 16, 8)),
    ),
    "differences": (
        lambda m, p: (torch.diff(p, prepend=p[:, :1] - 1, dim=-1) != 1).cumsum(-1), (),
        (whole(2, 8),), (ROWS,),
    ),
    "an empty part": (
        lambda m, x: torch.cat([x[..., :16] * 2, x[..., 16:]], dim=-1), (), (z(2, 8, 16),),
    ),
    "a part as long as an operand": (
        padded_table, (lambda: nn.Embedding(256, 8),), (z(2, 9, 8),), (ROWS,),
    ),
    "regions written one by one": (regions, (), (z(2, 8, 8),)),
    "rows written by index": (
        lambda m, cache, x, p: cache.index_copy(2, p, x) * 1, (),
        (z(1, 2, 32, 16), z(1, 2, 1, 16), whole(1)),
    ),
    "normed weights": (
        lambda m, x: m[0](x), (lambda: nn.utils.weight_norm(nn.Conv1d(4, 4, 3)),), (z(1, 4, 9),),
    ),
    "norm over two axes": (
        lambda m, x: m[0](x), (lambda: nn.LayerNorm([4, 8]),), (z(2, 4, 8),),
    ),
    "columns of patches": (lambda m, x: F.unfold(x, 3), (), (z(1, 3, 8, 8),)),
    "real Fourier transform": (lambda m, x: torch.fft.rfft(x).abs(), (), (z(2, 64),)),
    "short-time Fourier transform": (
        lambda m, x: torch.stft(x, 16, return_complex=True, window=torch.ones(16)).abs(), (),
        (z(2, 64),),
    ),
    "bags of embeddings": (
        lambda m, x: m[0](x), (lambda: nn.EmbeddingBag(10, 4),), (whole(3, 4),),
    ),
    "linear interpolation": (
        lambda m, x: F.interpolate(x, scale_factor=2, mode="bilinear"), (), (z(1, 3, 8, 8),),
    ),
    "nearest in three dimensions": (
        lambda m, x: F.interpolate(x, scale_factor=2), (), (z(1, 3, 4, 4, 4),),
    ),
    "sampling on a grid": (
        lambda m, x, g: F.grid_sample(x, g), (), (z(1, 2, 4, 4), z(1, 4, 4, 2)),
    ),
    "transposed convolution": (
        lambda m, x: m[0](x), (lambda: nn.ConvTranspose3d(2, 2, 2, 2),), (z(1, 2, 2, 2, 2),),
    ),
    "convolution of an even kernel": (
        lambda m, x: m[0](x), (lambda: nn.Conv2d(2, 2, 4, padding="same"),), (z(1, 2, 8, 8),),
    ),
    "normed rows": (lambda m, x: F.normalize(x, dim=-1), (), (z(2, 8),)),
    "a product of three": (
        lambda m, a, b, c: torch.einsum("bi,bj,ij->b", a, b, c), (), (z(2, 3), z(2, 4), z(3, 4)),
    ),
    "a product with axes left out": (
        lambda m, a, b: torch.einsum("...i,ij->...j", a, b), (), (z(2, 5, 3), z(3, 4)),
    ),
    "a product with a sum": (
        lambda m, a, b: torch.einsum("bij,bk->bi", a, b), (), (z(2, 3, 4), z(2, 5)),
    ),
    "scores of five axes": (
        lambda m, q, k, v, b: torch.einsum(
            "bhgst,bthd->bshgd",
            torch.softmax(torch.einsum("bshgd,bthd->bhgst", q, k) + b, -1), v), (),
        (z(2, 9, 2, 3, 16), z(2, 9, 2, 16), z(2, 9, 2, 16), z(9, 9)),
    ),
    "a form of two vectors": (
        lambda m, a, b: m[0](a, b), (lambda: nn.Bilinear(3, 4, 5),), (z(2, 3), z(2, 4)),
    ),
    "a product over chosen axes": (
        lambda m, a, b: torch.tensordot(a, b, dims=([1], [0])), (), (z(2, 3, 4), z(3, 5)),
    ),
    "distances": (lambda m, a, b: torch.cdist(a, b), (), (z(2, 3, 4), z(2, 5, 4))),
    "all pairs": (lambda m, a, b: torch.outer(a, b), (), (z(3), z(4))),
    "sums of exponentials": (lambda m, x: torch.logcumsumexp(x, -1), (), (z(2, 8),)),
    "norm of each channel": (
        lambda m, x: m[0](x), (lambda: nn.InstanceNorm2d(3),), (z(1, 3, 8, 8),),
    ),
    "pooling to a size": (lambda m, x: F.adaptive_avg_pool2d(x, 3), (), (z(1, 3, 8, 8),)),
    "gated halves": (lambda m, x: F.glu(x), (), (z(2, 8),)),
    "functions of one operand": (
        lambda m, x: (m[0](x), F.softshrink(x), F.logsigmoid(x), F.softsign(x)),
        (lambda: nn.PReLU(3),), (z(1, 3, 8, 8),),
    ),
    "occurrences": (lambda m, x: torch.bincount(x, minlength=8), (), (whole(5),)),
    "moments and bounds": (
        lambda m, x: (torch.var_mean(x, -1), x.aminmax(dim=-1)), (), (z(2, 8),),
    ),
    "a product of bytes": (
        lambda m, a, b: torch._int_mm(a, b), (),
        (z((32, 16), dtype=torch.int8), z((16, 8), dtype=torch.int8)),
    ),
}  # fmt: skip


class Program(nn.Module):
    """A function with its modules."""

    def __init__(self, function: Callable[..., Any], made: tuple[Callable[[], nn.Module], ...]):
        super().__init__()
        self.parts = nn.ModuleList(make() for make in made)
        self.function = function

    def forward(self, *operands: Tensor) -> Any:
        return self.function(self.parts, *operands)


def main() -> None:
    warnings.simplefilter("ignore")
    torch.backends.mha.set_fastpath_enabled(False)
    found: dict[str, Any] = {}
    for name, (function, made, operands, *shapes) in CASES.items():
        model = Program(function, made).eval().requires_grad_(False)
        written_out = sdpa_kernel(SDPBackend.MATH)
        with FlopCounterMode(display=False) as counter, torch.no_grad(), written_out:
            model(*operands)
        dynamic = (shapes[0],) if shapes else None
        with torch.no_grad():
            program = export(model, operands, dynamic_shapes=dynamic, strict=False)
        found[name] = {
            "products": counter.get_total_flops(),
            "parameters": sum(p.numel() for p in model.parameters()),
            "whole": to_json(trace(program, name=name)),
            "decomposed": to_json(trace(program.run_decompositions(), name=name)),
        }
    lines = (f"{json.dumps(n)}:{json.dumps(v, separators=(',', ':'))}" for n, v in found.items())
    OUT.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
