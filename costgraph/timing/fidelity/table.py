"""Measured timings: CSV tables by kind, read strictly, and their features.

Columns are those documented in ``docs/fidelity.md``. One row is one measurement
of one call of one operation on one device, in seconds.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from costgraph.errors import InputError, clip, nearest
from costgraph.files import outside
from costgraph.timing.fidelity.collective import COLLECTIVES, least_time
from costgraph.timing.fidelity.forms import filled_tiles

Array: TypeAlias = npt.NDArray[np.float64]
Labels: TypeAlias = npt.NDArray[np.str_]

#: Bytes of one stored element by data type; block formats with their scales.
BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "fp8_block": 1.0, "nvfp4": 0.5625}
#: FLOP/byte in which ridge points are stated.
RIDGE = 300.0
#: Bytes of a table of timings, unpacked, and its rows.
LARGEST_FILE, MOST_ROWS = 2**25, 500_000
#: Memory bandwidth and 16-bit peak of one multiprocessor of an H100 SXM, byte/s and FLOP/s.
FLOW, UNIT = 3350e9 / 132, 989e12 / 132
#: Boost clock of an H100 SXM in Hz, and its board's joules per FLOP at the 16-bit peak.
CLOCK, POWER = 1.98e9, 700 / 989e12
#: Operands up to this many times the L2 cache's size can come from it.
WARM = 1.25
#: The peak that a data type of a table computes at.
PEAK = {
    "fp32": "fp32",
    "bf16": "16",
    "fp16": "16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "nvfp4": "fp4",
}


@dataclass(frozen=True)
class Datasheet:
    """What a device promises.

    Attributes:
        peaks: FLOP/s by peak: ``16``, ``fp8``, ``fp4``, ``fp32``.
        bandwidth: of memory, byte/s.
        multiprocessors: how many.
        l2: bytes of the L2 cache.
        link: byte/s to other devices, one direction.
        latency: seconds per message on that link; zero if it is not stated.
        in_network: switches on that link reduce on the way.
        topology: how that link joins devices (:func:`.exchanges.topology`).
        clock: boost clock in Hz.
        instruction: kind of tensor instructions, for which kernels are written.
        power: of the board in watt.
    """

    peaks: Mapping[str, float]
    bandwidth: float
    multiprocessors: float
    l2: float
    link: float = math.nan
    latency: float = 0.0
    in_network: bool = False
    topology: str = "switch"
    clock: float = math.nan
    instruction: str = ""
    power: float = math.nan

    def peak(self, dtype: str) -> float:
        """FLOP/s for a data type of a table; the next wider one where it has none."""
        chain = {"fp4": ("fp4", "fp8", "16"), "fp8": ("fp8", "16"), "16": ("16", "fp32")}
        for name in (dtype, *chain.get(PEAK[dtype], ("fp32", "16"))):
            if name in self.peaks:
                return self.peaks[name]
        raise InputError(f"the device has no peak for {dtype}")


@dataclass(frozen=True)
class Schema:
    """Columns of one kind of table: whole numbers, texts, and optional ones."""

    numbers: tuple[str, ...]
    texts: tuple[str, ...] = ("dtype",)
    optional: tuple[str, ...] = ("warm_l2",)

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that must be there, besides the device and the time."""
        return (*self.texts, *self.numbers)


_ATTENTION = Schema(
    ("batch", "q_len", "kv_len", "n_heads", "n_kv_heads", "head_dim"),
    ("dtype", "kv_dtype"),
)
SCHEMAS: Mapping[str, Schema] = {
    "gemm": Schema(("m", "n", "k"), optional=("warm_l2", "quant_included")),
    "prefill": _ATTENTION,
    "decode": _ATTENTION,
    "mla": Schema(
        ("batch", "q_len", "kv_len", "n_heads", "kv_lora", "rope_dim"),
        ("phase", "dtype", "kv_dtype"),
    ),
    "moe": Schema(
        (
            "num_tokens",
            "hidden_size",
            "inter_size",
            "topk",
            "num_experts",
            "moe_tp_size",
            "moe_ep_size",
        )
    ),
    "exchange": Schema(("nodes", "n_gpus", "bytes"), ("op",), ()),
    "elementwise": Schema(("rows", "cols"), ("op", "dtype")),
    "host_gemm": Schema(("batch", "m", "n", "k"), optional=()),
    "host_elementwise": Schema(("rows", "cols"), ("op", "dtype")),
}


#: Columns of which the first cannot be larger than the second.
AT_MOST = (("q_len", "kv_len"), ("n_kv_heads", "n_heads"), ("topk", "num_experts"))


