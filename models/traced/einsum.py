"""Sums of products written as letters, as batched matrix products and views."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from string import ascii_letters

from sympy import Expr, Integer, Mul

from costgraph.models.traced.lowering import Lowering
from costgraph.models.traced.value import Value
from costgraph.ops.maps import Reduce

ONE = Integer(1)
#: Most letters of an equation.
LONGEST = 200
#: A value and the letters of its axes.
Term = tuple[Value, str]


def einsum(low: Lowering, equation: str, values: Sequence[Value]) -> Value:
    """The product of operands as the letters of their axes say.

    From left to right, two operands at a time: letters that nothing needs any more are
    summed. Two operands without such a letter are multiplied element by element.
    """
    terms, out = _parsed(low, equation, values)
    made = terms[0]
    for index, other in enumerate(terms[1:], start=1):
        needed = set(out).union(*(letters for _, letters in terms[index + 1 :]))
        made = _product(low, made, other, needed)
    value, letters = _summed(low, made, set(out))
    if set(letters) != set(out):
        raise low.wrong(f"the equation {equation[:40]!r} makes letters of its own")
    return low.transpose(value, [letters.index(c) for c in out])


def is_projection(equation: str) -> bool:
    """True for ``…i,ij->…j``: the second operand is the right-hand matrix of a product."""
    left, _, out = equation.replace(" ", "").partition("->")
    first, _, second = left.partition(",")
    return (
        len(second) == 2
        and second[0] == first[-1:]
        and second[0] not in out
        and out == first[:-1] + second[1]
        and second[1] not in first
    )


def _parsed(low: Lowering, equation: str, values: Sequence[Value]) -> tuple[list[Term], str]:
    """Operands with their letters, those of an ellipsis filled in, and the result's."""
    plain = equation.replace(" ", "")
    left, arrow, out = plain.partition("->")
    terms = left.split(",")
    allowed = set(ascii_letters) | set(".,->")
    if len(plain) > LONGEST or not set(plain) <= allowed or len(terms) != len(values):
        raise low.wrong(f"the equation {equation[:40]!r} does not fit its operands")
    free = [c for c in ascii_letters if c not in plain]
    # Axes of an ellipsis are counted from its end, as in broadcasting.
    wide = max(
        (len(v.shape) - len(t) + 3 for t, v in zip(terms, values, strict=True) if "..." in t),
        default=0,
    )
    if not 0 <= wide <= len(free):
        raise low.wrong(f"the equation {equation[:40]!r} does not fit its operands")
    shared = "".join(free[:wide])
    filled = []
    for term, value in zip(terms, values, strict=True):
        own = len(value.shape) - len(term) + 3
        full = term.replace("...", shared[wide - own :], 1) if "..." in term else term
        if len(full) != len(value.shape) or len(set(full)) != len(full) or "." in full:
            raise low.wrong(f"the equation {equation[:40]!r} does not fit its operands")
        filled.append(full)
    if not arrow:
        counts = Counter("".join(terms).replace(".", ""))
        out = ("..." if wide else "") + "".join(sorted(c for c, n in counts.items() if n == 1))
    out = out.replace("...", shared, 1)
    known = set("".join(filled))
    if len(set(out)) != len(out) or not set(out) <= known:
        raise low.wrong(f"the equation {equation[:40]!r} does not fit its operands")
    return _without_ones(low, filled, values), out


def _without_ones(low: Lowering, terms: Sequence[str], values: Sequence[Value]) -> list[Term]:
    """Operands without axes of one that another operand repeats."""
    longer = {
        c for t, v in zip(terms, values, strict=True) for c, s in zip(t, v.shape, strict=True)
        if s != 1
    }  # fmt: skip
    found = []
    for term, value in zip(terms, values, strict=True):
        kept = [i for i, c in enumerate(term) if value.shape[i] != 1 or c not in longer]
        view = low.reshape(value, [value.shape[i] for i in kept])
        found.append((view, "".join(term[i] for i in kept)))
    return found


def _summed(low: Lowering, term: Term, needed: set[str]) -> Term:
    """The operand summed over letters that nothing needs."""
    value, letters = term
    gone = tuple(i for i, c in enumerate(letters) if c not in needed)
    if not gone:
        return term
    return low.emit(Reduce("sum", gone), value), "".join(c for c in letters if c in needed)


def _product(low: Lowering, first: Term, second: Term, needed: set[str]) -> Term:
    a, b = (_summed(low, t, needed | set(o[1])) for t, o in ((first, second), (second, first)))
    (x, left), (y, right) = a, b
    sizes = dict(zip(left + right, (*x.shape, *y.shape), strict=True))
    both = [c for c in left if c in right]
    batch, summed = ([c for c in both if (c in needed) == kept] for kept in (True, False))
    rows, columns = ([c for c in t if c not in o] for t, o in ((left, right), (right, left)))

    def shape(*groups: Sequence[str]) -> list[Expr]:
        return [Mul(*(sizes[c] for c in g)) for g in groups]

    x = low.transpose(x, [left.index(c) for c in (*batch, *rows, *summed)])
    if not summed:
        y = low.transpose(y, [right.index(c) for c in (*batch, *columns)])
        tall = low.reshape(x, [*(sizes[c] for c in (*batch, *rows)), *(ONE for _ in columns)])
        flat = [*(sizes[c] for c in batch), *(ONE for _ in rows), *(sizes[c] for c in columns)]
        return low.apply("mul", tall, low.reshape(y, flat)), "".join((*batch, *rows, *columns))
    y = low.transpose(y, [right.index(c) for c in (*batch, *summed, *columns)])
    if batch:
        x = low.reshape(x, shape(batch, rows, summed))
        y = low.reshape(y, shape(batch, summed, columns))
    else:
        x = x if len(summed) == 1 and rows else low.reshape(x, shape(rows, summed))
        single = len(summed) == len(columns) == 1
        y = y if single else low.reshape(y, shape(summed, columns))
    order = (*batch, *rows, *columns)
    return low.reshape(low.matmul(x, y), [sizes[c] for c in order]), "".join(order)
