"""The calibrated forms: one closed form per kind of operation.

Every form has the same shape,

    T = floor + ‖compute, memory‖_p,     ‖a, b‖_p = (a^p + b^p)^(1/p),

a floor (launch, tails, bookkeeping) plus the smooth maximum of a compute arm and
a memory arm. An arm is the roofline's time over an efficiency of at most one,
times ramps of at least one, plus latencies, so no form falls below the roofline.

A form is written once, in plain arithmetic. It takes NumPy arrays when
parameters are fitted and sympy expressions when a formula is derived.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from costgraph.errors import InputError, nearest

#: Arrays, floats or sympy expressions by name.
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a form: positive, fitted on a logarithmic scale.

    Attributes:
        name: as in calibration files.
        start, low, high: where a fit starts and its limits.
        unit: ``s``, ``1`` or what the parameter counts.
        meaning: one line for tables.
        scope: ``group`` (a device and data type), ``device``, ``variant`` (a data
            type), ``kernel`` (likewise, in transfer), or ``shared``.
        spread: expected spread between groups (natural logarithm), for shrinkage.
    """

    name: str
    start: float
    low: float
    high: float
    unit: str
    meaning: str
    scope: str = "group"
    spread: float = 1.0


@dataclass(frozen=True)
class Parts:
    """The value of a form: ``floor + ‖compute, memory‖_norm`` in seconds.

    An infinite norm is the maximum.
    """

    floor: Any
    compute: Any
    memory: Any
    norm: Any


@dataclass(frozen=True)
class Form:
    """The closed form of one kind of operation.

    Attributes:
        kind: ``gemm``, ``prefill``, ``decode``, ``beside`` (decodes in one kernel with a
            prompt's chunk), ``mla``, ``moe``, ``exchange``, ``elementwise``; ``host_gemm``,
            ``host_elementwise``: libraries on a host.
        text: the form as a line of text.
        parameters: what a fit determines.
        features: what the form takes of an operation (see :mod:`.table`).
        build: features and parameters to parts.
    """

    kind: str
    text: str
    parameters: tuple[Parameter, ...]
    features: tuple[str, ...]
    build: Callable[[Values, Values], Parts]

    def parameter(self, name: str) -> Parameter:
        """The parameter called ``name``.

        Raises:
            InputError: the form has no such parameter.
        """
        for item in self.parameters:
            if item.name == name:
                return item
        known = [p.name for p in self.parameters]
        raise InputError(f"form {self.kind!r} has no parameter {name!r}{nearest(name, known)}")


def _t0(start: float, scope: str = "group") -> Parameter:
    return Parameter("t0", start, 1e-8, 1e-3, "s", "launch and latency floor", scope)


def _ec(start: float) -> Parameter:
    return Parameter("ec", start, 0.003, 1.0, "1", "efficiency of compute")


def _em(start: float, scope: str = "group") -> Parameter:
    return Parameter("em", start, 0.02, 1.0, "1", "efficiency of memory bandwidth", scope)


def _norm(start: float = 1.8, scope: str = "group") -> Parameter:
    return Parameter("p", start, 1.0, 12.0, "1", "exponent of the norm of the arms", scope)


def _l2(scope: str = "device") -> Parameter:
    return Parameter("l2", 2.0, 1.0, 20.0, "1", "L2 bandwidth over memory bandwidth", scope)


def resident_time(f: Values, v: Values) -> Any:
    """Memory time: ``resident`` (0 or 1) operations read at the L2 cache's bandwidth."""
    r = f["resident"]
    return f["M"] / v["em"] * (1 - r + r / v["l2"])


def _gemm(f: Values, v: Values) -> Parts:
    ramp = 1 + v["k0"] / f["k"] + f["k"] * f["n"] / v["w1"]
    # Long sums are split between multiprocessors: their latency levels off.
    latency = v["tk"] * f["k"] * v["k1"] / (f["k"] + v["k1"])
    return Parts(
        v["t0"] + f["quant"] * v["tq"] + f["Q"] / v["eq"],
        f["C"] / v["ec"] * ramp + latency,
        resident_time(f, v),
        v["p"],
    )


def _prefill(f: Values, v: Values) -> Parts:
    ramp = (1 + v["d0"] / f["dh"]) * (1 + v["q0"] / f["q"])
    return Parts(
        v["t0"] + v["tt"] * f["T"],
        f["C"] / v["ec"] * ramp + v["tw"] * f["heads"] / f["sm"],
        resident_time(f, v),
        v["p"],
    )


def _decode(f: Values, v: Values) -> Parts:
    return Parts(
        v["t0"] + v["ts"] * v["s0"] * f["T"] / (f["T"] + v["s0"]),
        f["C"] * f["tiles"] / v["ec"]
        + f["further"]
        + v["tw"] * f["groups"] / f["sm"]
        + v["tt"] * f["T"] * f["dh"] / 128,
        resident_time(f, v),
        v["p"],
    )