@dataclass(frozen=True)
class Table:
    """Rows of one kind: columns by name, seconds, and 1-based file lines."""

    kind: str
    columns: Mapping[str, Any]
    seconds: Array

    def __len__(self) -> int:
        return len(self.seconds)

    def where(self, mask: npt.NDArray[np.bool_]) -> Table:
        """The rows that ``mask`` selects."""
        kept = {k: v[mask] for k, v in self.columns.items()}
        return Table(self.kind, kept, self.seconds[mask])

    def and_of(self, other: Table) -> Table:
        """The rows of both, with the columns that both have."""
        both = [k for k in self.columns if k in other.columns]
        columns = {k: np.concatenate([self.columns[k], other.columns[k]]) for k in both}
        return Table(self.kind, columns, np.concatenate([self.seconds, other.seconds]))

    @property
    def shapes(self) -> list[str]:
        """A text per row that is equal for equal shapes, whatever the device or type."""
        names = SCHEMAS[self.kind].numbers
        extra = [c for c in ("phase", "op") if c in self.columns]
        cells = [self.columns[c] for c in (*extra, *names)]
        return ["|".join(str(c) for c in row) for row in zip(*cells, strict=True)]


def kind_of(header: Sequence[str], first: Mapping[str, str], where: str) -> str:
    """The kind of a table, told from its columns (attention also from its first row)."""
    names = set(header)
    if {"n_kv_heads", "q_len"} <= names:
        return "decode" if first.get("q_len") == "1" else "prefill"
    scores = {k: len(names & set(s.required)) / len(s.required) for k, s in SCHEMAS.items()}
    best = max(scores, key=lambda k: scores[k])
    if scores[best] < 0.5:
        raise InputError(
            f"{where}, line 1: cannot tell the kind of table from columns "
            f"{clip(', '.join(header), 100)}; see docs/fidelity.md for the columns of "
            f"{', '.join(SCHEMAS)}"
        )
    return best


def read_table(path: str | Path, kind: str = "") -> Table:
    """The timings in a CSV file (``.gz`` as well).

    Raises:
        InputError: the file cannot be read, a column is missing or unknown names
            stand in its place, or a value is wrong; names the line and the column.
    """
    path = Path(path)
    where = clip(path.name, 100)[1:-1]
    text = outside.read_text(path, LARGEST_FILE, "a table of timings")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        header = [h.strip() for h in reader.fieldnames or []]
        reader.fieldnames = header
        rows = list(islice(reader, MOST_ROWS + 1))
    except csv.Error as error:
        raise InputError(f"{where}: not a CSV table: {error}") from None
    if len(rows) > MOST_ROWS:
        raise InputError(f"{where}: more than {MOST_ROWS} rows")
    if not header or not rows:
        raise InputError(f"{where}: no rows; the first line must name the columns")
    kind = kind or kind_of(header, rows[0], where)
    if kind not in SCHEMAS:
        raise InputError(f"unknown kind of table {clip(kind)}{nearest(kind, SCHEMAS)}")
    schema = SCHEMAS[kind]
    for name in (*schema.required, "seconds"):
        if name not in header:
            raise InputError(
                f"{where}, line 1: a {kind} table needs a column {name!r}"
                f"{nearest(name, set(header) - set(schema.required))}"
            )
    columns: dict[str, Any] = {}
    for name in schema.numbers:
        columns[name] = np.array([_number(r, name, where, i) for i, r in enumerate(rows, 2)])
    for small, large in AT_MOST:
        if small in columns and large in columns:
            for line in np.flatnonzero(columns[small] > columns[large])[:1] + 2:
                raise InputError(f"{where}, line {line}: {small} is larger than {large}")
    for name in schema.optional:
        cells = [_flag(r, name, where, i) for i, r in enumerate(rows, 2)] if name in header else 0
        columns[name] = np.broadcast_to(np.asarray(cells, float), len(rows)).copy()
    for name in ("hw", "backend", "source", "timing", *schema.texts):
        columns[name] = np.array([str(r.get(name) or "") for r in rows])
    for name in ("dtype", "kv_dtype"):
        if name in columns:
            _known(columns[name], name, BYTES, "data type", where)
    if kind == "exchange":
        _known(columns["op"], "op", COLLECTIVES, "collective", where)
    seconds = np.array(
        [_number(r, "seconds", where, i, whole=False) for i, r in enumerate(rows, 2)]
    )
    return Table(kind, columns, seconds)


def _number(row: Mapping[str, Any], name: str, where: str, line: int, whole: bool = True) -> float:
    text = row.get(name)
    what = "a positive whole number" if whole else "a positive number of seconds"
    try:
        value = float(text or "")
    except (TypeError, ValueError):
        value = math.nan
    if not 0 < value < 1e18 or (whole and value != int(value)):
        raise InputError(f"{where}, line {line}, column {name!r}: {clip(text)} is not {what}")
    return value


