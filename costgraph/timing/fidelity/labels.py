"""Labels of variants: what tells fits of one kind apart, and which of them are alike.

The one place that makes them from rows of timings. Files of calibrations carry them, and
formulas look them up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sympy import Integer

from costgraph.timing.fidelity.collective import over_nodes
from costgraph.timing.fidelity.collective import variant as exchange_variant
from costgraph.timing.fidelity.table import CLASSES, Datasheet

#: Behind variants that a host's clock timed.
HOST_SYNC = "@host-sync"
#: Behind labels of kernels in untuned Triton.
TRITON = "@triton"
#: Data types of one width on one engine.
SAME_WIDTH = {"fp16": "bf16", "bf16": "fp16"}


@dataclass(frozen=True)
class Unserved:
    """A variant that was timed with one kernel alone, which some frameworks' servers do not run.

    Attributes:
        kind: of the form.
        variant: that was timed.
        frameworks: whose servers run another kernel.
        stand: the variant whose efficiencies and latencies theirs take instead.
        instructions: kinds of tensor instructions of the devices that it holds for; empty: all.
    """

    kind: str
    variant: str
    frameworks: tuple[str, ...]
    stand: str
    instructions: tuple[str, ...] = ()


UNSERVED = (
    # Timed: TensorRT-LLM's CUTLASS block. Launch commands of published runs name others
    # (``moe_config: backend: TRTLLM``, ``--moe-runner-backend flashinfer_trtllm``).
    Unserved("moe", "nvfp4", ("trtllm", "vllm", "sglang"), "fp8"),
    # Timed: TensorRT-LLM's CUTLASS block on Hopper, which others do not have, and DeepGEMM on
    # Blackwell, which published runs take from 256 requests on only (``MOE_BACKEND="TRTLLM"``).
    Unserved("moe", "fp8_block", ("vllm", "sglang"), "fp8"),
    Unserved("moe", "fp8_block", ("trtllm",), "fp8", ("tcgen05",)),
    # Timed: SGLang's CUTLASS kernel, a scale per tensor or row. TensorRT-LLM calls cuBLAS (its
    # operator ``cublas_scaled_mm``), whose 16-bit products were timed.
    Unserved("gemm", "fp8", ("trtllm",), "bf16"),
)
#: Behind the types of attention in decode steps where every query head has a cached head of its
#: own and the framework runs another kernel for that, on devices with these tensor instructions.
#: TensorRT-LLM's kernel for groups (XQA) is not taken then ("do not use XQA kernel for vanilla
#: MHA", ``supportConfigCommon``): an older one multiplies on vector units. Blackwell for data
#: centres (``tcgen05``) has one kernel for both.
LONE = "-lone"
LONERS: Mapping[str, tuple[str, ...]] = {"trtllm": ("mma", "wgmma")}
#: Behind the types of attention over prompts where a framework's kernel of narrow operands suits
#: other heads: TensorRT-LLM's, on Ada, is quick for heads of 128 alone. Against its 16-bit kernel
#: it takes 0.6 times there, 1.3 times for heads of 64 and 1.6 times for heads of 256.
UNTUNED = "-untuned"
#: By framework: kinds of tensor instructions, types, and the size of heads that is not marked.
TUNED: Mapping[str, tuple[str, str, int]] = {"trtllm": ("mma", "fp8-fp8", 128)}
#: Frameworks whose kernels for prompts pack the query heads that share a cached head into one
#: tile, on devices with these tensor instructions: FlashAttention 3 always does where sequences
#: differ in length (``should_pack_gqa``, hopper/heuristics.h).
PACKERS: Mapping[str, tuple[str, ...]] = {"vllm": ("wgmma",), "fa3": ("wgmma",)}


def stand_in(kind: str, variant: str, framework: str, instruction: str) -> str | None:
    """The variant that stands in for one whose timed kernel a framework's servers do not run.

    None where they run it, as far as is known. ``instruction`` is the device's kind of tensor
    instructions.
    """
    for row in UNSERVED:
        here = not row.instructions or instruction in row.instructions
        if (row.kind, row.variant) == (kind, variant) and framework in row.frameworks and here:
            return row.stand
    return None


def run_by(
    kind: str, variants: tuple[str, ...], framework: str, instruction: str
) -> tuple[str, ...]:
    """Variants, stand-ins in the place of those that a framework's servers do not run.

    The latter come last: a device may have nothing else.
    """
    stands = (stand_in(kind, v, framework, instruction) or v for v in variants)
    return tuple(dict.fromkeys((*stands, *variants)))


def attended(
    kind: str, variant: str, framework: str, instruction: str, lone: bool, head: Any
) -> str:
    """The variant of attention with the mark of the kernel that a framework has for its heads.

    Args:
        kind: ``decode`` or ``prefill``; no other is marked.
        framework: empty for all together: where one alone has a kernel, that was timed.
        lone: whether every query head has a cached head of its own.
        head: elements of a head; where that is no number it is taken for the usual size.
    """
    plain, at, library = variant.partition("@")
    if kind == "decode" and lone and at and instruction in LONERS.get(framework, ()):
        plain += LONE
    for name, (where, types, tuned) in TUNED.items():
        there = framework in ("", name) and (instruction, plain) == (where, types)
        if kind == "prefill" and there and getattr(head, "is_number", False) and head != tuned:
            plain += UNTUNED
    return plain + at + library


def unmarked(variant: str) -> str:
    """The variant without the mark of one device's kernel, as others take it."""
    return variant.replace(UNTUNED, "")


