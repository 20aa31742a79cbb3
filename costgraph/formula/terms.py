"""The parts of a formula: arms, spans and terms.

A term is a maximum of arms. An arm is an expression, or a chain: terms that follow one
another, as in a body that runs beside others. So formulas nest as regions do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sympy import Add, Expr, Float, Integer, Max, Min, Mul, Symbol, ceiling

from costgraph.formula.envelope import dominates
from costgraph.symbols import symbol

ONE, ZERO = Integer(1), Integer(0)


@dataclass(frozen=True)
class Arm:
    """One candidate of a maximum: an expression and the resource it stands for.

    ``resource`` is ``memory`` or ``ENGINE:TYPE`` for times, a phase name or the
    like elsewhere. With a ``chain`` (see :func:`chained`) the arm is a sum of terms:
    ``expr`` is that sum, its maxima unevaluated, and ``resource`` the name of the
    body that runs them.
    """

    expr: Expr
    resource: str
    chain: tuple[Term, ...] = ()

    def mapped(self, f: Callable[[Expr], Expr]) -> Arm:
        """``f`` applied to the expression, or to those of every term of the chain."""
        if self.chain:
            return chained((t.mapped(f) for t in self.chain), self.resource)
        return Arm(f(self.expr), self.resource)

    def scaled(self, factor: Expr) -> Arm:
        """The arm times a factor, which goes into the counts of a chain."""
        if self.chain:
            scaled = (replace(t, count=t.count * factor) for t in self.chain)
            return chained(scaled, self.resource)
        return Arm(_times(factor, self.expr), self.resource)

    @property
    def leaves(self) -> Iterator[Arm]:
        """The arms without a chain that it is made of, itself or those inside."""
        if not self.chain:
            yield self
        for term in self.chain:
            yield from term.leaves


def _times(factor: Expr, expr: Expr) -> Expr:
    """A number times an expression, multiplied into the summands of a sum."""
    return Add(*(factor * a for a in expr.args)) if isinstance(expr, Add) else factor * expr


def chained(terms: Iterable[Term], name: str) -> Arm:
    """The arm of the body ``name``: terms one after the other, none with a span."""
    chain = tuple(terms)
    return Arm(Add(*(t.count * t.value for t in chain)), name, chain)


@dataclass(frozen=True)
class Span:
    """A sum over integer values of ``symbol`` from ``lower`` to ``upper``, both included."""

    symbol: Symbol
    lower: Expr
    upper: Expr

    def mapped(self, f: Callable[[Expr], Expr]) -> Span:
        """``f`` applied to both bounds."""
        return Span(self.symbol, f(self.lower), f(self.upper))


@dataclass(frozen=True)
class Limit:
    """``expr`` must not exceed ``bound``; ``why`` completes the sentence.

    The one way in which programs say what their symbols may be: positions that a table
    has, image tokens that a prompt holds. Every question about a point asks
    :meth:`broken`, every evaluation the :attr:`excess`.

    Attributes:
        expr, bound: the two sides.
        why: the end of the sentence that says what is wrong.
        apart: the values that it allows stand apart (see :func:`whole` and :func:`one_of`):
            ``why`` is all of the sentence, and what goes over real values leaves it out.
        of: the pass that brought it in; empty for the model's own.
    """

    expr: Expr
    bound: Expr
    why: str
    apart: bool = False
    of: str = ""

    @property
    def excess(self) -> Expr:
        """By how much the limit is broken; at most zero where it is kept."""
        return self.expr - self.bound

    @property
    def symbols(self) -> set[Symbol]:
        """What the limit is about."""
        return set(self.excess.free_symbols)

    def mapped(self, f: Callable[[Expr], Expr]) -> Limit:
        """``f`` applied to both sides."""
        return replace(self, expr=f(self.expr), bound=f(self.bound))

    @property
    def text(self) -> str:
        """What it asks for, and why, as results state it."""
        return self.why if self.apart else f"{self.expr} <= {self.bound} ({self.why})"

    def broken(self, values: Mapping[Symbol, Expr]) -> str | None:
        """How the limit is broken at a point; None if it is kept, or not decided there."""
        over = self.excess.xreplace(dict(values))
        return self.says(over) if over.is_number and over > 0 else None

    def says(self, over: Any) -> str:
        """What is wrong where the limit is exceeded by ``over``."""
        if self.apart:
            return self.why
        over = float(over)
        if self.bound.is_number:
            got, end = (f"{x:.15g}" for x in (float(self.bound) + over, float(self.bound)))
            named = got if self.expr.is_number else f"{self.expr} = {got}"
            return f"{named} exceeds {end}: {self.why}"
        if self.expr.is_number:
            least = float(self.expr)
            return f"{self.bound} = {least - over:.15g} is below {least:.15g}: {self.why}"
        return f"{self.expr} exceeds {self.bound} by {over:.15g}: {self.why}"


@dataclass(frozen=True)
class Stated:
    """Positions of a request, against the most that a model's file states.

    No limit: where positions are rotated a graph goes on beyond them, and so do its numbers.
    Whoever shows one there says so.

    Attributes:
        expr: how many there are, over the request's sizes.
        most: that the file states.
        model: whose file it is.
        what: who has them, with its verb.
    """

    expr: Expr
    most: int
    model: str
    what: str

    def mapped(self, f: Callable[[Expr], Expr]) -> Stated:
        """``f`` applied to the positions."""
        return replace(self, expr=f(self.expr))

    @property
    def excess(self) -> Expr:
        """Positions beyond those that are stated."""
        return self.expr - self.most

    @property
    def asks(self) -> str:
        """What holds of all that the file states, where sizes are open."""
        return f"{self.what} at most the {self.most} positions that the file states"

    def says(self, positions: object, least: bool = False) -> str:
        """The sentence of so many positions, or of at ``least`` so many."""
        return (
            f"{self.what} {'at least' if least else 'up to'} {positions} positions, more than "
            f"the {self.most} that the file of {self.model} states"
        )


def beyond(stated: Iterable[Stated], values: Mapping[Symbol, Expr]) -> str:
    """What is said at a point with more positions than the file states, the most; or nothing.

    Sizes that are not given count as one, the least that they can be.
    """
    over: list[tuple[int, bool, Stated]] = []
    for one in stated:
        made = one.expr.xreplace(dict(values))
        free = made.free_symbols
        number = ceiling(made.xreplace(dict.fromkeys(free, ONE)))
        if number.is_Integer and number > one.most:
            over.append((int(number), bool(free), one))
    positions, least, which = max(over, key=lambda x: x[0], default=(0, False, None))
    return "" if which is None else which.says(positions, least)


def whole(amount: Expr, why: str) -> Limit:
    """The limit that an amount is a whole number; ``why`` says so."""
    return Limit(ceiling(amount), amount, why, apart=True)


def one_of(amount: Expr, values: Iterable[Expr], why: str) -> Limit:
    """The limit that an amount is one of few values; ``why`` says so."""
    return Limit(Mul(*((amount - v) ** 2 for v in values)), ZERO, why, apart=True)


@dataclass(frozen=True)
class Term:
    """``count × Max(arms)``, or with a span ``count × Σ Max(arms)``.

    With a ``norm`` ``p`` the arms combine as ``(Σ armᵖ)^(1/p)``, a smooth maximum
    that is never below the largest arm. What each execution pays besides (launch
    and latency) is a term of its own; ``floor`` repeats it for the question of what
    bounds the operations, and adds nothing to the value.

    Attributes:
        count: multiplicity; may be symbolic or negative (in differences).
        arms: candidates of the maximum, none provably dominated.
        ops: names of the operations that the term accounts for.
        span: summation over a range, or None.
        norm: exponent of the norm that combines the arms; None for their maximum.
        floor: latency of one execution, counted in another term; zero without one.
    """

    count: Expr
    arms: tuple[Arm, ...]
    ops: tuple[str, ...] = ()
    span: Span | None = None
    norm: Expr | None = None
    floor: Expr = ZERO

    @property
    def symbols(self) -> set[Symbol]:
        """Free symbols of the term."""
        found: set[Symbol] = set(self.count.free_symbols)
        for arm in self.arms:
            found |= arm.expr.free_symbols
        if self.span is not None:
            found.discard(self.span.symbol)
            found |= self.span.lower.free_symbols | self.span.upper.free_symbols
        return found

    @property
    def value(self) -> Expr:
        """``Max(arms)`` as a sympy expression, without count and span."""
        if self.is_smooth:
            # A float exponent: exact roots of exact numbers are never wanted.
            p = Float(self.norm)
            return _unrooted(Add(*(arm.expr**p for arm in self.arms)) ** (1 / p))
        if len(self.arms) == 1:
            return self.arms[0].expr
        return Max(*(arm.expr for arm in self.arms), evaluate=False)

    @property
    def is_smooth(self) -> bool:
        """True if a norm combines several arms."""
        return self.norm is not None and len(self.arms) > 1

    @property
    def is_nested(self) -> bool:
        """True if an arm is a chain of terms."""
        return any(arm.chain for arm in self.arms)

    @property
    def leaves(self) -> Iterator[Arm]:
        """The arms without a chain, here and in chains."""
        for arm in self.arms:
            yield from arm.leaves

    @property
    def any_smooth(self) -> bool:
        """True if a norm combines arms, here or in a chain."""
        return self.is_smooth or any(t.any_smooth for arm in self.arms for t in arm.chain)

    def mapped(self, f: Callable[[Expr], Expr]) -> Term:
        """``f`` applied to the count, every arm, the floor and the span's bounds."""
        span = None if self.span is None else self.span.mapped(f)
        arms = tuple(arm.mapped(f) for arm in self.arms)
        return Term(f(self.count), arms, self.ops, span, self.norm, f(self.floor))


