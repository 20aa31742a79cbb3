"""How likely drafted tokens are accepted, and how many tokens a round then emits.

``α`` is the probability that a drafted token is accepted given that all before
it were (Leviathan et al., arXiv 2211.17192; acceptances taken as independent).
Where it comes from, two distributions say (:mod:`.distributions`), or a measurement.

An :class:`Acceptance` answers for every place in a draft: the first candidate of a depth,
the second, and so on. What is drafted is no matter of it (:mod:`.rounds`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import sympy
from sympy import Add, Expr, Integer, LambertW, exp, log

from costgraph.errors import PipelineError
from costgraph.formula.powers import power

ONE, ZERO = Integer(1), Integer(0)
#: Up to here a sum of powers of a symbol is written out: there it has no gap at one.
WRITTEN_OUT = 64


class Acceptance(ABC):
    """The probability that a drafted token is the one that is kept.

    Depths and ranks count from 1: rank 2 is the candidate that is tried second among those
    that follow one token.
    """

    @property
    @abstractmethod
    def depths(self) -> int | None:
        """How many depths are known; None where every depth is like the first."""

    @abstractmethod
    def widest(self, depth: int) -> int | None:
        """How many candidates of a depth are known; None for any number."""

    @abstractmethod
    def known(self, depth: int, rank: int) -> Expr:
        """The :meth:`share` of a candidate that is known."""

    def share(self, depth: int, rank: int) -> Expr:
        """Probability that this candidate is kept, given that its parent was.

        Raises:
            PipelineError: nothing is known of it.
        """
        if self.depths is not None and depth > self.depths:
            raise PipelineError(
                f"acceptances are given for {self.depths} tokens in a row: none for token {depth}"
            )
        widest = self.widest(depth)
        if widest is not None and rank > widest:
            raise PipelineError(
                f"acceptances are given for {widest} candidates at depth {depth}: none for "
                f"candidate {rank}"
            )
        return self.known(depth, rank)

    @abstractmethod
    def raised(self, by: Expr) -> Acceptance:
        """The same with ``by`` more for the candidates of each place together, at most one."""

    def any_of(self, depth: int, count: int) -> Expr:
        """Probability that one of the first ``count`` candidates is kept."""
        return Add(*(self.share(depth, rank) for rank in range(1, count + 1)))

    def survival(self, count: Expr) -> Expr:
        """Probability that the first ``count`` tokens of a chain are all accepted."""
        return prod((self.share(i, 1) for i in range(1, whole(count) + 1)), start=ONE)

    def chain(self, gamma: Expr) -> Expr:
        """Expected tokens of a chain of ``γ`` drafts, the target's own one included."""
        return Add(ONE, *(self.survival(Integer(i)) for i in range(1, whole(gamma) + 1)))


@dataclass(frozen=True)
class Constant(Acceptance):
    """Every candidate that is tried is accepted with ``α``."""

    alpha: Expr

    @property
    def depths(self) -> None:
        return None

    def widest(self, depth: int) -> None:
        return None

    def known(self, depth: int, rank: int) -> Expr:
        return self.alpha * (1 - self.alpha) ** (rank - 1)

    def any_of(self, depth: int, count: int) -> Expr:
        return 1 - (1 - self.alpha) ** count

    def survival(self, count: Expr) -> Expr:
        return power(self.alpha, count)

    def chain(self, gamma: Expr) -> Expr:
        return chain_tokens(self.alpha, gamma)

    def raised(self, by: Expr) -> Constant:
        return Constant(_at_most_one(self.alpha + by))


@dataclass(frozen=True)
class Positions(Acceptance):
    """Every candidate that is tried at depth ``i`` is accepted with ``α_i``."""

    alphas: tuple[Expr, ...]

    @property
    def depths(self) -> int:
        return len(self.alphas)

    def widest(self, depth: int) -> None:
        return None

    def known(self, depth: int, rank: int) -> Expr:
        return self.alphas[depth - 1] * (1 - self.alphas[depth - 1]) ** (rank - 1)

    def any_of(self, depth: int, count: int) -> Expr:
        return 1 - (1 - self.share(depth, 1)) ** count

    def raised(self, by: Expr) -> Positions:
        return Positions(tuple(_at_most_one(a + by) for a in self.alphas))


