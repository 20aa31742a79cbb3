"""Formulas and what bounds them as data: made of formulas, and computed without sympy.

A number comes from trees (:mod:`.trees`) to the last bit as from the formula itself. Where the
formula would say something else than a number (a value outside its limits, none that is finite)
:class:`Unusual` is raised: whoever has the formula must say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from costgraph.formula.bounds import share_of
from costgraph.formula.trees import value_of

if TYPE_CHECKING:
    from sympy import Expr, Symbol

    from costgraph.formula.formula import Formula
    from costgraph.formula.terms import Term


class Unusual(ValueError):
    """Data have no plain number here."""


#: Why data may have no number: the whole program tells the user.
UNSAID = (Unusual, ArithmeticError, LookupError, TypeError, ValueError)


def kept_formula(formula: Formula) -> dict[str, Any]:
    """A formula as data.

    Raises:
        Unknown: no tree holds it.
    """
    from costgraph.formula.evaluate import source_of, tree_of_expr
    from costgraph.formula.trees import tree_of

    mine = set(formula.symbols)
    names = [s.name for s in formula.symbols]
    # What is said beyond a stated context, the formula itself says.
    every = (*(x.excess for x in formula.limits), *(x.excess for x in formula.stated))
    return {
        "names": names,
        "counts": [n for n in names if n in ("S", "N")],
        "tree": tree_of(source_of(*formula.computed)),
        "limits": [tree_of_expr(x, formula.symbols) for x in every if x.free_symbols <= mine],
    }


def value_at(kept: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """The value of a kept formula; ``given`` may hold more values than it has symbols.

    Raises:
        Unusual: the formula itself must say.
        ArithmeticError: there is no finite value.
        LookupError: a value is missing.
    """
    point = [given[name] for name in kept["names"]]
    if not all(isinstance(given[name], int) for name in kept["counts"]):
        raise Unusual
    if any(value_of(limit, point) > 0 for limit in kept["limits"]):
        raise Unusual
    return value_of(kept["tree"], point)


def kept_expr(expr: Expr) -> dict[str, Any]:
    """An exact expression as data.

    Raises:
        Unknown: no tree holds it.
    """
    from costgraph.formula.evaluate import tree_of_expr

    symbols = sorted(expr.free_symbols, key=lambda s: str(s.name))
    tree = tree_of_expr(expr, symbols, exact=True)
    return {"names": [s.name for s in symbols], "tree": tree}


def exact_at(kept: Mapping[str, Any], given: Mapping[str, Any]) -> Any:
    """The value of :func:`kept_expr`.

    Raises:
        LookupError: a value is missing.
    """
    return value_of(kept["tree"], [given[name] for name in kept["names"]])


# --- what bounds a time ------------------------------------------------------------------


@dataclass(frozen=True)
class _Arm:
    expr: Any
    resource: str
    chain: tuple[_Term, ...]


@dataclass(frozen=True)
class _Term:
    count: Any
    arms: tuple[_Arm, ...]
    norm: float | None


def kept_bounds(formula: Formula) -> dict[str, Any]:
    """What :func:`.bounds.bound_shares` goes by, as data.

    Raises:
        Unknown: no tree holds it.
    """
    from costgraph.formula.bounds import without_span
    from costgraph.formula.evaluate import tree_of_expr

    symbols: Sequence[Symbol] = formula.symbols

    def term(t: Term) -> list[Any]:
        plain = without_span(t)
        return [
            tree_of_expr(plain.count, symbols),
            None if plain.norm is None else float(plain.norm),
            [
                [a.resource, tree_of_expr(a.expr, symbols), [term(inner) for inner in a.chain]]
                for a in plain.arms
            ],
        ]

    return {"names": [s.name for s in symbols], "terms": [term(t) for t in formula.terms]}


def shares_at(kept: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, float]:
    """What :func:`.bounds.bound_shares` gives, of :func:`kept_bounds`."""
    point = [given[name] for name in kept["names"]]

    def term(data: Sequence[Any]) -> _Term:
        count, norm, arms = data
        made = tuple(_Arm(expr, name, tuple(map(term, chain))) for name, expr, chain in arms)
        return _Term(count, made, norm)

    value: Callable[[Any], float] = lambda tree: float(value_of(tree, point))  # noqa: E731
    return share_of(map(term, kept["terms"]), value)