def _unrooted(norm: Expr) -> Expr:
    """A norm of multiples of one product: that product, its powers whole again."""
    if norm.is_Pow and norm.base.is_Add:
        return norm

    def whole(e: Expr) -> bool:
        return bool(e.is_Pow and e.exp.is_Float and abs(e.exp - round(e.exp)) < 1e-9)

    return norm.replace(whole, lambda e: e.base ** Integer(round(e.exp)))


def make_term(
    count: Expr,
    arms: Iterable[Arm],
    ops: tuple[str, ...] = (),
    span: Span | None = None,
    norm: Expr | None = None,
    floor: Expr = ZERO,
) -> Term | None:
    """A term with dominated arms left out; None if nothing is left to count.

    Every arm adds to a norm, so there only arms of zero are left out. A chain is kept
    in its normal form (see :func:`_settled`).
    """
    if norm is not None:
        added = tuple(arm for arm in arms if arm.expr != 0)
        return Term(count, added, ops, span, norm, floor) if added and count != 0 else None
    kept: list[Arm] = []
    for arm in (a for given in arms for a in _settled(given)):
        if arm.expr == 0 or any(_covers(k, arm) for k in kept):
            continue
        kept = [k for k in kept if not _covers(arm, k)]
        kept.append(arm)
    if not kept or count == 0:
        return None
    return Term(count, tuple(kept), ops, span, floor=floor)


