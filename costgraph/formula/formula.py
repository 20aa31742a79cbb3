"""The formula: a sum of terms with a unit, its symbols, and what it is about."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from sympy import Add, Expr, Integer, Rational, Symbol

from costgraph.errors import InputError, clip, unbound, unknown
from costgraph.formula.limits import check, is_whole, not_positive, not_whole, takes
from costgraph.formula.powers import placed
from costgraph.formula.sums import span_expr
from costgraph.formula.terms import Limit, Stated, Term, beyond, collected, merged, remade
from costgraph.number import BEYOND, PLAIN, bounded, is_array, number
from costgraph.symbols import DIMENSIONS, LEGEND, N, S, symbol
from costgraph.views import view_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from costgraph.formula.asymptote import Asymptote
    from costgraph.formula.local import Local
    from costgraph.formula.regimes import Crossover, Regimes
    from costgraph.formula.region_map import RegionMap
    from costgraph.formula.solve import Solution
    from costgraph.setting import Setting

#: What a symbol may be given: a real number, exact or not.
Value: TypeAlias = "int | float | Fraction | Rational"


@dataclass(frozen=True)
class Formula:
    """A quantity as ``Σ count × Max(arms)``, or a numerator over such a sum.

    Attributes:
        name: what the quantity is (``tpot``, ``memory`` …).
        unit: ``s``, ``FLOP``, ``byte``, ``token/s``, ``J``, ``J/token`` or ``USD/token``.
        terms: the summands, each knowing the operations it came from.
        numerator: if given, the quantity is ``numerator / Σ terms``.
        limits: bounds on its symbols; evaluation outside them is refused.
        rates: rate of each resource, for printing amounts over rates.
        setting: what it is about and rests on, which printers show; None where it was made
            from terms alone.
    """

    name: str
    unit: str
    terms: tuple[Term, ...]
    numerator: Expr | None = None
    limits: tuple[Limit, ...] = ()
    rates: Mapping[str, Expr] = field(default_factory=dict, compare=False)
    setting: Setting | None = field(default=None, compare=False)
    stated: tuple[Stated, ...] = ()

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences that the formula rests on."""
        return () if self.setting is None else self.setting.assumptions

    @cached_property
    def expr(self) -> Expr:
        """The formula as one sympy expression.

        Maxima are kept unevaluated; sums over contexts appear in closed form
        where the order of the arms' slopes is decided, as ``Sum`` otherwise.
        """
        total = Add(*(t.count * span_expr(t) for t in collected(self.terms)))
        return total if self.numerator is None else self.numerator / total

    @cached_property
    def symbols(self) -> tuple[Symbol, ...]:
        """Free symbols, sorted by name."""
        found: set[Symbol] = set()
        for term in self.terms:
            found |= term.symbols
        if self.numerator is not None:
            found |= self.numerator.free_symbols
        return tuple(sorted(found, key=lambda s: s.name))

    @property
    def meanings(self) -> dict[str, str]:
        """What its symbols stand for, where that is known: sizes, and symbols of passes."""
        own = {} if self.setting is None else dict(self.setting.symbols)
        known = {**DIMENSIONS, **own, **LEGEND}
        return {s.name: known[s.name] for s in self.symbols if s.name in known}

    # --- numbers -------------------------------------------------------------

    @overload
    def evaluate(self, **values: Value) -> float | int: ...

    @overload
    def evaluate(self, **values: Value | ArrayLike) -> NDArray[np.float64]: ...

    def evaluate(self, **values: Any) -> Any:
        """The value for concrete symbols.

        Args:
            values: one positive number per free symbol, by name, of sizes (batch, tokens)
                at least one, zero of shares that may be; or arrays (or lists) of them, which
                broadcast against each other.

        Returns:
            Seconds or rates as a float; FLOP and bytes exactly, as an int when
            the result is whole. For arrays, an array of floats; see
            :func:`costgraph.formula.vector.compile_vector`.

        Raises:
            UnboundSymbolError: a symbol has no value.
            InputError: an unknown name, a value that is not a positive finite
                number, or one outside the formula's limits.
        """
        names, function, checks = self._compiled
        try:
            arguments = [values[name] for name in names]
        except KeyError:
            missing = [n for n in names if n not in values]
            raise unbound(self.name, missing, self.meanings) from None
        plain = True  # numbers that any symbol takes
        for value in arguments:
            if type(value) not in PLAIN:
                return self._of_other_types(names, values)
            plain = plain and 1 <= value < math.inf
        if not plain:
            self._reject(names, arguments)
        if len(values) != len(names):
            self.reject_unknown(values)
        try:
            for check in checks:
                check(arguments)
            result = function(*arguments)
        except (OverflowError, ZeroDivisionError):
            at = ", ".join(f"{n} = {clip(v)}" for n, v in zip(names, arguments, strict=True))
            raise InputError(f"{self.name} has no finite value at {at}") from None
        if isinstance(result, Fraction):
            try:
                return int(result) if result.denominator == 1 else float(result)
            except OverflowError:
                raise InputError(f"{self.name} is beyond every double there") from None
        return result

    def _of_other_types(self, names: tuple[str, ...], values: Mapping[str, Any]) -> Any:
        """The value for numbers that are not Python's own, or arrays."""
        if any(is_array(values[name]) for name in names):
            from costgraph.formula.vector import compile_vector

            return compile_vector((self,))(**values)[0]
        own = {name: number(values[name], f"{self.name}: {name}") for name in names}
        return self.evaluate(**{**values, **own})

    __call__ = evaluate

    @cached_property
    def _compiled(
        self,
    ) -> tuple[tuple[str, ...], Callable[..., Any], tuple[Callable[[list[Any]], None], ...]]:
        from costgraph.formula.evaluate import compile_terms

        function = compile_terms(*self.computed)
        checks = [self._limit_check(limit) for limit in self.limits]
        checks += self._integer_checks()
        return tuple(s.name for s in self.symbols), function, tuple(checks)

    @property
    def computed(self) -> tuple[tuple[Term, ...], tuple[Symbol, ...], Expr | None, bool]:
        """What is computed: terms, of which symbols, under which numerator, whether exactly."""
        rational = self.unit in ("FLOP", "byte")
        terms = merged(self.terms) if rational else collected(self.terms)
        return tuple(terms), self.symbols, self.numerator, rational

    def _limit_check(self, limit: Limit) -> Callable[[list[Any]], None]:
        from costgraph.formula.evaluate import compile_expr

        if not limit.symbols <= set(self.symbols):
            return lambda _: None
        excess = compile_expr(limit.excess, self.symbols)

        def check(arguments: list[Any]) -> None:
            over = excess(*arguments)
            if over > 0:
                raise InputError(f"{self.name}: {limit.says(over)}")

        return check

    def _integer_checks(self) -> list[Callable[[list[Any]], None]]:
        places = [(i, s.name) for i, s in enumerate(self.symbols) if s in (S, N)]

        def check(arguments: list[Any]) -> None:
            for i, name in places:
                if arguments[i] % 1 != 0:
                    raise not_whole(self, name)

        return [check] if places else []

    def _reject(self, names: tuple[str, ...], arguments: list[Any]) -> None:
        for name, value in zip(names, arguments, strict=True):
            if not takes(self.setting, name, value):
                raise not_positive(name, value, f"{self.name}: ")

    def reject_unknown(self, values: Mapping[str, Value]) -> None:
        """Refuses values of symbols that neither it nor any formula has, or of others than fixed.

        Raises:
            InputError: as said, or a limit on a size that is given is broken.
        """
        known = {s.name for s in self.symbols}
        fixed = () if self.setting is None else self.setting.fixed
        for name, value in fixed:
            if name in values and name not in known and exact(values[name]) != Rational(value):
                raise InputError(f"{self.name}: {name} is {value} here, not {values[name]}")
        known |= {name for name, _ in fixed}
        for name in values:
            if name not in known and name not in LEGEND:
                raise unknown(self.name, name, known)
        self._check_unused(values)

    def _check_unused(self, values: Mapping[str, Value]) -> None:
        """Limits on sizes that are given and change no value: a context beyond a full cache."""
        mine = set(self.symbols)
        for limit in self.limits:
            if limit.symbols <= mine or not all(s.name in values for s in limit.symbols):
                continue
            broken = limit.broken({s: exact(values[s.name], s.name) for s in limit.symbols})
            if broken is not None:
                raise InputError(f"{self.name}: {broken}")

    def bind(self, **values: Value | Expr) -> Formula:
        """The formula with some symbols replaced by numbers or expressions.

        Raises:
            InputError: the formula has no symbol of that name, a number is none that it can
                have, or a limit is broken whatever the others are.
        """
        by_name = {s.name: s for s in self.symbols}
        for name in values:
            if name not in by_name:
                raise unknown(self.name, name, by_name)
        return self.given({by_name[n]: exact(v) for n, v in values.items()})

    def given(self, values: Mapping[Symbol, Expr]) -> Formula:
        """Like :meth:`substitute`, of values that the setting is to tell and limits to allow."""
        setting = None if self.setting is None else self.setting.at(values)
        check(self, values)  # before maxima are decided: outside there may be no value
        made = self.substitute(values)
        kept = tuple(x for x in made.limits if x.symbols)
        if setting is not None and made.stated:
            # What was said of fewer values is said of these.
            before = beyond(self.stated, {})
            setting = replace(
                setting, cautions=tuple(x for x in setting.cautions if x != before)
            ).warned(beyond(made.stated, {}))
        return replace(made, limits=kept, setting=setting)

    def beyond(self, **values: Any) -> str:
        """A sentence where sizes have more positions than the model's file states, or nothing.

        Args:
            values: of symbols, as for :meth:`evaluate`; of arrays the largest counts.
        """
        if not self.stated:
            return ""
        most = {n: max(v.flat if hasattr(v, "flat") else v) if is_array(v) else v
                for n, v in values.items()}  # fmt: skip
        sizes = {s: exact(most[s.name]) for x in self.stated for s in x.expr.free_symbols
                 if s.name in most}  # fmt: skip
        return beyond(self.stated, sizes)

    def open_in(self, *symbols: Symbol) -> Setting | None:
        """The setting of something that goes over all values of these symbols."""
        asked = (x.asks for x in self.stated if x.expr.free_symbols & set(symbols))
        return None if self.setting is None else self.setting.assuming(*asked)

    def along(self, over: str, values: Mapping[str, Value]) -> Setting | None:
        """The setting of something that goes over a symbol, others at values."""
        setting = self.open_in(symbol(over))
        if setting is None:
            return None
        given = {symbol(k): exact(v) for k, v in values.items() if k != over}
        return setting.at(given).warned(self.beyond(**values))

    def substitute(self, replacements: Mapping[Symbol, Expr]) -> Formula:
        """The formula with symbols replaced; maxima that become decided collapse.

        What stands for a symbol of whole numbers is whole as well.
        """
        setting = self.setting
        if setting is not None:
            setting = setting.counting(
                *(v.name for k, v in replacements.items() if v.is_Symbol and is_whole(self, k))
            )
            # What stands for something else now need not hold at zero.
            used = {s.name for v in replacements.values() for s in v.free_symbols}
            setting = replace(setting, zero=tuple(n for n in setting.zero if n not in used))

        def f(expr: Expr) -> Expr:
            return placed(expr, replacements)

        terms = (remade(term.mapped(f)) for term in self.terms)
        return replace(
            self,
            terms=merged(terms),
            numerator=None if self.numerator is None else f(self.numerator),
            limits=tuple(x.mapped(f) for x in self.limits),
            stated=tuple(x.mapped(f) for x in self.stated),
            rates={k: f(v) for k, v in self.rates.items()},
            setting=setting,
        )

    # --- analysis -----------------------------------------------------------

    def regimes(self, over: str, at: Mapping[str, Value] | None = None, **values: Value) -> Regimes:
        """Intervals of one symbol with a closed form each; see :mod:`.regimes`."""
        from costgraph.formula.regimes import regimes

        return regimes(self, over, at, **values)

    def crossover(
        self, over: str, at: Mapping[str, Value] | None = None, **values: Value
    ) -> tuple[Crossover, ...]:
        """Where operations change their bound, in closed form; see :mod:`.regimes`."""
        from costgraph.formula.regimes import crossovers

        return crossovers(self, over, at, **values)

    def region_map(self, x: str, y: str, /, **values: Value) -> RegionMap:
        """Regimes over two symbols, with exact boundaries; see :mod:`.region_map`."""
        from costgraph.formula.region_map import region_map

        return region_map(self, x, y, **values)

    def solve_for(
        self,
        over: str,
        budget: Value,
        at: Mapping[str, Value] | None = None,
        at_least: bool = False,
        **values: Value,
    ) -> Solution:
        """Where the formula keeps within a budget; see :mod:`.solve`."""
        from costgraph.formula.solve import solve_for

        return solve_for(self, over, budget, at, at_least, **values)

    def local(self, **values: Value) -> Local:
        """The formula around a point: derivatives, elasticities; see :mod:`.local`."""
        from costgraph.formula.local import local

        return local(self, **values)

    def asymptote(
        self, over: str, at: Mapping[str, Value] | None = None, **values: Value
    ) -> Asymptote:
        """What the formula tends to for a large symbol; see :mod:`.asymptote`."""
        from costgraph.formula.asymptote import asymptote

        return asymptote(self, over, at, **values)

    # --- algebra -------------------------------------------------------------

    def __add__(self, other: Formula) -> Formula:
        return self._combine(other, Integer(1), "+")

    def __sub__(self, other: Formula) -> Formula:
        return self._combine(other, Integer(-1), "-")

    def __neg__(self) -> Formula:
        return self * -1

    def __mul__(self, factor: Value | Expr) -> Formula:
        k = exact(factor)
        if self.numerator is not None:
            return replace(self, numerator=self.numerator * k)
        return replace(
            self, terms=tuple(replace(t, count=t.count * k) for t in self.terms if k != 0)
        )

    __rmul__ = __mul__

    def __truediv__(self, divisor: Value | Expr) -> Formula:
        by = exact(divisor)
        if by == 0:
            raise InputError(f"{self.name} cannot be divided by zero")
        return self.__mul__(1 / by)

    def _combine(self, other: Formula, sign: Expr, operator: str) -> Formula:
        if not isinstance(other, Formula):
            return NotImplemented
        if self.unit != other.unit:
            raise InputError(
                f"cannot combine {self.name} in {self.unit} with {other.name} in {other.unit}"
            )
        if self.numerator is not None or other.numerator is not None:
            raise InputError(
                f"cannot combine {self.name} {operator} {other.name}: rates do not add; "
                "combine the times they are made from"
            )
        flipped = (replace(t, count=sign * t.count) for t in other.terms)
        return Formula(
            f"{self.name} {operator} {other.name}",
            self.unit,
            merged((*self.terms, *flipped)),
            None,
            tuple(dict.fromkeys((*self.limits, *other.limits))),
            {**other.rates, **self.rates},
            other.setting if self.setting is None else self.setting.beside(other.setting),
            tuple(dict.fromkeys((*self.stated, *other.stated))),
        )

    # --- views ---------------------------------------------------------------

    def latex(self) -> str:
        """The formula as LaTeX, one line per term."""
        return view_text("formula_latex", self)

    def text(self) -> str:
        """The formula as plain text, one line per term, amounts over rates."""
        return view_text("formula_text", self)

    def code(self, language: str, name: str | None = None) -> str:
        """The formula as a standalone function; see :mod:`costgraph.showing.export.code`."""
        return view_text("formula_code", self, language, name=name)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        arguments = ", ".join(s.name for s in self.symbols)
        return f"<Formula {self.name}({arguments}) in {self.unit}, {len(self.terms)} terms>"

    def _repr_html_(self) -> str:
        return view_text("formula_html", self)

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {self.latex()}$"

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/plain": self.text(), "text/latex": self._repr_latex_()}


def exact(value: Value | Expr, where: str = "a value") -> Expr:
    """A number as an exact sympy number; expressions pass.

    Raises:
        InputError: it is no finite real number, or beyond 1e60.
    """
    if isinstance(value, Expr):
        return value
    return Rational(bounded(value, where, BEYOND))


def only_formulas(what: str, *given: object) -> None:
    """Raises an InputError where something else than a formula was given to ``what``."""
    for one in given:
        if not isinstance(one, Formula):
            raise InputError(
                f"{what} compares formulas, such as compiled.tpot: {clip(one)} is none"
            )
