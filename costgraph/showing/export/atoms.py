"""Numbers and names as text and LaTeX: what all printers of formulas share."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sympy import Rational

PREFIXES = ((10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M"))
_NUMBERED = re.compile(r"([A-Za-z])(\d+)\Z")
#: Dimensions whose second letter is a subscript.
_SUBSCRIPTED = {
    name: (name[0], name[1:])
    for name in ("Hk", "dh", "dr", "dn", "dv", "Ek", "Ie", "Is", "Rk", "Rq", "Re", "Ld", "Lx", "Le")
}

#: Names that are Greek letters, in LaTeX and as a character.
GREEK = {"alpha": (r"\alpha", "α"), "gamma": (r"\gamma", "γ")}


def number_text(value: Rational) -> str:
    """A number, exact where short: ``4096``, ``33.55M``, ``1/2``, ``4.371e-05``."""
    if value.is_Integer and abs(value) < 10**6:
        return str(value)
    if value.is_Rational and value.q <= 64 and abs(value.p) < 10**4:
        return f"{value.p}/{value.q}"
    size = abs(value)
    for scale, prefix in PREFIXES if size < 10**18 else ():
        if size >= scale:
            return f"{float(value / scale):.4g}{prefix}"
    return f"{float(value):.4g}"


def exact_text(value: Rational) -> str:
    """A number to its last digit where it has few, else to twelve digits."""
    text = str(value)
    return text if len(text) <= 24 else f"{float(value):.12g}"


def cancelling(coefficients: Iterable[Rational]) -> bool:
    """Whether terms of a sum may cancel so far that four digits are not enough for the rest.

    So it is where coefficients of opposite sign are nearly alike and not equal:
    ``17.18G·N - 17.18G·Max(N, S)`` is no zero.
    """
    sizes: dict[bool, list[Rational]] = {True: [], False: []}
    for value in coefficients:
        if value.is_Rational and value != 0:
            sizes[bool(value > 0)].append(abs(value))
    return any(a != b and abs(a - b) * 100 <= max(a, b) for a in sizes[True] for b in sizes[False])


def name_parts(name: str) -> tuple[str, str]:
    """A symbol name and its subscript: ``F_bf16``, ``W1`` and ``Hk`` have one."""
    if name in _SUBSCRIPTED:
        return _SUBSCRIPTED[name]
    match = _NUMBERED.match(name)
    if match is not None:
        return match[1], match[2]
    head, _, rest = name.partition("_")
    return head, rest.replace("_", ",")


def symbol_latex(name: str) -> str:
    """A symbol name: subscripts from underscores, words upright."""
    head, rest = name_parts(name)
    base = GREEK.get(head, ("", ""))[0] or (head if len(head) == 1 else rf"\mathrm{{{head}}}")
    if not rest:
        return base
    return base + (
        f"_{{{rest}}}" if len(rest) == 1 or rest.isdigit() else rf"_{{\mathrm{{{rest}}}}}"
    )


def number_latex(value: Rational, exact: bool = False) -> str:
    """A number, exact where short or asked for, in scientific notation otherwise."""
    sign = "-" if value < 0 else ""
    if exact:
        top, _, bottom = exact_text(abs(value)).partition("/")
        if bottom:
            return rf"{sign}\tfrac{{{top}}}{{{bottom}}}"
        if "e" not in top:
            return sign + top
    if value.is_Integer and abs(value) < 10**6:
        return str(value)
    if value.is_Rational and value.q <= 64 and abs(value.p) < 10**4:
        return rf"{sign}\tfrac{{{abs(value.p)}}}{{{value.q}}}"
    mantissa, exponent = f"{float(value):.{11 if exact else 3}e}".split("e")
    return rf"{float(mantissa):.12g}\times10^{{{int(exponent)}}}"