def _beside(f: Values, v: Values) -> Parts:
    # Each query head passes all of its keys in a block of its own; the longest is one block's.
    return Parts(
        0 * f["M"],
        f["C"] + v["tw"] * f["heads"] * f["T"] / f["sm"],
        f["M"] + v["tt"] * f["T"],
        2,
    )


#: Rows of the smallest tile that a tensor unit multiplies (PTX ISA: ``mma`` m16n8k16; Hopper's
#: and Blackwell's kernels for decode swap operands or run on the same tile).
TILE = 16


def filled_tiles(heads: Any, kv_heads: Any, larger: Callable[[Any, Any], Any]) -> Any:
    """Rows that tensor units work through in a decode step over those that hold a query.

    Query heads that share a cached head fill the rows of one tile; the rest of it is idle.
    """
    return larger(1 + 0 * heads, TILE * kv_heads / heads)


def further_queries(f: Values, prefill: Values) -> Any:
    """Seconds that queries after the first add to the compute arm of a decode step.

    Kernels for few queries pack them, with the query heads that share a cached head, into
    the rows of one tile (FlashAttention 3 and FlashInfer; TensorRT-LLM's XQA): they add
    what queries of a prefill of so many positions take, with its fitted parameters, and the
    cache is read once. So many queries over nothing cached compute as long as a prefill.
    """
    each = f["C"] / f["q"]
    ramp = (1 + prefill["d0"] / f["dh"]) * (1 + prefill["q0"] / f["T"])
    return each * (f["q"] - 1) / prefill["ec"] * ramp


def _mla(f: Values, v: Values) -> Parts:
    # Long contexts are split between multiprocessors: their latency levels off.
    context = v["tt"] * v["s0"] * f["T"] / (f["T"] + v["s0"])
    return Parts(
        v["t0"] + context + v["tn"] * f["tokens"],
        f["C"] / v["ec"],
        f["M"] / v["em"],
        v["p"],
    )


def _moe(f: Values, v: Values) -> Parts:
    ramp = (1 + v["k0"] / f["inner"]) * (1 + v["m0"] / f["rows"])
    return Parts(
        v["t0"] + v["tn"] * f["tokens"] + v["tk"] * f["d"],
        f["C"] / v["ec"] * ramp,
        resident_time(f, v),
        v["p"],
    )


def _exchange(f: Values, v: Values) -> Parts:
    return Parts(f["A"], v["t0"] + 0 * f["V"], f["V"] / v["em"], v["p"])


def _elementwise(f: Values, v: Values) -> Parts:
    # Kernels that give each row a block of their own pass its columns one after the other.
    return Parts(v["t0"], f["C"] + v["tr"] * f["cols"], resident_time(f, v), math.inf)


def _host_gemm(f: Values, v: Values) -> Parts:
    # Libraries pack the second operand for more than one row: m·(m − 1)/m² passes over it.
    ramp = 1 + v["k0"] / f["k"] + v["m0"] * (f["m"] - 1) / f["m"] ** 2
    return Parts(v["t0"] + v["tb"] * f["batch"], f["C"] / v["ec"] * ramp, f["M"] / v["em"], v["p"])


def _host_elementwise(f: Values, v: Values) -> Parts:
    # One pass over the operand per arithmetic operation, one after the other.
    return Parts(
        v["t0"] + v["tc"] * f["passes"],
        f["C"] / v["ec"] + f["X"] / v["ex"],
        resident_time(f, v),
        1,
    )


_TW = Parameter("tw", 1e-7, 1e-11, 1e-5, "s", "time per wave of work units over multiprocessors")
_TT = Parameter("tt", 1e-9, 1e-14, 1e-7, "s", "time per attended token")
_TN = Parameter("tn", 1e-9, 1e-14, 1e-6, "s", "time per token")

