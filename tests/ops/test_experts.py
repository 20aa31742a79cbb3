"""Experts: how many are touched, what their products cost, what is read."""

from __future__ import annotations

import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Float, Integer, Rational, expand

from costgraph.errors import VerifyError
from costgraph.formula.powers import EXACT_BITS
from costgraph.formula.runtime import power
from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Direction
from costgraph.ir.dtypes import BF16, INT32
from costgraph.ir.tensor import Role, Tensor
from costgraph.ops import Combine, ExpertLinear, Linear, Route, Routing, RowScale
from costgraph.symbols import B, q

I = Integer  # noqa: E741


def drawn(shares: list[float], chosen: int, tokens: int, rng: random.Random) -> int:
    """Distinct experts that tokens choose, each by systematic sampling of ``chosen``.

    An expert of share p is chosen with probability p, and never twice by a token.
    """
    touched = set()
    for _ in range(tokens):
        point, reach = rng.random(), 0.0
        for expert, share in enumerate(shares):
            reach += share
            if point < reach:
                touched.add(expert)
                point += 1
    return len(touched)


def uniform(experts: int, chosen: int, tokens: int, rng: random.Random) -> int:
    touched: set[int] = set()
    for _ in range(tokens):
        touched |= set(rng.sample(range(experts), chosen))
    return len(touched)


@pytest.mark.parametrize(
    ("experts", "chosen", "tokens"),
    [(8, 2, 1), (8, 2, 4), (8, 2, 16), (64, 6, 16), (256, 8, 16), (16, 1, 40)],
)
def test_balanced_touched_experts_equal_their_simulation(experts, chosen, tokens):
    rng, runs = random.Random(experts + tokens), 3000
    mean = sum(uniform(experts, chosen, tokens, rng) for _ in range(runs)) / runs
    expected = float(Routing().touched(I(experts), I(chosen), I(tokens)))
    # The spread of a mean of 3000 runs: at most sqrt(E)/2 / sqrt(3000); four of them.
    assert mean == pytest.approx(expected, abs=4 * experts**0.5 / 2 / runs**0.5)


#: (E, k, tokens, touched), from the closed form worked out by hand.
KNOWN = [
    (8, 2, 2, Rational(7, 2)),
    (8, 2, 4, Rational(175, 32)),
    (64, 6, 2, Rational(183, 16)),
    (256, 8, 2, Rational(63, 4)),
]


@pytest.mark.parametrize(("experts", "chosen", "tokens", "wanted"), KNOWN)
def test_balanced_touched_experts_exactly(experts, chosen, tokens, wanted):
    assert Routing().touched(I(experts), I(chosen), I(tokens)) == wanted


@pytest.mark.parametrize(
    "routing", [Routing(zipf=Rational(1)), Routing(tuple(map(I, range(1, 17))))]
)
@pytest.mark.parametrize("tokens", [1, 3, 12])
def test_skewed_touched_experts_equal_their_simulation(routing, tokens):
    experts, chosen, runs = 16, 4, 4000
    shares = routing.shares(I(experts), I(chosen))
    assert sum(shares) == chosen
    assert all(0 < p <= 1 for p in shares)
    rng = random.Random(tokens)
    floats = [float(p) for p in shares]
    mean = sum(drawn(floats, chosen, tokens, rng) for _ in range(runs)) / runs
    expected = float(routing.touched(I(experts), I(chosen), I(tokens)))
    assert mean == pytest.approx(expected, abs=4 * experts**0.5 / 2 / runs**0.5)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_limits_of_touched_experts(data):
    experts = data.draw(st.integers(1, 40))
    chosen = data.draw(st.integers(1, experts))
    tokens = data.draw(st.integers(1, 30))
    weights = data.draw(st.lists(st.integers(1, 9), min_size=experts, max_size=experts))
    skewed = Routing(tuple(map(I, weights)))
    for routing in (Routing(), skewed):
        one = routing.touched(I(experts), I(chosen), I(1))
        assert one == chosen  # a token alone touches its own
        some = routing.touched(I(experts), I(chosen), I(tokens))
        more = routing.touched(I(experts), I(chosen), I(tokens + 1))
        assert chosen <= some <= more <= experts
        assert some <= tokens * chosen
        untouched = I(experts) - routing.touched(I(experts), I(chosen), B)
        assert untouched.xreplace({B: Float(10**5)}) < 1e-9
    # Any skew touches fewer experts than balanced routing does.
    balanced = Routing().touched(I(experts), I(chosen), I(tokens))
    assert skewed.touched(I(experts), I(chosen), I(tokens)) <= balanced
    least = Routing(count="least").touched(I(experts), I(chosen), I(tokens))
    most = Routing(count="all").touched(I(experts), I(chosen), I(tokens))
    assert least == chosen <= balanced <= most == experts


def test_an_expert_more_popular_than_always_is_always_chosen():
    shares = Routing((I(100), I(1), I(1), I(2))).shares(I(4), I(2))
    assert shares == (1, Rational(1, 4), Rational(1, 4), Rational(1, 2))


def test_popularity_must_fit_the_experts():
    with pytest.raises(VerifyError, match="popularity of 3 experts is given, there are 4"):
        Routing((I(1), I(1), I(1))).touched(I(4), I(2), B)
    with pytest.raises(VerifyError, match="fewer than 2 experts are ever chosen"):
        Routing((I(1), I(0), I(0))).touched(I(3), I(2), B)
    with pytest.raises(VerifyError, match="unknown count"):
        Routing(count="most").touched(I(3), I(2), B)


