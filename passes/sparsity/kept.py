"""How much of a size is kept: shares and counts, rounded to what kernels and heads allow."""

from __future__ import annotations

from sympy import Expr, Integer, Rational, floor

from costgraph.errors import PipelineError

ONE = Integer(1)


def kept(size: Expr, amount: Expr, multiple: Expr = ONE, what: str = "size") -> Expr:
    """What is left of ``size``: a share up to one, or a count above; a symbol is a share.

    Numbers are rounded to the nearest multiple, at least one of them, at most the size.

    Raises:
        PipelineError: the count is above the size.
    """
    if not amount.is_number or not size.is_number:
        return size * amount
    if amount > 1:
        if amount > size:
            raise PipelineError(f"shrink: {what} = {amount} is more than there are, {size}")
        exact = amount
    else:
        exact = size * amount
    rounded = multiple * floor(exact / multiple + Rational(1, 2))
    return min(max(rounded, multiple, key=int), size, key=int)


def kept_heads(heads: Expr, kv_heads: Expr, amount: Expr, kv: Expr | None) -> tuple[Expr, Expr]:
    """Query and key/value heads that are left; whole groups unless both are stated.

    Queries that all share one head go one by one.

    Raises:
        PipelineError: the query heads do not share the others evenly.
    """
    if kv is None and kv_heads == 1:
        return kept(heads, amount, what="heads"), kv_heads
    if kv is None:
        share = amount / heads if amount.is_number and amount > 1 else amount
        if share.is_number and share > 1:
            raise PipelineError(f"shrink: heads = {amount} is more than there are, {heads}")
        left = kept(kv_heads, share, what="kv-heads")
        return left * heads / kv_heads, left
    left = kept(kv_heads, kv, what="kv-heads")
    queries = kept(heads, amount, what="heads")
    if queries.is_number and left.is_number and queries % left != 0:
        near = list(range(int(left), int(heads) + 1, int(left)))
        best = min(near, key=lambda n: abs(n - int(queries)))
        raise PipelineError(
            f"shrink: {queries} query heads do not share {left} heads of keys and values evenly; "
            f"the nearest that do: {best}"
        )
    return queries, left