def _covers(a: Arm, b: Arm) -> bool:
    """True if ``b`` is proved never to exceed ``a``.

    Most maxima in chains are taken as they stand: a proof by cases would take too long.
    """
    return dominates(a.expr, b.expr, 1) if a.chain or b.chain else dominates(a.expr, b.expr)


def _settled(arm: Arm) -> tuple[Arm, ...]:
    """A chain as it stands in a maximum: nothing, plain arms, or a chain of several terms.

    An empty chain is no arm. A chain of one maximum is the arms of that maximum, and a
    chain that only ever waits for one resource is an amount of that resource.
    """
    if not arm.chain:
        return (arm,)
    terms = merged(remade(t) for t in arm.chain)
    if not terms:
        return ()
    if len(terms) == 1 and terms[0].norm is None and dominates(terms[0].count, ZERO):
        return tuple(a.scaled(terms[0].count) for a in terms[0].arms)
    resources = {t.arms[0].resource for t in terms}
    if len(resources) == 1 and all(len(t.arms) == 1 for t in terms):
        return (Arm(Add(*(t.count * t.arms[0].expr for t in terms)), resources.pop()),)
    return (chained(terms, arm.resource),)


def remade(term: Term) -> Term:
    """The term with arms that are dominated by now left out; its count may be zero."""
    made = make_term(term.count, term.arms, term.ops, term.span, term.norm, term.floor)
    return replace(term, count=ZERO) if made is None else made