def _flag(row: Mapping[str, Any], name: str, where: str, line: int) -> float:
    text = row.get(name)
    if text not in ("0", "1"):
        raise InputError(f"{where}, line {line}, column {name!r}: {clip(text)} is not 0 or 1")
    return float(text)


def _known(values: Labels, name: str, names: Collection[str], what: str, where: str) -> None:
    for line, text in enumerate(values, 2):
        if text not in names:
            raise InputError(
                f"{where}, line {line}, column {name!r}: unknown {what} {clip(str(text))}"
                f"{nearest(str(text), names)}"
            )


def _by_type(values: Labels) -> Array:
    return np.array([BYTES[str(v)] for v in values])


def features(table: Table, sheets: Mapping[str, Datasheet]) -> dict[str, Array]:
    """What the form of the table's kind takes, per row; times at the datasheet's rates.

    ``C`` and ``M`` are seconds of work at peak and of traffic at full bandwidth:
    the roofline's arms. ``ridge`` is peak over bandwidth in units of 300 FLOP/byte.

    Raises:
        InputError: a device has no datasheet.
    """
    c = table.columns
    devices = [str(h) for h in c["hw"]]
    for name in set(devices):
        if name not in sheets:
            raise InputError(f"no datasheet for device {clip(name)}{nearest(name, sheets)}")
    own = [sheets[h] for h in devices]
    bandwidth = np.array([s.bandwidth for s in own])
    found: dict[str, Array] = {"sm": np.array([s.multiprocessors for s in own])}
    if table.kind == "exchange":
        return found | _exchange(c, own)
    peak = np.array([s.peak(str(d)) for s, d in zip(own, c["dtype"], strict=True)])
    found["ridge"] = peak / bandwidth / RIDGE
    found["flow"] = bandwidth / found["sm"] / FLOW
    found["unit"] = peak / found["sm"] / UNIT
    clock = np.array([s.clock for s in own])
    found["clock"] = np.where(np.isnan(clock), 1.0, clock / CLOCK)
    power = np.array([s.power / s.peak("bf16") for s in own])
    found["power"] = np.where(np.isnan(power), 1.0, power / POWER)
    work, moved, more = _COUNTS[table.kind](c)
    if "warm_l2" in c:
        cache = np.array([s.l2 for s in own])
        found["resident"] = np.asarray(c["warm_l2"], float) * (moved <= WARM * cache)
    found["C"], found["M"] = work / peak, moved / bandwidth
    found.update(more)
    if "X" in found:
        # Element-wise work runs in fp32, whatever the type of the operands.
        wide = np.array([s.peak("fp32") for s in own])
        found["C"], found["X"] = work / wide, found["X"] / wide
    if "Q" in found:
        found["Q"] = found["Q"] / bandwidth
    return found


def _exchange(c: Mapping[str, Any], own: Sequence[Datasheet]) -> dict[str, Array]:
    """Seconds of the least messages (``A``) and bytes (``V``) that an exchange needs."""
    columns = (c["op"], c["nodes"], c["n_gpus"], c["bytes"], own)
    found = [
        least_time(str(op), int(nodes), int(ranks), float(size), sheet)
        for op, nodes, ranks, size, sheet in zip(*columns, strict=True)
    ]
    latency, wire = np.array(found).T
    return {"A": latency, "V": wire, "ridge": 1 + 0 * wire}


_Counts: TypeAlias = tuple[Array, Array, dict[str, Array]]


def _gemm(c: Mapping[str, Any]) -> _Counts:
    m, n, k, b = c["m"], c["n"], c["k"], _by_type(c["dtype"])
    # Results are 16 bit or as wide as the operands.
    moved = (m * k + k * n) * b + m * n * np.maximum(b, 2.0)
    quantised = c["quant_included"] * m * k * (2 + b)
    return (
        2 * m * n * k,
        moved,
        {"Q": quantised, "quant": c["quant_included"], "k": k, "n": n, "m": m},
    )


def _attention(c: Mapping[str, Any]) -> _Counts:
    b, q, t = c["batch"], c["q_len"], c["kv_len"]
    h, hk, d, e = c["n_heads"], c["n_kv_heads"], c["head_dim"], _by_type(c["kv_dtype"])
    pairs = q * t - q * (q - 1) / 2
    # Queries and results are 16 bit or as wide as the compute type.
    io = 2 * b * q * h * d * np.maximum(_by_type(c["dtype"]), 2.0)
    more = {"q": q, "T": t, "dh": d, "heads": b * h, "groups": b * hk, "further": 0.0 * q}
    more["tiles"] = filled_tiles(h, hk, np.maximum)
    return 4 * b * h * d * pairs, 2 * b * t * hk * d * e + io, more


