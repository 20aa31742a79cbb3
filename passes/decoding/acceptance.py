"""Expected tokens per round of draft and verify, and the best draft length.

``α`` is the probability that a drafted token is accepted given that all before
it were (Leviathan et al., arXiv 2211.17192; acceptances taken as independent).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import sympy
from sympy import Add, Expr, Integer, LambertW, exp, log

from costgraph.errors import PipelineError
from costgraph.formula.powers import power

ONE = Integer(1)
#: Up to here a sum of powers of a symbol is written out: there it has no gap at one.
WRITTEN_OUT = 64


def chain_tokens(alpha: Expr, gamma: Expr) -> Expr:
    """Expected tokens of a chain of ``γ`` drafts: ``(1 − α^(γ+1)) / (1 − α)``.

    The token that the target adds itself is included, so the range is from 1
    to ``γ + 1``.
    """
    if alpha == 1:
        return gamma + 1
    if gamma.is_Integer and gamma <= WRITTEN_OUT and not alpha.is_number:
        return Add(*(alpha**i for i in range(int(gamma) + 1)))
    return (1 - power(alpha, gamma + 1)) / (1 - alpha)


def position_tokens(alphas: Sequence[Expr]) -> Expr:
    """Expected tokens with an acceptance of its own per position: ``1 + Σ_i Π_{j<=i} α_j``."""
    return Add(ONE, *(prod(alphas[: i + 1], start=ONE) for i in range(len(alphas))))


def independent_tokens(alpha: Expr, gamma: Expr, drafts: Expr) -> Expr:
    """Expected tokens of the best of ``k`` independent chains of ``γ`` drafts.

    ``(γ + 1) − Σ_{i=1}^{γ} (1 − α^i)^k`` (Fu et al., Lookahead decoding, eq. 5).
    """
    steps = (Integer(i) for i in range(1, whole(gamma) + 1))
    return gamma + 1 - Add(*(power(1 - power(alpha, i), drafts) for i in steps))


def tree_tokens(alpha: Expr, widths: Sequence[int]) -> Expr:
    """Expected tokens of a tree with ``widths[i]`` children per node at depth ``i``.

    A node with ``m`` children has one accepted with ``1 − (1 − α)^m``.
    """
    return position_tokens([1 - (1 - alpha) ** m for m in widths])


def synchronous_tokens(alpha: Expr, gamma: Expr, batch: Expr) -> Expr:
    """Expected tokens when all ``B`` sequences advance by the least: ``1 + Σ α^(i·B)``."""
    return Add(ONE, *(alpha ** (i * batch) for i in range(1, whole(gamma) + 1)))


def whole(gamma: Expr) -> int:
    """``γ`` as an int.

    Raises:
        PipelineError: it is symbolic, where a number of terms is needed.
    """
    if not gamma.is_Integer:
        raise PipelineError(f"gamma must be a number here, not {gamma}")
    return int(gamma)


def speedup(alpha: Expr, gamma: Expr, c: Expr) -> Expr:
    """Time factor with draft cost ``c`` and free verification: ``E / (γ·c + 1)``."""
    return chain_tokens(alpha, gamma) / (gamma * c + 1)


def stationary_gamma(alpha: Expr, c: Expr) -> Expr:
    """The real ``γ`` at which :func:`speedup` is stationary.

    Setting the derivative to zero gives ``c(1 − α^(γ+1)) = −(γc + 1) α^(γ+1) ln α``,
    solved by ``(1 + W₋₁(−α^(1/c − 1)/e)) / ln α − 1/c``.
    """
    inner = -(alpha ** (1 / c - 1)) / exp(1)
    return (1 + LambertW(inner, -1)) / log(alpha) - 1 / c


def optimal_gamma(alpha: Expr, c: Expr) -> int:
    """The whole ``γ >= 0`` that maximises :func:`speedup`.

    The better neighbour of the stationary point; zero where drafting never
    pays, which is when ``α <= c``.
    """
    if alpha <= c:
        return 0
    if alpha == 1:
        raise PipelineError("with alpha = 1 longer drafts are always better: state gamma")
    point = max(int(sympy.floor(stationary_gamma(alpha, c).evalf(30))), 0)
    return max((point, point + 1), key=lambda g: (speedup(alpha, Integer(g), c), -g))


def break_even_alpha(gamma: int, ratio: Expr) -> Expr | None:
    """The ``α`` at which ``1 + α + … + α^γ`` equals ``ratio``, or None above one.

    ``ratio`` is the time of a round over the time of a plain step. The root is
    unique because the sum grows with ``α``; it is exact where ``γ = 1`` and a
    root to 30 digits otherwise.
    """
    if ratio <= 1:
        return Integer(0)
    if ratio > gamma + 1:
        return None
    if gamma == 1:
        return ratio - 1
    x = sympy.Dummy("x")
    low, high = sympy.Rational(0), sympy.Rational(1)
    polynomial = Add(*(x**i for i in range(gamma + 1))) - ratio
    return sympy.nsolve(polynomial, x, (low, high), solver="bisect", prec=30)
