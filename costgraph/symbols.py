"""The one factory for symbols.

sympy treats two symbols of one name but different assumptions as different, so
``B - B`` would not vanish if two modules made their own ``B``. Every symbol in
costgraph comes from :func:`symbol`; nothing else calls ``sympy.Symbol``.
"""

from __future__ import annotations

from functools import cache

import sympy

from costgraph.names import symbol_name

#: What the well-known symbols mean, with their units. Shown in legends.
LEGEND: dict[str, str] = {
    "B": "batch: sequences processed together",
    "q": "query positions processed in one step, per sequence",
    "T": "context: positions attended, cached plus new, per sequence",
    "S": "prompt length, tokens per sequence",
    "N": "generated tokens per sequence",
    "K": "denoising steps",
    "G": "image tokens per sequence",
    "c": "concurrency: requests in flight on a server",
    "L": "decoder layers",
    "d": "hidden size",
    "H": "query heads",
    "Hk": "key/value heads",
    "dh": "head size",
    "I": "feed-forward width",
    "V": "vocabulary size",
    "P": "learned positions",
    "W": "sliding window, tokens",
    "price": "price of the device, USD per hour",
}

#: What further dimensions of models mean, in derivations and formulas over symbols. Unlike those
#: of :data:`LEGEND`, a symbol of a pass may have such a name.
DIMENSIONS: dict[str, str] = {
    "Ld": "layers without experts",
    "Lx": "layers with experts",
    "Le": "encoder layers",
    "E": "experts of a layer",
    "Ek": "experts that a token chooses",
    "Ie": "width of an expert",
    "Is": "width of what every token passes beside the experts",
    "Re": "width that experts read",
    "Rk": "width of latent keys and values",
    "Rq": "width of latent queries",
    "dr": "rotated width of a head",
    "dn": "width of a head that is not rotated",
    "dv": "width of a head's values",
}

#: Both together.
MEANINGS = LEGEND | DIMENSIONS

#: Symbols that are whole numbers of something, hence at least one.
SIZES = frozenset(LEGEND) - {"price"}


@cache
def symbol(name: str) -> sympy.Symbol:
    """The positive real symbol called ``name``.

    Sizes (``B``, ``q``, ``T``, ``S``, ``N``, model dimensions) and machine
    figures are all positive, and one assumption set keeps equal names equal.

    Raises:
        InputError: ``name`` is not a plain identifier of at most 40 characters.
    """
    return sympy.Symbol(symbol_name(name), positive=True)


def unnamed(name: str) -> sympy.Symbol:
    """A positive real symbol that no text names, whatever it is called: equal to itself alone."""
    return sympy.Dummy(name, positive=True)


B = symbol("B")
q = symbol("q")
T = symbol("T")
S = symbol("S")
N = symbol("N")
K = symbol("K")
G = symbol("G")