FORMS: Mapping[str, Form] = {
    form.kind: form
    for form in (
        Form(
            "gemm",
            "t0 + [quantises]·(tq + Q/eq) + ‖C/ec·(1 + k0/k + k·n/w1) + tk·k·k1/(k + k1), M/em‖_p",
            (
                # Close to one floor for all data types: what narrow ones take longer is
                # then their quantisation, not a floor of their own.
                replace(_t0(4e-6), spread=0.2),
                _ec(0.75),
                _em(0.8),
                _norm(scope="device"),
                Parameter("k0", 75, 1, 2000, "elements", "ramp in the summed dimension", "variant"),
                Parameter("tk", 5e-10, 1e-12, 1e-8, "s", "latency per summed element"),
                Parameter(
                    "k1", 1e4, 100, 1e7, "elements", "where splitting sums sets in", "shared"
                ),
                Parameter("eq", 0.5, 0.05, 4.0, "1", "efficiency of quantising", "device"),
                _l2(),
                Parameter(
                    "tq", 2.5e-6, 1e-7, 2e-5, "s", "launch that quantises operands", "shared"
                ),
                Parameter("w1", 9e10, 1e8, 1e14, "elements", "weights that spill L2", "variant"),
            ),
            ("C", "M", "Q", "quant", "k", "n", "resident"),
            _gemm,
        ),
        Form(
            "prefill",
            "t0 + tt·T + ‖C/ec·(1 + d0/dh)(1 + q0/q) + tw·B·H/SM, M/em‖_p",
            (
                _t0(9e-6),
                _ec(0.5),
                _em(0.7, "device"),
                _norm(1.5, "shared"),
                Parameter("d0", 40, 0.1, 500, "elements", "ramp in head size (softmax)"),
                Parameter("q0", 100, 0.1, 3000, "tokens", "ramp in query positions"),
                replace(_TT, scope="device"),
                _TW,
                _l2(),
            ),
            ("C", "M", "dh", "q", "T", "heads", "sm", "resident"),
            _prefill,
        ),
        Form(
            "decode",
            "t0 + ts·s0·T/(T + s0) + "
            "‖C·max(1, 16·Hk/H)/ec + further + tw·B·Hk/SM + tt·T·dh/128, M/em‖_p",
            (
                _t0(9e-6),
                _ec(0.3),
                _em(0.9),
                _norm(2.0, "variant"),
                _l2(),
                Parameter("tw", 5e-7, 1e-9, 1e-5, "s", _TW.meaning),
                Parameter("tt", 1e-10, 1e-13, 1e-7, "s", _TT.meaning),
                Parameter(
                    "ts", 1e-8, 1e-11, 1e-6, "s", "first splits of the context, per token", "device"
                ),
                Parameter("s0", 500, 30, 1e4, "tokens", "where splitting levels off", "shared"),
            ),
            ("C", "M", "T", "dh", "tiles", "groups", "sm", "further", "resident"),
            _decode,
        ),
        Form(
            "beside",
            "‖C + tw·B·H·T/SM, M + tt·T‖_2",
            (
                Parameter("tw", 3e-8, 1e-11, 1e-5, "s", "time per attended token of a query head"),
                replace(_TT, start=1e-8),
            ),
            ("C", "M", "T", "heads", "sm"),
            _beside,
        ),
        Form(
            "mla",
            "t0 + tt·s0·T/(T + s0) + tn·B·q + ‖C/ec, M/em‖_p",
            (
                _t0(1e-5),
                _ec(0.5),
                _em(0.7),
                _norm(1.5, "variant"),
                _TT,
                Parameter("s0", 5000, 30, 1e6, "tokens", "where splitting levels off", "variant"),
                _TN,
            ),
            ("C", "M", "T", "tokens"),
            _mla,
        ),
        Form(
            "moe",
            "t0 + tn·tokens + tk·d + ‖C/ec·(1 + k0/inner)(1 + m0/rows), M/em‖_p",
            (
                _t0(3e-5),
                _ec(0.4),
                _em(0.7, "device"),
                _norm(1.5, "shared"),
                Parameter("k0", 100, 0.1, 3000, "elements", "ramp in the expert width"),
                Parameter("m0", 32, 0.1, 500, "tokens", "ramp in tokens per touched expert"),
                _TN,
                Parameter("tk", 3e-9, 1e-11, 1e-7, "s", "latency per element of a token", "device"),
                _l2(),
            ),
            ("C", "M", "inner", "rows", "tokens", "d", "resident"),
            _moe,
        ),
        Form(
            "exchange",
            "A + ‖t0, V/em‖_p, mostly p < 1: t0 + V/em and a ramp between them",
            (
                Parameter("t0", 1e-5, 1e-8, 0.1, "s", "latency beyond that of the link's messages"),
                Parameter("em", 0.7, 0.001, 1.0, "1", "efficiency of the link"),
                Parameter("p", 0.6, 0.25, 4.0, "1", "exponent of the norm"),
            ),
            ("V", "A"),
            _exchange,
        ),
        Form(
            "elementwise",
            "t0 + max(tr·cols, M/em)",
            (
                _t0(1.5e-6, "device"),
                _em(0.7),
                _l2("group"),
                Parameter("tr", 5e-10, 1e-13, 1e-7, "s", "time per column of a row", "variant"),
            ),
            ("C", "M", "cols", "resident"),
            _elementwise,
        ),
        Form(
            "host_gemm",
            "t0 + tb·batch + ‖C/ec·(1 + k0/k + m0·(m − 1)/m²), M/em‖_p",
            (
                _t0(2e-6),
                _ec(0.8),
                _em(0.8),
                _norm(),
                Parameter("k0", 20, 0.1, 2000, "elements", "ramp in the summed dimension"),
                Parameter("m0", 20, 0.01, 500, "rows", "packing of the second operand"),
                Parameter("tb", 1e-6, 1e-9, 1e-4, "s", "call per product of a batch"),
            ),
            ("C", "M", "k", "m", "batch"),
            _host_gemm,
        ),
        Form(
            "host_elementwise",
            "t0 + tc·passes + C/ec + X/ex + M/em, in a cache M/(em·l2)",
            (
                # What a library makes of an operation differs between operations.
                _t0(1e-6, "device"),
                Parameter("tc", 1e-6, 1e-8, 1e-4, "s", "call per pass over the operand"),
                Parameter("ec", 0.02, 1e-4, 1.0, "1", "efficiency of arithmetic"),
                Parameter(
                    "ex", 0.02, 1e-4, 1.0, "1", "efficiency of transcendental functions", "device"
                ),
                _em(0.7),
                Parameter(
                    "l2", 2.0, 1.0, 20.0, "1", "rate in a cache over that in memory", "device"
                ),
            ),
            ("C", "X", "M", "passes", "resident"),
            _host_elementwise,
        ),
    )
}


