"""Acceptance from distributions: how often two models agree on a token.

Distributions are sequences of probabilities over one vocabulary, of numbers of any kind:
integers, fractions, sympy's rationals, or floats, which stand for the decimals they print as.
Everything is exact where they are.

Lossless rules keep the target's distribution; how often they accept, total variation bounds:
``α = Σ min(p, q) = 1 − TV(p, q)`` for one draft of ``q``, where ``p`` is the target's
(Leviathan et al., arXiv 2211.17192).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, TypeAlias

from sympy import Expr, Rational

from costgraph.errors import InputError, clip
from costgraph.passes.decoding.acceptance import Measured, tries

Distribution: TypeAlias = Sequence[Any]
Matrix: TypeAlias = Sequence[Distribution]
#: By how much the floats of a distribution may miss one in all; sums are divided out.
LOOSE = Fraction(1, 10**6)


def distribution(values: Distribution, name: str = "p") -> tuple[Fraction, ...]:
    """Probabilities as exact numbers that add up to one.

    Raises:
        InputError: one is negative or no number, or they do not add up to one.
    """
    found = tuple(_number(v, name) for v in values)
    if not found or any(v < 0 for v in found):
        raise InputError(f"{name} is no distribution: it needs probabilities of at least zero")
    total = sum(found, Fraction(0))
    if abs(total - 1) > LOOSE:
        raise InputError(f"{name} is no distribution: it adds up to {float(total):.6g}")
    return found if total == 1 else tuple(v / total for v in found)


def variation(p: Distribution, q: Distribution) -> Expr:
    """Total variation of two distributions: ``½ Σ |p − q|``."""
    return 1 - agreement(p, q)


def agreement(p: Distribution, q: Distribution) -> Expr:
    """``α = Σ min(p, q)``: how often a token of ``q`` stands for the target's ``p``."""
    target, draft = _pair(p, q)
    return Rational(_common(target, draft))


def mean_agreement(pairs: Sequence[tuple[Distribution, Distribution]]) -> Expr:
    """``α`` over several contexts, each as likely: ``1 − E[TV]``."""
    if not pairs:
        raise InputError("no contexts to take the mean over")
    return sum((agreement(p, q) for p, q in pairs), Rational(0)) / len(pairs)


def lenient(p: Distribution, q: Distribution, lenience: Any) -> Expr:
    """Acceptance with lenience ``l`` in (0, 1]: ``Σ min(p/l, q)`` (Leviathan et al., A.5).

    Below one the output is no longer the target's: no token is more than ``1/l`` times as likely.
    """
    target, draft = _pair(p, q)
    loose = _number(lenience, "lenience")
    if not 0 < loose <= 1:
        raise InputError(f"lenience is above 0 and at most 1, not {loose}")
    return Rational(sum(min(a / loose, b) for a, b in zip(target, draft, strict=True)))


def loss(p: Distribution, q: Distribution, accepted: Any) -> Expr:
    """The least total variation of the output from ``p`` if drafts of ``q`` stand so often.

    ``P(reject) + loss = TV(p, q)``: a straight line that no rule gets below (Yin et al.,
    arXiv 2411.00841, Theorem 5).
    """
    share = _number(accepted, "accepted")
    if not 0 <= share <= 1:
        raise InputError(f"accepted is a share, not {share}")
    return max(Rational(0), variation(p, q) - (1 - Rational(share)))


def recursive(p: Distribution, q: Distribution, candidates: int) -> Measured:
    """Candidates of ``q`` tried one after the other, each against what is left of ``p``.

    Behind a rejection the target goes on with ``norm(max(p − q, 0))``; all of ``M`` are rejected
    with the product of the total variations (Yin et al., batch form; Miao et al., SpecInfer).
    """
    left, draft = _pair(p, q)
    betas: list[Expr] = []
    for _ in range(candidates):
        beta = _common(left, draft)
        betas.append(Rational(beta))
        if beta == 1:
            break
        rest = [max(Fraction(0), a - b) for a, b in zip(left, draft, strict=True)]
        total = 1 - beta
        left = tuple(r / total for r in rest)
    return tries(betas)


