"""Expected costs of layers that run in part, against simulated batches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sympy import Integer, Rational, expand

import costgraph as cg
from costgraph.errors import MissingRuleError
from costgraph.hardware.machine import Engine
from costgraph.ir.cost import MEMORY, Cost, Direction
from costgraph.ir.presence import EVERYONE, Presence
from costgraph.ir.tensor import Role
from costgraph.symbols import B, T, q

ROUNDS = 20_000
CONFIGS = Path(cg.__file__).parents[1] / "models" / "configs"


def batches(batch: int, new: int, stay: float, seed: int = 3) -> np.ndarray:
    """Who is there: rounds × sequences × positions."""
    return np.random.default_rng(seed).random((ROUNDS, batch, new)) < stay


def agrees(samples: np.ndarray, expected: float) -> None:
    """The mean of the samples is the expectation, within six standard errors.

    Or within what ten rounds could add that happened not to be drawn.
    """
    error = 6 * samples.std() / ROUNDS**0.5 + 10 * samples.max() / ROUNDS
    assert abs(samples.mean() - expected) <= error, (samples.mean(), expected)


def cost_of_a_layer() -> Cost:
    """Weights and work, two projections of caches, experts of 8 with 2 chosen, a scale table."""
    touched = 8 * (1 - Rational(3, 4) ** (B * q))
    return Cost(
        {(Engine.TENSOR, "bf16"): 10 * B * q * T, (Engine.VECTOR, "fp32"): 7 * touched},
        {
            (MEMORY, Role.WEIGHT, Direction.READ): 1000 + 100 * touched,
            (MEMORY, Role.ACTIVATION, Direction.READ): 3 * B * q,
            (MEMORY, Role.KV, Direction.READ): 2 * B * T,
            (MEMORY, Role.KV, Direction.WRITE): 2 * B * q,
        },
        Integer(1),
    )


@pytest.mark.parametrize(("batch", "new"), [(1, 1), (4, 1), (3, 5)])
@pytest.mark.parametrize("stay", [0.0, 0.25, 0.7, 1.0])
def test_each_part_of_a_cost_has_its_own_expectation(batch, new, stay):
    there = batches(batch, new, stay)
    tokens = there.sum(axis=(1, 2))
    runs = tokens > 0
    rng = np.random.default_rng(4)
    touched = np.zeros(ROUNDS)
    # Each token picks two of eight experts: count the distinct ones.
    picks = rng.random((ROUNDS, batch * new, 8)).argsort(axis=2)[:, :, :2]
    mask = np.zeros((ROUNDS, 8), dtype=bool)
    flat = there.reshape(ROUNDS, -1)
    for token in range(batch * new):
        for choice in range(2):
            mask[np.arange(ROUNDS), picks[:, token, choice]] |= flat[:, token]
    touched = mask.sum(axis=1)
    made = Presence(tokens=Rational(str(stay))).expected(cost_of_a_layer())
    at = {B: Integer(batch), q: Integer(new), T: Integer(50)}

    def value(amount) -> float:
        return float(amount.xreplace(at))

    agrees(10.0 * tokens * 50, value(made.flops_of(Engine.TENSOR)))
    agrees(7.0 * touched, value(made.flops_of(Engine.VECTOR)))
    agrees(1000.0 * runs + 100 * touched, value(made.bytes_of(Role.WEIGHT)))
    agrees(3.0 * tokens, value(made.bytes_of(Role.ACTIVATION)))
    sequences = there.any(axis=2).sum(axis=1)
    agrees(2.0 * 50 * sequences, value(made.bytes_of(Role.KV, Direction.READ)))
    agrees(2.0 * tokens, value(made.bytes_of(Role.KV, Direction.WRITE)))
    agrees(1.0 * runs, value(made.launches))


@pytest.mark.parametrize(("together", "batch"), [(1, 3), (2, 1), (4, 5), (7, 2)])
def test_tokens_kept_for_later_run_as_often_as_enough_are_there(together, batch):
    left = 0.4
    arrived = batches(batch, 1, left).sum(axis=(1, 2))
    passes = arrived.sum() // together
    made = Presence(tokens=Rational(2, 5), together=Integer(together)).expected(cost_of_a_layer())
    at = {B: Integer(batch), q: Integer(1), T: Integer(50)}
    per_step = float(made.launches.xreplace(at))
    spread = (batch * left * (1 - left)) ** 0.5 / together / ROUNDS**0.5
    assert abs(passes / ROUNDS - per_step) < 6 * spread + together / ROUNDS
    touched = 8 * (1 - 0.75**together)  # of one pass
    weights = made.bytes_of(Role.WEIGHT).xreplace(at)
    assert float(weights) == pytest.approx(per_step * (1000 + 100 * touched))
    assert made.bytes_of(Role.ACTIVATION).xreplace(at) == 3 * batch * Rational(2, 5)


def test_nobody_everybody_and_all_or_none():
    cost = cost_of_a_layer()
    assert EVERYONE.expected(cost) is cost
    gone = Presence(tokens=Integer(0)).expected(cost)
    assert all(v == 0 for v in (*gone.flops.values(), *gone.bytes.values(), gone.launches))
    half = Presence(runs=Rational(1, 2)).expected(cost)
    assert half.total_bytes * 2 == cost.total_bytes
    with pytest.raises(MissingRuleError, match="depends on B"):
        Presence(tokens=Rational(1, 2)).expected(
            Cost({(Engine.TENSOR, "bf16"): B**2}, {}, Integer(1))
        )


# --- early exits ------------------------------------------------------------------


def layer(compiled, phase: str, name: str, **values: int):
    found = next(r for r in compiled.rows[phase] if r.name == name)
    bound = compiled.program.phase(phase).bind
    return found.cost.mapped(lambda e: bound(e).xreplace({B: Integer(values["B"]), T: Integer(9)}))


@pytest.mark.parametrize("order", ["early-exit{p=1/2}%s", "%s,early-exit{p=1/2}"])
def test_experts_behind_an_exit_are_those_of_the_tokens_left(order):
    made = cg.compile("mixtral-8x7b", "h100", (order % "").strip(","))
    one = 4096 * 14336 * 2
    for batch in (1, 2, 4, 64):
        read = layer(made, "decode", "layers.1.expert_gate", B=batch).bytes_of(Role.WEIGHT)
        assert read == 8 * (1 - (1 - Rational(1, 8)) ** batch) * one
    # A round of four drafted tokens verifies five: each leaves on its own.
    text = (order % ",speculative{draft=heads,gamma=4}").replace(",,", ",").strip(",")
    round_ = cg.compile("mixtral-8x7b", "h100", text)
    read = layer(round_, "verify", "layers.1.expert_gate", B=2).bytes_of(Role.WEIGHT)
    assert read == 8 * (1 - (1 - Rational(1, 8)) ** 10) * one
    query = layer(round_, "verify", "layers.1.q_proj", B=2).bytes_of(Role.WEIGHT)
    assert query == (1 - Rational(1, 2) ** 10) * 4096 * 4096 * 2


def test_conversion_of_narrow_weights_behind_an_exit_happens_when_the_layer_runs():
    made = cg.compile("llama-2-7b", "a6000", "early-exit{p=1/2},quantize{weights=int4}")
    for batch in (1, 3):
        row = layer(made, "decode", "layers.1.up_proj", B=batch)
        elements = 4096 * 11008
        assert row.flops_of(Engine.VECTOR) == 2 * elements * (1 - Rational(1, 2) ** batch)
        assert row.flops_of(Engine.TENSOR) == batch * elements  # 2·B·n·½


def test_recomputed_layers_are_read_once_per_pass():
    def read(options: str, batch: int):
        text = f"early-exit{{p=1/2,propagate=recompute{options}}}"
        made = cg.compile("llama-2-7b", "a6000", text)
        return layer(made, "decode", "recompute.1.q_proj", B=batch).bytes_of(Role.WEIGHT) / (
            4096 * 4096 * 2
        )

    for batch in (1, 3, 8):
        assert read("", batch) == 1 - Rational(1, 2) ** batch
        assert read(",together=4", batch) == Rational(batch, 8)  # B·½ tokens, four at once


@pytest.mark.parametrize("options", ["p=1", "p=1,batch=all", "p=1,confidence=none"])
@pytest.mark.parametrize("fidelity", ["ideal", "calibrated", "high"])
def test_an_exit_for_all_costs_the_shorter_model(options, fidelity):
    config = json.loads((CONFIGS / "llama-3.2-1b.json").read_text())
    short = cg.compile({**config, "num_hidden_layers": 8}, "h100", "fuse", fidelity=fidelity)
    exits = cg.compile(config, "h100", f"fuse,early-exit{{exit=8,{options}}}", fidelity=fidelity)
    for batch in (1, 16):
        assert exits.tpot.evaluate(B=batch, T=1000) == pytest.approx(
            short.tpot.evaluate(B=batch, T=1000), rel=1e-12
        )


def test_floors_of_layers_are_paid_as_often_as_they_run():
    """With one sequence the tail runs or not: the time is the mean of both models'."""
    config = json.loads((CONFIGS / "llama-3.2-1b.json").read_text())
    at = {"B": 1, "T": 1000}

    def seconds(passes: str, layers: int = 16) -> float:
        made = cg.compile(
            {**config, "num_hidden_layers": layers}, "h100", passes, fidelity="calibrated"
        )
        return made.tpot.evaluate(**at)

    mean = (3 * seconds("fuse", 8) + seconds("fuse")) / 4
    assert seconds("fuse,early-exit{p=3/4}") == pytest.approx(mean, rel=1e-12)
    assert seconds("fuse,early-exit{p=3/4,batch=all}") == pytest.approx(mean, rel=1e-12)
    assert seconds("fuse,early-exit{p=0}") == pytest.approx(seconds("fuse"), rel=1e-12)