#: Figures of a device that parameters follow.
FIGURES = ("ridge", "flow", "unit", "clock", "power")
#: How transferred parameters follow a device's figures, by kind: exponents of figures.
#: ``ridge``: FLOP/byte; ``clock``: of the multiprocessors; ``flow`` and ``unit``: memory
#: bandwidth and peak per multiprocessor; ``power``: board's watts per 16-bit peak. ``slope`` is a
#: fitted exponent.
CARRIED: Mapping[str, Mapping[str, Mapping[str, float | str]]] = {
    # Latencies are clock cycles. Boards with little power for their peak lower the clock.
    "gemm": {
        "ec": {"ridge": "slope", "power": 0.15}, "l2": {"flow": -1}, "t0": {"clock": -1},
        "tk": {"clock": -1},
    },
    # Exponentials take a rate per clock; of a launch, part is memory's latency.
    "prefill": {
        "ec": {"ridge": "slope"}, "l2": {"flow": -1}, "t0": {"clock": -0.5}, "d0": {"clock": -1},
    },
    # With few rows a multiprocessor takes its time, whatever its tensor units' peak.
    "decode": {
        "ec": {"unit": -0.5}, "l2": {"flow": -1}, "t0": {"clock": -0.5}, "tw": {"unit": -0.5},
    },
    # One block of queries passes all keys, at its multiprocessor's rate.
    "mla": {"ec": {"ridge": "slope"}, "tt": {"unit": -0.5}},
    # A multiprocessor that computes faster needs more tokens per expert.
    "moe": {
        "ec": {"ridge": "slope"}, "l2": {"flow": -1}, "m0": {"unit": 1}, "t0": {"clock": -0.5},
    },
    "elementwise": {"l2": {"flow": -1}, "t0": {"clock": -1}},
}  # fmt: skip


def carried(kind: str, f: Values, v: Values) -> dict[str, Any]:
    """Parameters moved to another device by its figures, relative to those they stand for.

    A parameter becomes ``value · Π figureᵉ`` with the exponents of :data:`CARRIED`;
    efficiencies stay at most one, and the L2 cache at least as fast as memory.
    ``f`` holds the figures (:data:`FIGURES`) as ratios.
    """
    import numpy as np

    out = dict(v)
    for name, figures in CARRIED.get(kind, {}).items():
        for figure, exponent in figures.items():
            power = -v[exponent] if isinstance(exponent, str) else exponent
            out[name] = out[name] * f[figure] ** power
    if "ec" in out:
        out["ec"] = np.minimum(out["ec"], 1.0)
    if "l2" in out:
        out["l2"] = np.maximum(out["l2"], 1.0)
    return out


def form_of(kind: str) -> Form:
    """The form of a kind.

    Raises:
        InputError: there is no such kind.
    """
    if kind not in FORMS:
        raise InputError(f"no calibrated form {kind!r}{nearest(kind, FORMS)}")
    return FORMS[kind]


def value(parts: Parts) -> Any:
    """Seconds of parts made of NumPy arrays or floats."""
    import numpy as np

    large = np.maximum(parts.compute, parts.memory)
    small = np.minimum(parts.compute, parts.memory)
    # Scaled by the larger arm: no underflow of tiny times to high powers.
    return parts.floor + large * (1 + (small / large) ** parts.norm) ** (1 / parts.norm)


def roofline3(f: Values, v: Values) -> Any:
    """The baseline: a floor and two efficiencies, ``t0 + max(C/ec, M/em)``."""
    import numpy as np

    if "V" in f:
        return f["A"] + v["t0"] + f["V"] / v["em"]
    return v["t0"] + np.maximum(f["C"] / v.get("ec", 1.0), f["M"] / v["em"])
