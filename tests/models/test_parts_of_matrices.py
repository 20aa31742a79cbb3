"""What a matrix has once: a shard, a pruned and a narrower matrix have all of it."""

from __future__ import annotations

from typing import Any

import pytest
from sympy import Integer

import costgraph as cg
from costgraph.ir.dtypes import DType
from costgraph.ir.tensor import Role, Tensor
from costgraph.models import load_model
from costgraph.models.catalog import config_of
from costgraph.models.checkpoint.gguf_types import TYPES
from costgraph.models.checkpoint.layout import (
    E4M3,
    FP16,
    FP32,
    INTEGERS,
    NVFP4,
    Layout,
    bnb4,
)
from costgraph.models.checkpoint.methods import described, packed_integers
from costgraph.passes.precision.families import FAMILIES

AQLM = {
    "quant_method": "aqlm", "in_group_size": 8, "out_group_size": 1, "num_codebooks": 1,
    "nbits_per_codebook": 16,
    "linear_weights_not_to_quantize": ["lm_head.weight", "model.embed_tokens.weight"],
}  # fmt: skip
#: Bytes of a book of 65,536 entries of eight fp16 numbers.
BOOK = 65536 * 8 * 2


def aqlm(name: str) -> dict[str, Any]:
    return {**config_of(name), "quantization_config": AQLM}


def stored(compiled: Any) -> int:
    return int(sum(t.bytes * n for t, n in compiled.program.phases[-1].weights()))


def weight(compiled: Any, name: str) -> Tensor:
    found = (t for t, _ in compiled.program.phases[-1].weights() if t.name == f"{name}.weight")
    return next(found)


def test_a_shard_has_the_whole_code_book() -> None:
    made = cg.compile(aqlm("llama-2-7b"), "8xh100", passes="parallel{tp=8}")
    # 512 rows of 4096 weights in 2 bit, their fp16 scales, the book: of a column-wise cut.
    assert weight(made, "q_proj").bytes == 512 * 4096 // 4 + 512 * 2 + BOOK == 1573888
    # 4096 rows of 512: as many scales as before the cut.
    assert weight(made, "o_proj").bytes == 512 * 4096 // 4 + 4096 * 2 + BOOK


#: AQLM's own list of its models (README of Vahe1994/AQLM): books × bits, elements of a code, GB.
PUBLISHED = [
    ("llama-2-7b", 1, 16, 8, "2.4"), ("llama-2-7b", 8, 8, 32, "2.2"),
    ("llama-2-7b", 1, 8, 8, "1.34"), ("llama-2-13b", 1, 16, 8, "4.1"),
    ("llama-2-13b", 2, 8, 8, "3.8"), ("llama-2-70b", 1, 16, 8, "18.8"),
    ("llama-2-70b", 2, 8, 8, "18.2"), ("llama-3-8b", 1, 16, 8, "4.1"),
    ("llama-3-70b", 1, 16, 8, "21.9"), ("mistral-7b", 1, 16, 8, "2.51"),
    ("gemma-2b", 1, 16, 8, "1.7"), ("phi-3-mini-4k", 1, 16, 8, "1.4"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "books", "bits", "group", "published"), PUBLISHED)
def test_published_files(name: str, books: int, bits: int, group: int, published: str) -> None:
    sizes = {"in_group_size": group, "num_codebooks": books, "nbits_per_codebook": bits}
    stated = {"quantization_config": {**AQLM, **sizes}}
    size = sum(t.bytes * n for t, n in load_model({**config_of(name), **stated}).weights())
    digits = len(published.partition(".")[2])
    assert f"{int(size) / 1e9:.{digits}f}" == published


def test_narrower_blocks_have_whole_code_books() -> None:
    assert stored(cg.compile(aqlm("llama-2-7b"), "h100")) == 2381422592
    assert stored(cg.compile(aqlm("llama-3-8b"), "h100", passes="shrink{ffn=1/2}")) == 3378782208


LAYOUTS = {
    "gptq": packed_integers(4, 128, True),
    "aqlm": described("x", "q", AQLM).rules[0].layout,
    "fp8": Layout(E4M3, rows=None, matrix_bits=FP32),
    "int8": Layout(INTEGERS[8], None, 1, FP32, matrix_bits=8),
    "rows": Layout(INTEGERS[4], None, 1, FP16, FP16),
    "nvfp4": NVFP4,
    "nf4": bnb4("nf4", False),
    "nf4-dq": bnb4("nf4", True),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("part", [(2, 1), (1, 2), (4, 4)], ids=str)
def test_parts_store_what_matrices_of_their_size_do(name: str, part: tuple[int, int]) -> None:
    """The format of a whole, on a part of it, is that of a matrix as small."""
    layout = LAYOUTS[name]
    assert layout is not None
    shape = (Integer(1024), Integer(2048))
    cut = tuple(n / by for n, by in zip(shape, part, strict=True))
    whole = Tensor("w", shape, layout.over(shape), Role.WEIGHT)
    small = Tensor("w", cut, layout.over(cut), Role.WEIGHT)
    assert Tensor("w", cut, whole.dtype, Role.WEIGHT).bytes == small.bytes
    # Stacks have each of their matrices' constants, and of a part of them as many.
    stack = Tensor("w", (Integer(8), *cut), whole.dtype, Role.WEIGHT)
    assert stack.bytes == 8 * small.bytes
    assert stack.of_matrices(3 * small.numel) == 3 * small.bytes


CODED: dict[str, DType] = {
    **{n: f.scheme.base for n, f in FAMILIES.items() if f.scheme.base.coded != 1},
    **{t.name: t.format for t in TYPES.values() if t.format.coded != 1},
}


@pytest.mark.parametrize("storage", ["bitmap", "2:4", "csr", "tiled-csl"])
def test_zeros_cannot_be_left_out_of_vector_codes(storage: str) -> None:
    passes = f"prune{{sparsity=1/2, storage={storage}}}"
    dense = cg.compile(aqlm("llama-2-7b"), "h100")
    made = cg.compile(aqlm("llama-2-7b"), "h100", passes=passes)
    assert stored(made) == stored(dense)
    said = {m.node: m.reason for r in made.program.history for m in r.misses}
    assert "a code for 8 weights: zeros cannot be left out one by one" in said["q_proj.weight"]


@pytest.mark.parametrize("name", [n for n in CODED if n in FAMILIES])
def test_vector_codes_of_quantize_are_not_pruned(name: str) -> None:
    narrow = f"quantize{{weights={name}}}"
    dense = cg.compile("llama-2-7b", "h100", passes=narrow)
    made = cg.compile("llama-2-7b", "h100", passes=f"{narrow},prune{{sparsity=1/2}}")
    down = weight(dense, "down_proj")
    assert weight(made, "down_proj").bytes == down.bytes
    reasons = [m.reason for r in made.program.history for m in r.misses]
    assert any("zeros cannot be left out" in reason for reason in reasons)


def test_which_formats_have_vector_codes() -> None:
    assert {"e8p2", "ternary"} <= set(CODED)
    assert {n for n in CODED if n.startswith("IQ")} == {
        "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"
    }  # fmt: skip