@pytest.mark.parametrize("model", ["llama-3.2-1b", "mixtral-8x7b"])
def test_calibrated_times_behind_an_exit_lie_between_the_two_models(model):
    config = json.loads((CONFIGS / f"{model}.json").read_text())
    layers = config["num_hidden_layers"]
    whole, half = (
        cg.compile({**config, "num_hidden_layers": n}, "h100", "fuse", fidelity="calibrated")
        for n in (layers, layers // 2)
    )
    exits = cg.compile(config, "h100", "fuse,early-exit{p=1/2}", fidelity="calibrated")
    ideal = cg.compile(config, "h100", "fuse,early-exit{p=1/2}")
    for batch in (1, 2, 16, 256):
        at = {"B": batch, "T": 500}
        now = exits.tpot.evaluate(**at)
        assert half.tpot.evaluate(**at) < now < whole.tpot.evaluate(**at)
        assert ideal.tpot.evaluate(**at) <= now


def test_the_mean_of_a_symbolic_share_stays_a_formula():
    made = cg.compile("mixtral-8x7b", "h100", "early-exit{p=x}")
    number = cg.compile("mixtral-8x7b", "h100", "early-exit{p=0.3}")
    assert made.tpot.evaluate(B=3, T=50, x=0.3) == pytest.approx(
        number.tpot.evaluate(B=3, T=50), rel=1e-9
    )
    assert expand(Presence(tokens=1 - B).share) == 1 - B