def types_of(variant: str) -> str:
    """The data types of a variant, without marks and the library."""
    return unmarked(variant).partition("@")[0].removesuffix(LONE)


def packs(variant: str, instruction: str) -> bool:
    """Whether the kernel of a variant packs query heads that share a cached head."""
    return instruction in PACKERS.get(variant.partition("@")[2], ())


def unusual(kind: str, columns: Mapping[str, Any], row: int) -> str:
    """Marks rows whose kernel says nothing of other devices: experts in untuned Triton.

    The mark stands behind the variant as label of the kernel; a variant without one is that of
    a library's usual kernel, which other devices take.
    """
    return TRITON if kind == "moe" and "triton" in str(columns["backend"][row]) else ""


def alike(variant: str) -> tuple[str, ...]:
    """A variant and those that take the same time: 16-bit types by width and engine."""
    plain, at, library = variant.partition("@")
    other = "-".join(SAME_WIDTH.get(part, part) for part in plain.split("-"))
    return (variant,) if other == plain else (variant, other + at + library)


def variant_of(
    kind: str,
    columns: Mapping[str, Any],
    row: int,
    by_backend: bool = False,
    sheets: Mapping[str, Datasheet] = MappingProxyType({}),
) -> str:
    """The part of a group's name behind the device: types, phase, backend; for exchanges the
    collective, topology and ranks, of the device's sheet."""
    cell = {k: str(v[row]) for k, v in columns.items() if k in _NAMED}
    if kind == "exchange":
        nodes, ranks = int(columns["nodes"][row]), int(columns["n_gpus"][row])
        place = sheets[str(columns["hw"][row])].topology if nodes == 1 else over_nodes(nodes)
        library = library_of(cell["backend"], cell["timing"]) if by_backend else ""
        return exchange_variant(cell["op"], place, ranks, library)
    if kind == "elementwise":
        return CLASSES.get(cell["op"], "map")
    name = cell["dtype"]
    if kind == "host_elementwise":
        return f"{name}-{cell['op']}"
    if kind in ("prefill", "decode"):
        name = f"{name}-{cell['kv_dtype']}"
    if kind == "mla":
        name = f"{cell['phase']}-{cell['dtype']}-{cell['kv_dtype']}"
    if kind == "gemm" and cell["source"] == "llmcompass":
        name += HOST_SYNC
    framework = short_backend(cell["backend"]) if "backend" in cell else ""
    name += f"@{framework}" if by_backend else ""
    sheet = sheets.get(str(columns["hw"][row])) if kind in ("prefill", "decode") else None
    if sheet is not None:
        query, cached, head = (columns[k][row] for k in ("n_heads", "n_kv_heads", "head_dim"))
        name = attended(
            kind, name, framework, sheet.instruction, query == cached, Integer(int(head))
        )
    return name


_NAMED = ("op", "dtype", "kv_dtype", "phase", "backend", "source", "timing")


def library_of(backend: str, timing: str = "") -> str:
    """Whose exchange a row timed: ``nccl``, ``vllm`` … as replayed in a graph, or ``…-eager``.

    Kernels that a profiler saw in eager PyTorch contain the wait for the last device.
    """
    name = short_backend(backend).removesuffix("-graph")
    return f"{name}-eager" if timing == "kernel_eager" else name


def short_backend(text: str) -> str:
    """``trtllm-1.0.0:torch_flow`` is ``trtllm``; custom all-reduces keep their mode."""
    head, _, tail = text.partition(":")
    name = head.split("-")[0].lower() or "any"
    mode = tail.rsplit("_", 1)[-1] if tail.endswith(("_eager", "_graph")) else ""
    if "custom" in text and not mode:
        mode = head.rsplit("_", 1)[-1]
    return f"{name}-{mode}" if mode else name