def _mla(c: Mapping[str, Any]) -> _Counts:
    b, q, t, h = c["batch"], c["q_len"], c["kv_len"], c["n_heads"]
    latent, rope, e = c["kv_lora"], c["rope_dim"], _by_type(c["kv_dtype"])
    absorbed = c["phase"] == "decode"
    # Expanded heads of prefill: 128 + rope wide keys, 128 wide values (DeepSeek-V2/V3).
    wide = 128 + rope + 128
    pairs = q * t - q * (q - 1) / 2
    work = np.where(absorbed, 2 * b * h * t * (2 * latent + rope), 2 * b * h * pairs * wide)
    decoded = b * t * (latent + rope) * e + b * h * (2 * latent + rope) * 2
    prefilled = b * h * (t + q) * wide * 2
    more = {"T": t, "tokens": b * q, "q": q}
    return work, np.where(absorbed, decoded, prefilled), more


def _moe(c: Mapping[str, Any]) -> _Counts:
    n, d, b = c["num_tokens"], c["hidden_size"], _by_type(c["dtype"])
    inner, experts = c["inter_size"] / c["moe_tp_size"], c["num_experts"] / c["moe_ep_size"]
    pairs = n * c["topk"] / c["moe_ep_size"]
    # With fewer pairs than ranks, the rank that is waited for still has one.
    touched = np.maximum(np.minimum(experts, pairs), 1.0)
    rows = np.maximum(pairs / touched, 1.0)
    moved = touched * 3 * d * inner * b + 4 * n * d + pairs * d * (b + 2)
    more = {"inner": inner, "rows": rows, "tokens": n, "d": d}
    return 6 * d * inner * pairs, moved, more


#: Tensors of the operand's size that an operation moves; vector and special FLOP per element.
ELEMENTWISE = {
    "layernorm": (2.0, 7.0, 0.0),
    "rmsnorm": (2.0, 4.0, 0.0),
    "gelu": (2.0, 8.0, 1.0),
    "silu": (2.0, 3.0, 1.0),
    "silu_mul": (3.0, 4.0, 1.0),
    "add": (3.0, 1.0, 0.0),
    "rope": (2.0, 3.0, 0.0),
    "softmax": (2.0, 4.0, 1.0),
    "copy": (2.0, 0.0, 0.0),
}

#: Classes of element-wise kernels on GPUs: RMS norms (the slowest in the timings),
#: activations of one operand, kernels that multiply by an activation or reduce rows, and
#: ``map``, the others. Layer
#: norms and softmax stand with the second: as eager PyTorch runs them they reach 0.56
#: to 0.58 of an A100's bandwidth (LLMCompass, layer of GPT-3), activations 0.5, RMS norms 0.3.
CLASSES = {
    "rmsnorm": "norm",
    **dict.fromkeys(("gelu", "silu"), "gelu"),
    **dict.fromkeys(("layernorm", "softmax", "silu_mul"), "activation"),
}
#: Classes of kernels in which a block of threads passes a row: however few rows there are, it
#: takes a time for each column. Others cut all elements alike.
BY_ROWS = ("norm", "activation")


def _light(c: Mapping[str, Any]) -> tuple[Array, Array, Array]:
    """Bytes, vector FLOP and special FLOP; operations without an entry add."""
    size = c["rows"] * c["cols"]
    per = np.array([ELEMENTWISE.get(str(o), (2.0, 1.0, 0.0)) for o in c["op"]]).T
    return size * per[0] * _by_type(c["dtype"]), size * per[1], size * per[2]


def _elementwise(c: Mapping[str, Any]) -> _Counts:
    moved, _, _ = _light(c)
    by_rows = np.isin([CLASSES.get(str(o), "map") for o in c["op"]], BY_ROWS)
    return 0.0 * moved, moved, {"cols": c["cols"] * by_rows}


def _host_elementwise(c: Mapping[str, Any]) -> _Counts:
    moved, plain, special = _light(c)
    passes = (plain + special) / (c["rows"] * c["cols"])
    return plain, moved, {"X": special, "passes": passes}


def _host_gemm(c: Mapping[str, Any]) -> _Counts:
    n, m, k, width = (c[x] for x in ("batch", "m", "k", "n"))
    moved = n * (m * k + k * width + m * width) * _by_type(c["dtype"])
    return 2 * n * m * k * width, moved, {"m": m, "k": k, "batch": n}


_COUNTS = {
    "gemm": _gemm,
    "prefill": _attention,
    "decode": _attention,
    "mla": _mla,
    "moe": _moe,
    "elementwise": _elementwise,
    "host_gemm": _host_gemm,
    "host_elementwise": _host_elementwise,
}