def operands(experts=8, chosen=2, oc=12, ic=10, per_choice=False, bias=False):
    shape = (B, q, I(chosen), I(ic)) if per_choice else (B, q, I(ic))
    found = [
        Tensor("x", shape, BF16),
        Tensor("w", (I(experts), I(oc), I(ic)), BF16, Role.WEIGHT),
        Tensor("n", (B, q, I(chosen)), INT32),
    ]
    if bias:
        found.append(Tensor("b", (I(experts * oc),), BF16, Role.WEIGHT))
    return found


@pytest.mark.parametrize("per_choice", [False, True])
def test_an_expert_product_costs_its_rows_and_reads_the_touched(per_choice):
    op, given_ = ExpertLinear(bias=True), operands(per_choice=per_choice, bias=True)
    (spec,) = op.infer(given_)
    assert spec.shape == (B, q, 2, 12)
    out = spec.named("y")
    cost = op.cost(given_, (out,))
    assert cost.flops_of(Engine.TENSOR) == 2 * B * q * 2 * 12 * 10
    assert cost.flops_of(Engine.VECTOR) == B * q * 2 * 12  # the bias
    touched = 8 * (1 - Rational(3, 4) ** (B * q))
    assert expand(cost.bytes_of(Role.WEIGHT) - touched * (12 * 10 + 12) * 2) == 0
    rows = 2 if per_choice else 1
    read = cost.bytes_of(Role.ACTIVATION, Direction.READ)
    assert expand(read - (B * q * rows * 10 * 2 + B * q * 2 * 4)) == 0
    assert cost.bytes_of(Role.ACTIVATION, Direction.WRITE) == B * q * 2 * 12 * 2


def test_the_products_as_a_grouped_gemm():
    groups, rows, ic, oc = ExpertLinear().gemm(operands())
    here = {B: I(4), q: I(1)}
    assert (ic, oc) == (10, 12)
    assert groups.xreplace(here) == Rational(175, 32)
    assert expand(groups * rows) == 2 * B * q


def test_all_experts_chosen_is_a_dense_product_of_e_times_the_width():
    op, given_ = ExpertLinear(), operands(experts=4, chosen=4)
    cost = op.cost(given_, (op.infer(given_)[0].named("y"),))
    x = given_[0]
    wide = Tensor("w", (I(4 * 12), I(10)), BF16, Role.WEIGHT)
    dense = Linear().cost((x, wide), (Tensor("y", (B, q, I(48)), BF16),))
    assert cost.flops_of(Engine.TENSOR) == dense.flops_of(Engine.TENSOR)
    assert cost.bytes_of(Role.WEIGHT) == dense.bytes_of(Role.WEIGHT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": (B, q, I(11))}, "contraction"),
        ({"w": (I(12), I(10))}, "not a stack of matrices"),
        ({"n": (B, q + 1, I(2))}, "rows of"),
        ({"b": (I(12),)}, "bias and output width"),
    ],
)
def test_operands_that_do_not_fit_are_refused(change, message):
    given_ = [
        Tensor(t.name, change.get(t.name, t.shape), t.dtype, t.role) for t in operands(bias=True)
    ]
    with pytest.raises(VerifyError, match=message):
        ExpertLinear(bias=True).infer(given_)


def test_work_of_a_router():
    logits = Tensor("l", (B, q, I(64)), BF16)
    plain = Route(chosen=I(6))
    weights, numbers = plain.infer([logits])
    assert weights.shape == numbers.shape == (B, q, 6)
    assert numbers.dtype is INT32

    def total(op):
        made = tuple(s.named(str(i)) for i, s in enumerate(op.infer([logits])))
        return sum(op.work([logits], made).values())

    n = B * q
    assert expand(total(plain)) == n * (5 * 64 + 6 * 64)
    assert expand(total(Route(I(6), after=True))) == n * (5 * 6 + 6 * 64)
    full = Route(I(6), "sigmoid", False, True, True, True, I(8), I(3))
    assert expand(total(full)) == n * (3 * 64 + 6 * 64 + 64 + 2 * 64 + 3 * 8 + 11 + 6)
    with pytest.raises(VerifyError, match="cannot choose 65 of 64"):
        Route(chosen=I(65)).infer([logits])
    with pytest.raises(VerifyError, match="unknown score"):
        Route(score="tanh").infer([logits])


def test_sums_and_row_factors():
    y, weights = Tensor("y", (B, q, I(6), I(32)), BF16), Tensor("s", (B, q, I(6)), BF16)
    (spec,) = Combine().infer([y, weights])
    assert spec.shape == (B, q, 32)
    assert sum(Combine().work([y, weights], (spec.named("z"),)).values()) == 11 * 32 * B * q
    x, s = Tensor("x", (B, q, I(32)), BF16), Tensor("s", (B, q, I(1)), BF16)
    (spec,) = RowScale().infer([x, s])
    assert sum(RowScale().work([x, s], (spec.named("z"),)).values()) == 32 * B * q
    with pytest.raises(VerifyError):
        RowScale().infer([x, Tensor("s", (B, q, I(2)), BF16)])
    with pytest.raises(VerifyError):
        Combine().infer([y, x])


def test_powers_are_exact_until_they_are_long():
    base = Fraction(31, 32)
    short, long = EXACT_BITS // 6, EXACT_BITS // 6 + 1
    assert power(base, short) == base**short
    assert isinstance(power(base, long), Fraction)
    assert power(base, long).denominator.bit_length() <= 600
    for slow in (base, Fraction(9999, 10000)):
        at = EXACT_BITS // slow.denominator.bit_length() + 1
        assert power(slow, at) != slow**at
        assert abs(power(slow, at) / slow**at - 1) < Fraction(1, 2**190)
    assert power(Fraction(3, 2), 7) == Fraction(3, 2) ** 7
    assert power(base, Fraction(1, 2)) == pytest.approx(float(base) ** 0.5)
    assert 0 < power(base, 10**9) < Fraction(1, 10**1000)
