"""Powers with large exponents: numbers put into formulas without millions of digits.

Expected experts bring ``(31/32)^B``, acceptances ``α^γ``. At a batch of a million the
exact power has five million digits, and sums of such powers never end. Here a power
stays exact up to :data:`EXACT_BITS` bits; a longer one is rounded to 192 bits (a relative
1e-57), and one below 2^-4096 stands as 2^-4096. It is added to numbers near one, and
what follows is shown in doubles, which keep a relative 1e-16.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache

import mpmath
from sympy import Expr, Pow, Rational, Symbol

from costgraph.errors import InputError, clip

#: Bits up to which a power of a rational number is exact.
EXACT_BITS = 4096
_ROUNDED = 192
_LEAST = EXACT_BITS


def placed(expr: Expr, values: Mapping[Expr, Expr]) -> Expr:
    """``expr`` with symbols replaced, large powers rounded as the module says.

    Raises:
        InputError: a power is too large for any number.
    """
    powers = {
        p: power(placed(p.base, values), placed(p.exp, values))
        for p in expr.atoms(Pow)
        if p.exp.free_symbols
    }
    return expr.xreplace({**values, **powers})


def has_norm(expr: Expr) -> bool:
    """Whether some exponent is a float: only those of norms are, and no value is then exact."""
    return any(p.exp.is_Float for p in expr.atoms(Pow))


def unmovable(expr: Expr, moved: Mapping[Expr, Expr]) -> set[Symbol]:
    """Symbols whose replacement would write out a long power: ``p^(1000000·(S + 1))``."""
    found: set[Symbol] = set()
    for p in expr.atoms(Pow):
        if not (p.base.is_Rational and p.exp.free_symbols & moved.keys()):
            continue
        constant = p.exp.xreplace(dict(moved)).expand().as_coeff_Add()[0]
        exact = Fraction(int(constant.p), int(constant.q)) if constant.is_Rational else Fraction(0)
        if not is_short(Fraction(int(p.base.p), int(p.base.q)), exact):
            found |= p.exp.free_symbols
    return found


def power(base: Expr, exponent: Expr) -> Expr:
    """``base ** exponent`` of expressions; of numbers exactly while that is short.

    Raises:
        InputError: the power is too large for any number.
    """
    if not (base.is_Rational and exponent.is_Rational):
        return base**exponent
    exact = Fraction(int(base.p), int(base.q)), Fraction(int(exponent.p), int(exponent.q))
    return base**exponent if is_short(*exact) else Rational(rounded(*exact))


def is_short(base: Fraction, exponent: Fraction) -> bool:
    """Whether a power is written out exactly."""
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    return base in (0, 1) or abs(exponent) * bits <= EXACT_BITS


@lru_cache(maxsize=4096)
def rounded(base: Fraction, exponent: Fraction) -> Fraction:
    """``base ** exponent`` to 192 bits, and at least 2^-4096.

    Raises:
        InputError: the base is negative, or the power too large for any number.
    """
    precision = _ROUNDED + 64 + int(abs(exponent)).bit_length()
    if base > 0:
        with mpmath.workprec(precision):
            logarithm = mpmath.log(mpmath.mpf(base.numerator) / base.denominator, 2)
            size = logarithm * exponent.numerator / exponent.denominator
            if size < -_LEAST:
                return Fraction(1, 1 << _LEAST)
            if size <= EXACT_BITS:
                shift = int(mpmath.floor(size)) - _ROUNDED
                digits = int(mpmath.floor(mpmath.power(2, size - shift)))
                return Fraction(digits << max(shift, 0), 1 << max(-shift, 0))
    raise InputError(f"{clip(str(base))} to the power {clip(str(exponent))} is too large")
