"""Numbers of every type mean the same wherever they enter."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from sympy import Integer

import costgraph as cg
from costgraph.errors import InputError
from costgraph.number import number, whole

WHOLE: tuple[Callable[[int], Any], ...] = (
    np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64,
    np.float32, np.float64, np.longdouble, float, Fraction, Decimal, Integer, np.array,
)  # fmt: skip
SMALL = {"B": 64, "S": 100, "N": 40, "T": 101}
LARGE = {"B": 2**15, "S": 2**20, "N": 2**20, "T": 2**20}


@pytest.fixture(scope="module")
def made() -> list[cg.Compiled]:
    return [
        cg.compile(model, "h100", passes)
        for model, passes in (
            ("llama-2-7b", ""),
            ("llama-3-8b", "fuse"),
            ("mixtral-8x7b", "fuse"),
            ("qwen3-next-80b-a3b", "fuse"),
            ("llama-3-8b", "speculative{draft=heads,gamma=2},fuse"),
        )
    ]


def fitting(of: Callable[[int], Any], point: dict[str, int]) -> bool:
    kind = of if isinstance(of, type) and issubclass(of, np.integer) else None
    return kind is None or max(point.values()) <= np.iinfo(kind).max


@pytest.mark.parametrize("of", WHOLE, ids=lambda t: t.__name__)
def test_evaluation_does_not_depend_on_the_type(
    of: Callable[[int], Any], made: list[cg.Compiled]
) -> None:
    for compiled in made[1:]:
        for metric in ("flops", "bytes", "memory", "tpot", "latency", "throughput"):
            formula = getattr(compiled, metric)
            for point in (SMALL, LARGE):
                if not fitting(of, point):
                    continue
                own = {s.name: point[s.name] for s in formula.symbols}
                expected = formula.evaluate(**own)
                found = formula.evaluate(**{k: of(v) for k, v in own.items()})
                assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("of", [np.int16, np.int32, np.uint64, np.float32, Fraction, Decimal])
def test_every_question_takes_every_type(of: Callable[[int], Any], made: list[cg.Compiled]) -> None:
    c = made[1]
    tpot = c.tpot
    same = (
        lambda f: tpot.solve_for("T", budget=0.02, B=f(4)).largest,
        lambda f: tpot.bind(B=f(4)).evaluate(T=f(100)),
        lambda f: tpot.regimes("B", T=f(128)).breakpoints,
        lambda f: tpot.crossover("B", T=f(128))[0].value,
        lambda f: tpot.local(B=f(4), T=f(100)).value,
        lambda f: tpot.region_map("B", "T").at(f(4), f(100)).bound,
        lambda f: c.breakdown("decode", B=f(4), T=f(100)).totals,
        lambda f: c.explain("tpot", B=f(4), T=f(100)).value,
        lambda f: (tpot * f(2)).evaluate(B=1, T=100),
        lambda f: tpot.evaluate(B=[f(1), f(2)], T=f(100)).tolist(),
        lambda f: cg.compare(c.program, "h100", [""], B=f(2), S=f(100), N=f(30)).columns[0].memory,
        lambda f: cg.search(c.program, "h100", S=f(100), N=f(30), B=(f(1), f(64))).best,
        lambda f: cg.sweep(c.program, "h100", metrics=["tpot"], B=f(2), T=[f(90), f(99)])
        .tpot.values.tolist(),
        lambda f: cg.Serving(c).tpot.evaluate(c=f(4), S=f(100), N=f(30)),
    )  # fmt: skip
    for ask in same:
        assert ask(of) == ask(int)


def test_what_is_no_number_is_refused_in_one_line(made: list[cg.Compiled]) -> None:
    tpot = made[1].tpot
    for bad in (True, np.bool_(True), 1j, "3", None, [1], Decimal("NaN"), Decimal("1e999999999")):
        with pytest.raises(InputError):
            number(bad, "B")
        if not isinstance(bad, list):
            with pytest.raises(InputError):
                tpot.evaluate(B=bad, T=100)
        with pytest.raises(InputError):
            made[1].breakdown("decode", B=bad, T=100)
    for bad in (0, -1, 1.5, Fraction(1, 2), np.float32(2.5), 10**13):
        with pytest.raises(InputError, match="whole number from 1 to 1e12"):
            whole(bad, "B")


def test_numbers_of_numpy_in_options_and_configurations() -> None:
    config = {
        "model_type": "llama", "hidden_size": np.int32(512), "intermediate_size": np.int64(1024),
        "num_hidden_layers": np.uint8(2), "num_attention_heads": np.int16(8),
        "vocab_size": np.int64(1000), "rms_norm_eps": np.float32(1e-5),
    }  # fmt: skip
    plain = {k: v if isinstance(v, str) else v.item() for k, v in config.items()}
    assert cg.compile(config, "h100").flops == cg.compile(plain, "h100").flops
    sizes = (448, np.int64(448), [np.int32(448), 448], np.array([448, 448]))
    memories = {cg.compile("qwen2.5-vl-7b", "h100", image=s).parameters for s in sizes}
    assert len(memories) == 1