def overlapped(
    count: Expr, bodies: Iterable[Arm], shared: Iterable[Arm] = (), span: Span | None = None
) -> Term | None:
    """``count`` times the time of bodies that run at once, as one term.

    Args:
        count: how often they do.
        bodies: a chain per body.
        shared: what bodies have in common: the total of each resource that several of
            them use, which no schedule gets below.
        span: a sum over contexts.
    """
    chains = tuple(bodies)
    ops = tuple(dict.fromkeys(op for arm in chains for t in arm.chain for op in t.ops))
    return make_term(count, (*chains, *shared), ops, span)


def merged(terms: Iterable[Term]) -> tuple[Term, ...]:
    """Terms with equal arms and span added up; what cancels disappears."""
    groups: dict[object, Term] = {}
    for term in _series(terms):
        key = (frozenset(a.expr for a in term.arms), term.span, term.norm, term.floor)
        known = groups.get(key)
        if known is None:
            groups[key] = term
        else:
            groups[key] = replace(
                known,
                count=known.count + term.count,
                ops=known.ops + tuple(op for op in term.ops if op not in known.ops),
            )
    return tuple(t for t in groups.values() if t.count != 0)


def _series(terms: Iterable[Term]) -> Iterator[Term]:
    """Terms in series: where one body is left of a maximum, its terms stand for it."""
    for term in terms:
        (arm, *more) = term.arms
        if more or not arm.chain:
            yield term
            continue
        inner = (replace(t, count=t.count * term.count, span=term.span) for t in arm.chain)
        yield from _series(inner)


def collected(terms: Iterable[Term]) -> tuple[Term, ...]:
    """Like :func:`merged`, and all terms without a maximum added into one per resource."""
    plain: dict[tuple[str, Span | None, Expr], list[Term]] = {}
    result: list[Term] = []
    for term in merged(terms):
        if len(term.arms) == 1:
            factor = _kept_factor(term.count)
            plain.setdefault((term.arms[0].resource, term.span, factor), []).append(term)
        else:
            result.append(term)
    for (resource, span, factor), group in plain.items():
        if len(group) == 1:
            result.append(group[0])
            continue
        total = Add(*(_rest(t.count, factor) * t.arms[0].expr for t in group)).expand()
        if total != 0:
            ops = tuple(dict.fromkeys(op for t in group for op in t.ops))
            result.append(Term(factor, (Arm(total, resource),), ops, span))
    return tuple(result)


def _kept_factor(count: Expr) -> Expr:
    """The part of a count that stays in front: what is no polynomial (expectations)."""
    clipped = dict.fromkeys(count.atoms(Max, Min), symbol("x"))
    if count.is_number or count.xreplace(clipped).is_polynomial():
        return ONE
    factor: Expr = count.as_content_primitive()[1]
    return factor


def _rest(count: Expr, factor: Expr) -> Expr:
    """``count / factor`` for a factor of :func:`_kept_factor`, never left as a quotient."""
    return count if factor == 1 else count.as_content_primitive()[0]
