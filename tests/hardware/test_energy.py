"""Joules and dollars: identities, limits, and errors that say what is missing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Integer, Rational

import costgraph as cg
from costgraph.compiling.energy import COMPONENTS, POWER
from costgraph.hardware import load_hardware
from costgraph.hardware.machine import Energy, Engine, Machine, Memory, Price

POINT = {"B": 4, "S": 200, "N": 50}
TYPES = (Engine.TENSOR, Engine.VECTOR, Engine.SPECIAL)


def toy(**more) -> Machine:
    """A machine that does 1 TFLOP/s of anything at 100 GB/s."""
    peaks = {(e, t): Integer(10**12) for e in TYPES for t in ("fp16", "bf16", "fp32", "int8")}
    return Machine("toy", "Toy", peaks, Memory(Integer(10**11)), **more)


def test_components_are_joules_per_flop_and_byte_times_the_counts():
    flop, byte = Rational(1, 10**12), Rational(3, 10**11)
    machine = toy(power=Integer(50))
    machine = replace(machine, energy=Energy(dict.fromkeys(machine.peaks, flop), {"memory": byte}))
    compiled = cg.compile("llama-2-7b", machine)
    expected = float(flop) * compiled.flops(**POINT) + float(byte) * compiled.bytes(**POINT)
    assert compiled.energy(**POINT) == pytest.approx(expected)
    assert compiled.energy.assumptions[-1] == COMPONENTS
    assert compiled.energy.unit == "J"


def test_without_components_energy_is_power_times_time():
    compiled = cg.compile("llama-2-7b", toy(power=Integer(50)))
    assert compiled.energy(**POINT) == pytest.approx(50 * compiled.latency(**POINT))
    assert compiled.energy.assumptions[-1] == POWER


@pytest.mark.parametrize("missing", ["a type", "memory"])
def test_components_count_only_when_all_are_stated(missing):
    machine = toy(power=Integer(50))
    flop = dict.fromkeys(machine.peaks, Rational(1, 10**12))
    if missing == "a type":
        del flop[Engine.TENSOR, "fp16"]
    byte = {"l2": Integer(1)} if missing == "memory" else {"memory": Integer(1)}
    compiled = cg.compile("llama-2-7b", replace(machine, energy=Energy(flop, byte)))
    assert compiled.energy.assumptions[-1] == POWER


@pytest.mark.parametrize("name", ["a100", "h100", "upmem-dimm"])
@settings(max_examples=20)
@given(st.integers(1, 500), st.integers(1, 4000), st.integers(1, 2000))
def test_per_token_is_the_request_over_its_tokens(name, b, s, n):
    compiled = COMPILED.setdefault(name, cg.compile("gpt2", name))
    point = {"B": b, "S": min(s, 500), "N": min(n, 500)}
    tokens = point["B"] * point["N"]
    joules = compiled.energy(**point)
    assert compiled.energy_per_token(**point) == pytest.approx(joules / tokens, rel=1e-9)
    price = {} if name != "upmem-dimm" else {"price": 2.5}
    hour = 2.5 if price else float(compiled.machine.price.hour)
    dollars = hour / 3600 * compiled.latency(**point)
    assert compiled.cost_per_token(**point, **price) == pytest.approx(dollars / tokens, rel=1e-9)


COMPILED: dict[str, cg.Compiled] = {}


@given(st.integers(1, 200))
def test_components_never_exceed_the_board_at_the_time_bound(b):
    """Energies derived from the board power add up to at most that of both units at once."""
    compiled = COMPILED.setdefault("a100", cg.compile("gpt2", "a100"))
    point = {"B": b, "S": 100, "N": 20}
    limit = 3 * float(compiled.machine.power) * compiled.latency(**point)  # three engines
    assert 0 < compiled.energy(**point) <= limit


def test_batching_saves_energy_and_money_per_token_down_to_a_floor():
    compiled = cg.compile("llama-2-7b", "h100")
    for formula in (compiled.energy_per_token, compiled.cost_per_token):
        found = [formula(B=b, S=500, N=100) for b in (1, 4, 16, 64, 256)]
        assert found == sorted(found, reverse=True)
        solved = formula.solve_for("B", found[2], S=500, N=100)
        assert solved.largest is None
        ((lower, _),) = solved.intervals
        assert float(lower) == pytest.approx(16)
        assert len(formula.regimes("B", S=500, N=100)) >= 2


@pytest.mark.parametrize("metric", ["energy_per_token", "cost_per_token"])
@pytest.mark.parametrize("name", ["a100", "h100", "raspberry-pi-4"])
def test_batches_within_a_budget_are_those_found_by_trying(name, metric):
    """Quantities over ``B`` fall as ``B`` grows: the budget is kept from some batch on."""
    formula = getattr(cg.compile("llama-2-7b", name), metric)
    point = {"S": 128, "N": 32} | ({"price": 0.1} if "price" in map(str, formula.symbols) else {})
    tried = {b: formula(B=b, **point) for b in (*range(1, 40), *range(40, 800, 37))}
    for budget in (tried[1] * 2, tried[3] * 1.001, tried[17] * 1.001, tried[40], tried[1] / 1e4):
        intervals = formula.solve_for("B", budget, **point).intervals
        for b, value in tried.items():
            if abs(value / budget - 1) > 1e-9:
                assert any(lo <= b <= hi for lo, hi in intervals) == (value < budget), b


def test_a_price_that_the_file_lacks_stays_a_symbol_and_binds_later():
    free = cg.compile("gpt2", "b200").cost_per_token
    assert [s.name for s in free.symbols] == ["B", "N", "S", "price"]
    with pytest.raises(cg.CostgraphError, match="USD per hour"):
        free.evaluate(**POINT)
    machine = replace(load_hardware("b200"), price=Price(Integer(6)))
    bound = cg.compile("gpt2", machine).cost_per_token
    assert [s.name for s in bound.symbols] == ["B", "N", "S"]
    assert free.bind(price=6)(**POINT) == pytest.approx(bound(**POINT))
    assert free(**POINT, price=12) == pytest.approx(2 * bound(**POINT))


def test_a_machine_without_power_says_what_to_add():
    with pytest.raises(cg.CostgraphError, match=r"'tpu-v5e' states no power.*\[power\]"):
        cg.compile("gpt2", "tpu-v5e").energy
    with pytest.raises(cg.CostgraphError, match="states no power"):
        cg.compile("gpt2", "tpu-v5e").energy_per_token
    assert cg.compile("gpt2", "tpu-v5e").cost_per_token(**POINT) > 0


def test_energies_follow_the_passes():
    plain = cg.compile("llama-2-7b", "a100")
    small = cg.compile("llama-2-7b", "a100", "fuse,quantize{preset=w4a16}")
    assert small.energy(**POINT) < plain.energy(**POINT)
    assert small.cost_per_token(**POINT) < plain.cost_per_token(**POINT)
    drafted = cg.compile("llama-2-70b", "h200", "speculative{draft=llama-2-7b,gamma=4,alpha=0.8}")
    point = {"B": 1, "S": 100, "N": 64}
    assert drafted.energy_per_token(**point) == pytest.approx(drafted.energy(**point) / 64)


@pytest.mark.parametrize(
    "passes",
    [
        "page-kv{block=16}",
        "fuse",
        "speculative{draft=llama-2-7b,gamma=gamma,alpha=0.8}",
        "speculative{draft=llama-2-7b,alpha=alpha}",
        "early-exit{distribution=geometric,p=0.1,every=8}",
    ],
)
@pytest.mark.parametrize("name", ["h100", "a100"])
def test_per_token_formulas_hold_under_every_kind_of_pass(name, passes):
    compiled = cg.compile("llama-2-7b", name, passes)
    point = {"B": 2, "S": 64, "N": 33}
    more = {"gamma": 4, "alpha": 0.7}
    given = point | {
        k: v for k, v in more.items() if k in {s.name for s in compiled.energy.symbols}
    }
    whole = compiled.energy(**given)
    assert compiled.energy_per_token(**given) == pytest.approx(whole / 66, rel=1e-9)
    cost = compiled.latency(**given) * float(compiled.machine.price.hour) / 3600
    assert compiled.cost_per_token(**given) == pytest.approx(cost / 66, rel=1e-9)
    assert compiled.energy_per_token.text()
    assert compiled.cost_per_token.latex()


def test_formulas_stay_symbolic_in_model_and_machine():
    compiled = cg.compile("llama-2-7b", "h100", symbolic_hardware=True)
    names = {s.name for s in compiled.energy.symbols}
    assert {"B", "S", "N", "BW"} <= names
    values = {s.name: v for s, v in load_hardware("h100").bindings().items()}
    bound = compiled.energy.bind(**{k: v for k, v in values.items() if k in names})
    assert bound(**POINT) == pytest.approx(cg.compile("llama-2-7b", "h100").energy(**POINT))


def test_joules_add_but_not_to_seconds():
    compiled = cg.compile("gpt2", "a100")
    twice = compiled.energy + compiled.energy
    assert twice(**POINT) == pytest.approx(2 * compiled.energy(**POINT))
    with pytest.raises(cg.CostgraphError, match="cannot combine"):
        compiled.energy + compiled.latency


@pytest.mark.parametrize("model", ["mistral-7b", "gemma-2-2b"])
def test_per_token_figures_where_a_windows_range_is_empty(model):
    compiled = cg.compile(model, "h100")
    for prompt, generated in ((1024, 256), (4000, 1000), (5000, 10), (1, 1)):
        at = {"B": 2, "S": prompt, "N": generated}
        whole = compiled.energy.evaluate(**at)
        each = compiled.energy_per_token.evaluate(**at)
        assert each == pytest.approx(whole / (2 * generated), rel=1e-12)