def transported(p: Distribution, q: Distribution, candidates: int) -> Expr:
    """Most that any lossless rule accepts of ``k`` independent candidates of ``q``.

    The optimal transport with membership cost (Sun et al., SpecTr, arXiv 2310.15141): by
    maximum flow and minimum cut it is ``min over sets A of p(A) + 1 − q(A)^k``, and the sets
    that matter are those of least ``p/q``: between them ``p(A)`` grows in lines, of which
    the convex ``q(A)^k`` takes the least at an end.
    """
    target, draft = _pair(p, q)
    if candidates < 1:
        raise InputError(f"candidates are at least one, not {candidates}")
    order = sorted(range(len(target)), key=lambda i: _ratio(target[i], draft[i]))
    best, mine, its = Fraction(1), Fraction(0), Fraction(0)
    for i in order:
        mine, its = mine + target[i], its + draft[i]
        best = min(best, mine + 1 - its**candidates)
    return Rational(best)


def rejections(
    target: Sequence[Matrix], draft: Sequence[Matrix], start: Distribution, batch: int = 1
) -> Expr:
    """Expected rejections over a sequence of a Markov chain: ``Σ_n E[TV(p_n, q_n)]``.

    No unbiased rule that drafts from these rejects less often (Yin et al., arXiv 2411.00841,
    Theorems 1 and 2). With a free draft and no end of a chain, target passes are rejections.

    With a ``batch`` of ``M``, as many drafts begin behind each rejection, and at the start: their
    first tokens are tried one after the other, each against what is left of the target
    (:func:`recursive`). The one that stands goes on alone, so that a token behind one that stood
    is rejected with ``TV`` as before, one behind a rejection with the product of ``M`` variations.

    Args:
        target, draft: a matrix of transitions per token after the first; row ``x`` is the
            distribution after token ``x``.
        start: the target's distribution of the token before them.
        batch: drafts that begin together.
    """
    if len(target) != len(draft):
        raise InputError(f"{len(target)} steps of the target, {len(draft)} of the draft")
    if batch < 1:
        raise InputError(f"a batch has one draft at least, not {batch}")
    # Tokens that stand behind a rejection (or begin), and those behind one that stood.
    fresh = distribution(start, "start")
    going: tuple[Fraction, ...] = (Fraction(0),) * len(fresh)
    found = Fraction(0)
    for p, q in zip(target, draft, strict=True):
        if not len(p) == len(q) == len(fresh):
            raise InputError(f"matrices of {len(p)} and {len(q)} rows for {len(fresh)} tokens")
        corrected, stood = [Fraction(0)] * len(fresh), [Fraction(0)] * len(fresh)
        for a, b, begun, gone in zip(p, q, fresh, going, strict=True):
            row, other = _pair(a, b)
            for weight, tries_ in ((begun, batch), (gone, 1)):
                if weight == 0:
                    continue
                lost = _left(row, other, tries_)
                found += weight * sum(lost)
                for y, (all_, rest) in enumerate(zip(row, lost, strict=True)):
                    corrected[y] += weight * rest
                    stood[y] += weight * (all_ - rest)
        fresh, going = tuple(corrected), tuple(stood)
    return Rational(found)


def _left(
    target: Sequence[Fraction], draft: Sequence[Fraction], tries_: int
) -> tuple[Fraction, ...]:
    """Of each token, how likely it is written because all of so many tries were rejected."""
    left, share = tuple(target), Fraction(1)
    for _ in range(tries_):
        rest = tuple(max(Fraction(0), a - b) for a, b in zip(left, draft, strict=True))
        total = sum(rest, Fraction(0))
        share *= total
        if share == 0:
            return (Fraction(0),) * len(left)
        left = tuple(r / total for r in rest)
    return tuple(share * x for x in left)


def _common(p: Sequence[Fraction], q: Sequence[Fraction]) -> Fraction:
    return sum((min(a, b) for a, b in zip(p, q, strict=True)), Fraction(0))


def _pair(p: Distribution, q: Distribution) -> tuple[tuple[Fraction, ...], tuple[Fraction, ...]]:
    target, draft = distribution(p, "p"), distribution(q, "q")
    if len(target) != len(draft):
        raise InputError(f"distributions of {len(target)} and {len(draft)} tokens")
    return target, draft


def _ratio(a: Fraction, b: Fraction) -> tuple[bool, Fraction]:
    return (True, a) if b == 0 else (False, a / b)


def _number(value: Any, name: str) -> Fraction:
    """An exact number: floats as the decimals that they print as."""
    if isinstance(value, (int, Fraction)):
        return Fraction(value)
    if isinstance(value, Rational):
        return Fraction(int(value.p), int(value.q))
    try:
        if isinstance(value, Expr):
            raise ValueError
        return Fraction(repr(float(value)))
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{name}: {clip(str(value))} is no number") from None
