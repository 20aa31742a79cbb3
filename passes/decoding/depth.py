"""Where tokens leave a model early: distributions over layers and expected depths.

A distribution is a list ``F`` with ``F[l]`` the probability that a token has left
after at most ``l`` layers, ``l = 0 … L``; ``F[0] = 0``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

from sympy import Add, Expr, Integer, Rational

from costgraph.errors import PipelineError

ONE, ZERO = Integer(1), Integer(0)


def two_exit(layers: int, exit_layer: int, p: Expr) -> tuple[Expr, ...]:
    """A share ``p`` leaves after ``exit_layer``, the others stay (Bae et al., arXiv 2310.05424).

    Raises:
        PipelineError: the exit is not inside the model.
    """
    if not 0 < exit_layer < layers:
        raise PipelineError(f"exit = {exit_layer} is not between layer 1 and {layers - 1}")
    return tuple(p if n >= exit_layer else ZERO for n in range(layers + 1))


def geometric(layers: int, p: Expr, first: int, every: int) -> tuple[Expr, ...]:
    """At each exit, ``first``, ``first + every`` …, a share ``p`` of those left leaves."""
    found: list[Expr] = []
    for n in range(layers + 1):
        exits = 0 if n < first or n == layers else (n - first) // every + 1
        found.append(1 - (1 - p) ** exits if exits else (found[-1] if found else ZERO))
    return tuple(found)


def uniform(layers: int) -> tuple[Expr, ...]:
    """Every depth from 1 to ``L`` is equally likely."""
    return tuple(Rational(n, layers) if n < layers else ONE for n in range(layers + 1))


def beta(layers: int, a: int, b: int) -> tuple[Expr, ...]:
    """Relative depth follows a beta distribution with whole parameters.

    ``F(l) = Σ_{j=a}^{a+b−1} C(a+b−1, j) x^j (1−x)^{a+b−1−j}``, ``x = l/L``.
    """
    n = a + b - 1

    def cdf(k: int) -> Expr:
        left = layers - k
        return Rational(
            sum(comb(n, j) * k**j * left ** (n - j) for j in range(a, n + 1)), layers**n
        )

    return tuple(cdf(k) for k in range(layers + 1))


def per_layer(layers: int, given: Sequence[Expr]) -> tuple[Expr, ...]:
    """The share that leaves after each layer, first layer first; the rest stays.

    Raises:
        PipelineError: more shares than exits, or a sum above one.
    """
    if len(given) >= layers:
        raise PipelineError(f"{len(given)} exit shares for {layers} layers; at most {layers - 1}")
    total: Expr = ZERO
    found: list[Expr] = [ZERO]
    for n in range(layers):
        total = total + (given[n] if n < len(given) else ZERO)
        found.append(total)
    if total.is_number and total > 1:
        raise PipelineError(f"the exit shares add up to {total}, beyond one")
    return tuple(found)


def expected_depth(left: Sequence[Expr]) -> Expr:
    """Expected layers of one token: ``Σ_{l=0}^{L−1} (1 − F(l))``."""
    return Add(*(1 - f for f in left[:-1]))


def expected_batch_depth(left: Sequence[Expr], batch: Expr) -> Expr:
    """Expected layers until all of ``B`` tokens have left: ``Σ (1 − F(l)^B)``."""
    return Add(*(1 - _power(f, batch) for f in left[:-1]))


def _power(f: Expr, batch: Expr) -> Expr:
    return ZERO if f == 0 else f**batch


def segments(left: Sequence[Expr]) -> tuple[tuple[int, Expr], ...]:
    """Runs of layers that the same share of tokens has left: (layers, share)."""
    runs: list[tuple[int, Expr]] = []
    for share in left[:-1]:
        if runs and runs[-1][1] == share:
            runs[-1] = (runs[-1][0] + 1, share)
        else:
            runs.append((1, share))
    return tuple(runs)
