"""Labels of variants: what tells fits of one kind apart, and which of them are alike.

The one place that makes them from rows of timings. Files of calibrations carry them, and
formulas look them up.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from costgraph.timing.fidelity.collective import over_nodes
from costgraph.timing.fidelity.collective import variant as exchange_variant
from costgraph.timing.fidelity.table import CLASSES, Datasheet

#: Behind variants that a host's clock timed.
HOST_SYNC = "@host-sync"
#: Behind labels of kernels in untuned Triton.
TRITON = "@triton"
#: Data types of one width on one engine.
SAME_WIDTH = {"fp16": "bf16", "bf16": "fp16"}

#: Variants that were timed with one kernel alone, which servers of these frameworks do not run.
#: NVFP4 experts: of TensorRT-LLM's CUTLASS block only, where launch commands of published runs
#: name others (``moe_config: backend: TRTLLM``, ``--moe-runner-backend flashinfer_trtllm``).
UNSERVED: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("moe", "nvfp4"): ("trtllm", "vllm", "sglang"),
}


def unserved(kind: str, variant: str, framework: str) -> bool:
    """Whether a variant was timed with kernels alone that a framework's servers do not run."""
    return framework in UNSERVED.get((kind, variant), ())


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
    if by_backend:
        name += f"@{short_backend(cell['backend'])}"
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
