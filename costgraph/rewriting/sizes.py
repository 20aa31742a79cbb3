"""Where passes decide what is left open: sizes of a request, as far as a model has room."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from sympy import Expr, Integer, Symbol

from costgraph.errors import PipelineError
from costgraph.formula.limits import check, fitted
from costgraph.symbols import LEGEND, symbol

if TYPE_CHECKING:
    from costgraph.formula.formula import Formula
    from costgraph.rewriting.pipeline import Pass

#: Options that say where a search is decided, by the size that they are.
OPTIONS: Mapping[str, str] = MappingProxyType(
    {"B": "at_batch", "T": "at_context", "S": "at_prompt", "N": "at_tokens"}
)


@dataclass(frozen=True)
class Sizes:
    """The point at which candidates are compared, by the sizes' names."""

    values: Mapping[str, int]

    @classmethod
    def of(
        cls,
        item: Pass,
        formulas: Iterable[Formula],
        free: Collection[str] = (),
        always: Collection[str] = (),
        instead: str = "",
    ) -> Sizes:
        """The sizes that the options of a pass name, of those that formulas depend on.

        Options at their defaults are taken as far as the formulas' limits leave room.

        Args:
            item: a pass with some of :data:`OPTIONS`.
            formulas: what is compared.
            free: symbols that are decided, and need no number.
            always: sizes that have a value whatever the formulas depend on.
            instead: what can be said in place of numbers that are missing.

        Raises:
            PipelineError: the formulas depend on something that has no number, or not on
                what an option says.
            InputError: sizes that are given break a limit.
        """
        every = list(formulas)
        known = {s.name for f in every for s in f.symbols}
        stated = {n: o for n, o in OPTIONS.items() if hasattr(item, o)}
        if unknown := sorted(known - set(stated) - set(free)):
            more = f"; {instead}" if instead else ""
            raise PipelineError(
                f"{item.name}: what is compared depends on {', '.join(unknown)}, which needs "
                f"numbers{more}"
            )
        given, usual = dict[str, int](), dict[str, int]()
        for name, option in stated.items():
            size, default = getattr(item, option), getattr(type(item), option)
            if name in known or name in always:
                (usual if size == default else given)[name] = int(size)
            elif size != default and name != "B":
                raise PipelineError(
                    f"{item.name}: {option.replace('_', '-')}: what is compared depends on no "
                    f"{name} ({LEGEND[name]})"
                )
        found = {**given, **fitted((x for f in every for x in f.limits), given, usual)}
        made = cls(MappingProxyType({n: found[n] for n in stated if n in found}))
        for formula in every:
            check(formula, made.bindings)
        return made

    @property
    def bindings(self) -> dict[Symbol, Expr]:
        """The sizes for their symbols."""
        return {symbol(name): Integer(size) for name, size in self.values.items()}

    def evaluate(self, formula: Formula, more: Mapping[str, float] | None = None) -> float:
        """A formula there, with ``more`` values beside the sizes."""
        names = {s.name for s in formula.symbols}
        values = {**self.values, **(more or {})}
        return float(formula.evaluate(**{n: v for n, v in values.items() if n in names}))

    def __str__(self) -> str:
        return ", ".join(f"{name}={size}" for name, size in self.values.items())
