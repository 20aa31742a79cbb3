"""Formulas as standalone functions in other languages.

:func:`source` prints one or several formulas as one function without any
dependency on costgraph. Common subexpressions are computed once; sums over
contexts are closed forms, or a small helper that is written only where needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from costgraph.errors import InputError, clip, nearest

if TYPE_CHECKING:
    from costgraph.formula import Formula

#: The languages, in the order in which they are listed to users.
LANGUAGES = ("python", "numpy", "c", "javascript", "julia", "excel")


def source(
    formulas: Formula | Sequence[Formula],
    language: str,
    *,
    name: str | None = None,
    cells: Mapping[str, str] | None = None,
    at: str | None = None,
) -> str:
    """A function that computes the formulas, as text.

    Args:
        formulas: one formula, or several for a vector of results in their order.
        language: one of :data:`LANGUAGES`.
        name: of the function; by default made from the formulas' names.
        cells: excel only: the cell (``B2``, ``$B$2``) that holds each symbol;
            symbols without one are defined names.
        at: excel only: the first cell of a column for intermediate values and
            results; by default each result is one formula.

    Returns:
        The text, ending with a newline. In ``python``, FLOP and bytes are whole
        numbers for whole arguments; everything else computes in double precision.

    Raises:
        InputError: an unknown language, an unusable name or option, or an
            expression that the language cannot express.
    """
    from costgraph.formula import Formula

    many = (formulas,) if isinstance(formulas, Formula) else tuple(formulas)
    if not many:
        raise InputError("no formula to write")
    if language not in LANGUAGES:
        raise InputError(f"no language {clip(language)}{nearest(str(language), LANGUAGES)}")
    if language == "excel":
        from costgraph.showing.export.code.excel import excel_source

        return excel_source(many, name, cells or {}, at)
    if cells is not None or at is not None:
        raise InputError("cells and at are options of excel only")
    return _printer(language)(many, name)


def _printer(language: str) -> Callable[[Sequence[Formula], str | None], str]:
    if language in ("python", "numpy"):
        from costgraph.showing.export.code import python

        return python.python_source if language == "python" else python.numpy_source
    if language == "c":
        from costgraph.showing.export.code.c import c_source

        return c_source
    if language == "javascript":
        from costgraph.showing.export.code.javascript import javascript_source

        return javascript_source
    from costgraph.showing.export.code.julia import julia_source

    return julia_source