@dataclass(frozen=True)
class Measured(Acceptance):
    """Shares as they were measured: ``shares[i][j]`` for rank ``j + 1`` at depth ``i + 1``.

    The share of a candidate is how often it is the token that is kept, given that its
    parent was: those of one depth add up to one at most.

    Raises:
        PipelineError: a share is no probability, or those of a depth exceed one.
    """

    shares: tuple[tuple[Expr, ...], ...]

    def __post_init__(self) -> None:
        if not self.shares or not all(self.shares):
            raise PipelineError("acceptance: every depth needs a share")
        for depth, row in enumerate(self.shares, 1):
            for share in row:
                if share.is_number and not 0 <= share <= 1:
                    raise PipelineError(f"acceptance: {share} at depth {depth} is not in [0, 1]")
            if (total := Add(*row)).is_number and total > 1:
                raise PipelineError(
                    f"acceptance: the shares of depth {depth} add up to {total}, beyond one"
                )

    @property
    def depths(self) -> int:
        return len(self.shares)

    def widest(self, depth: int) -> int:
        return len(self.shares[depth - 1])

    def known(self, depth: int, rank: int) -> Expr:
        return self.shares[depth - 1][rank - 1]

    def raised(self, by: Expr) -> Measured:
        def more(row: tuple[Expr, ...]) -> tuple[Expr, ...]:
            rest = Add(*row[1:])
            return (_at_most_one(row[0] + rest + by) - rest, *row[1:])

        return replace(self, shares=tuple(map(more, self.shares)))


def tries(betas: Sequence[Expr]) -> Measured:
    """Candidates tried in turn, the one at rank ``m`` accepted with ``β_m`` if all before failed.

    Shares of one depth; :func:`repeated` takes them for several.
    """
    left, row = ONE, []
    for beta in betas:
        row.append(left * beta)
        left = left * (1 - beta)
    return Measured((tuple(row),))


def repeated(one: Measured, depths: int) -> Measured:
    """The shares of the first depth at each of ``depths``."""
    return Measured((one.shares[0],) * depths)


def _at_most_one(value: Expr) -> Expr:
    """A raised acceptance; one that depends on symbols is kept below one by a limit."""
    return ONE if value.is_number and value > 1 else value


# --- expected tokens --------------------------------------------------------------------


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


def emitted(reach: Sequence[Expr], batch: Expr = ONE) -> Expr:
    """Expected tokens where ``reach[i]`` is the probability that more than ``i`` drafts are kept.

    With a ``batch``, of sequences that all advance by the least: ``1 + Σ reach_i^B``.
    """
    return Add(ONE, *(power(r, batch) for r in reach))


def position_tokens(alphas: Sequence[Expr]) -> Expr:
    """Expected tokens with an acceptance of its own per position: ``1 + Σ_i Π_{j<=i} α_j``."""
    return Positions(tuple(alphas)).chain(Integer(len(alphas)))


def independent_reach(acceptance: Acceptance, gamma: Expr, drafts: Expr) -> tuple[Expr, ...]:
    """Probability that the best of ``k`` independent chains has ``i`` tokens, ``i = 1 … γ``."""
    steps = (Integer(i) for i in range(1, whole(gamma) + 1))
    return tuple(1 - power(1 - acceptance.survival(i), drafts) for i in steps)


def independent_tokens(alpha: Expr, gamma: Expr, drafts: Expr) -> Expr:
    """Expected tokens of the best of ``k`` independent chains of ``γ`` drafts.

    ``(γ + 1) − Σ_{i=1}^{γ} (1 − α^i)^k`` (Fu et al., Lookahead decoding, eq. 5).
    """
    return emitted(independent_reach(Constant(alpha), gamma, drafts))


def tree_reach(acceptance: Acceptance, widths: Sequence[int]) -> tuple[Expr, ...]:
    """Probability that a branch of the tree is kept to depth ``i``, every node having children."""
    found, reached = [], ONE
    for depth, width in enumerate(widths, 1):
        reached = reached * acceptance.any_of(depth, width)
        found.append(reached)
    return tuple(found)


def tree_tokens(alpha: Expr, widths: Sequence[int]) -> Expr:
    """Expected tokens of a tree with ``widths[i]`` children per node at depth ``i``.

    A node with ``m`` children has one accepted with ``1 − (1 − α)^m``.
    """
    return emitted(tree_reach(Constant(alpha), widths))


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


# --- when drafting pays, with free verification -----------------------------------------


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
