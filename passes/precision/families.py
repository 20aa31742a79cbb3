"""Formats of papers that are no plain integer, float or block: one line each, with its source.

What a kernel cannot take as it is, is expanded to the other operand's 16-bit type: no
machine that is described here decodes posits, flints or outlier pairs in its multipliers,
whatever the papers' own designs do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from sympy import Expr, Integer, Rational

from costgraph.ir.dtypes import DType, Outliers
from costgraph.passes.precision.scheme import (
    FP16,
    ROW,
    TENSOR,
    TOKEN,
    ZERO,
    Scheme,
    grouped,
)

#: Bits of a position in a sparse tensor, as SpQR and SqueezeLLM store it.
INDEX = Integer(16)


@dataclass(frozen=True)
class Family:
    """A format and what it is made for.

    Attributes:
        scheme: how it stores.
        source: the paper; ``about`` says what is special, in a few words.
        roles: ``weights``, ``activations``, ``kv``: where it makes sense.
        why_not: why it makes none elsewhere.
    """

    scheme: Scheme
    source: str
    about: str
    roles: tuple[str, ...] = ("weights", "activations", "kv")
    why_not: str = ""


_OFFLINE = "it is searched for once, before the model runs"
_WEIGHTS = ("weights",)
_CACHES = ("kv",)


def _coded(name: str, bits: int, group: int | str = TENSOR) -> Scheme:
    """Values that are looked up or decoded, no matter how they are spread."""
    return Scheme(
        DType(name, Integer(bits), ""), Integer(group) if isinstance(group, int) else group
    )


def _outlying(scheme: Scheme, outliers: Outliers) -> Scheme:
    return replace(scheme, base=replace(scheme.base, outliers=outliers))


def _squeezed(bits: int) -> Scheme:
    """SqueezeLLM: a code book of ``2^bits`` fp16 values per row, 0.45 % of weights apart."""
    scheme = replace(_coded(f"squeezellm{bits}", bits), book_bits=FP16)
    return _outlying(scheme, Outliers(Rational(45, 10000), FP16, INDEX, apart=True))


def _planes(bits: int) -> Scheme:
    base = DType(f"bcq{bits}", Integer(bits), "", bit_planes=Integer(bits))
    return Scheme(base, Integer(128), FP16, planar=True)


def _kvquant(bits: int) -> Scheme:
    """Values with a scale and an offset per token; keys with those of their channels, known."""
    sparse = Outliers(Rational(1, 100), FP16, INDEX, apart=True)
    values = _outlying(_coded(f"kvquant{bits}", bits, TOKEN), sparse)
    values = replace(values, zero_bits=FP16)
    return replace(values, keys=replace(values, group=TENSOR), unrotated=True)


def _kivi(bits: int) -> Scheme:
    return replace(grouped(f"int{bits}", 32, zero=16), recent=Integer(128))


def _block(name: str, bits: int, compute: str, group: int, micro: Expr = ZERO) -> Scheme:
    extras = (("micro-exponents", micro),) if micro != 0 else ()
    return Scheme(DType(name, Integer(bits), compute, Integer(group), Integer(8), extras=extras))


_MICRO = Rational(1, 2)
_TERNARY = DType("ternary", Rational(8, 5), "int4", bit_planes=Integer(2), coded=Integer(5))
_TERNARY2 = replace(_TERNARY, name="ternary2", bits=Integer(2), coded=Integer(1))
_BINARY = DType("pbllm", Integer(1), "")
_BILLM = DType(
    "billm",
    Integer(1),
    "",
    extras=(("group marks", Integer(1)), ("column marks", Rational(1, 128))),
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "posit8": Family(
            _coded("posit8", 8), "ALPS, posit (n, es)", "n bits whatever es is; no scale"
        ),
        "posit16": Family(
            _coded("posit16", 16), "ALPS, posit (n, es)", "n bits whatever es is; no scale"
        ),
        "flint4": Family(
            _coded("flint4", 4, ROW), "ANT, arXiv 2208.14286", "a scale per channel, token or head"
        ),
        "dybit4": Family(_coded("dybit4", 4), "DyBit, arXiv 2302.12510", "a scale per tensor"),
        "dybit8": Family(_coded("dybit8", 8), "DyBit, arXiv 2302.12510", "a scale per tensor"),
        "adaptivfloat4": Family(
            _coded("adaptivfloat4", 4), "AdaptivFloat, arXiv 1909.13271", "a bias per tensor"
        ),
        "adaptivfloat8": Family(
            _coded("adaptivfloat8", 8), "AdaptivFloat, arXiv 1909.13271", "a bias per tensor"
        ),
        "cfloat8": Family(
            _coded("cfloat8", 8), "Tesla configurable float", "a bias per tensor"
        ),
        "olive4": Family(
            _coded("olive4", 4, ROW),
            "OliVe, arXiv 2304.07493",
            "an outlier takes the place of its neighbour: no position is stored",
        ),
        "olive8": Family(
            _coded("olive8", 8, ROW),
            "OliVe, arXiv 2304.07493",
            "an outlier takes the place of its neighbour: no position is stored",
        ),
        "olaccel4": Family(
            _outlying(grouped("int4", ROW), Outliers(Rational(3, 100), FP16, INDEX)),
            "OLAccel (ISCA 2018)",
            "3 % of elements at 16 bit, 16 bits of position each",
            ("weights", "activations"),
        ),
        "gobo3": Family(
            _outlying(_coded("gobo3", 3), Outliers(Rational(1, 1000), Integer(32), INDEX)),
            "GOBO, arXiv 2005.03842",
            "0.1 % of elements at 32 bit, 16 bits of position each; 8 values per tensor",
            _WEIGHTS,
            _OFFLINE,
        ),
        "squeezellm3": Family(
            _squeezed(3), "SqueezeLLM, arXiv 2306.07629",
            "a code book per row, 0.45 % of weights in a sparse tensor", _WEIGHTS, _OFFLINE,
        ),
        "squeezellm4": Family(
            _squeezed(4), "SqueezeLLM, arXiv 2306.07629",
            "a code book per row, 0.45 % of weights in a sparse tensor", _WEIGHTS, _OFFLINE,
        ),
        "mxint8": Family(
            _block("mxint8", 8, "int8", 32), "OCP Microscaling v1.0", "8-bit exponent per 32"
        ),
        "mx9": Family(
            _block("mx9", 8, "", 16, _MICRO), "arXiv 2302.08007",
            "8-bit exponent per 16, 1-bit exponent per 2", ("weights", "activations", "kv"),
        ),
        "mx6": Family(
            _block("mx6", 5, "", 16, _MICRO), "arXiv 2302.08007",
            "8-bit exponent per 16, 1-bit exponent per 2",
        ),
        "mx4": Family(
            _block("mx4", 3, "", 16, _MICRO), "arXiv 2302.08007",
            "8-bit exponent per 16, 1-bit exponent per 2",
        ),
        "ternary": Family(
            Scheme(_TERNARY, ROW), "TSLD, arXiv 2308.06744",
            "five of three values in a byte; log2(3) = 1.585 is no whole number of bytes",
            _WEIGHTS, "activations and caches of three values are no published format",
        ),
        "ternary2": Family(
            Scheme(_TERNARY2, ROW),
            "TSLD, arXiv 2308.06744", "two bits each, as kernels take them", _WEIGHTS,
            "activations and caches of three values are no published format",
        ),
        "pbllm": Family(
            _outlying(
                Scheme(_BINARY, ROW),
                Outliers(Rational(1, 10), Integer(8), mask_bits=Integer(1)),
            ),
            "PB-LLM, arXiv 2310.00034", "one bit; a tenth at 8 bit; a bitmap", _WEIGHTS, _OFFLINE,
        ),
        "billm": Family(
            _outlying(
                Scheme(_BILLM, Integer(128), Integer(64)),
                Outliers(Rational(8, 100), Integer(2)),
            ),
            "BiLLM, arXiv 2402.04291",
            "one bit, a second for 8 % of the weights; marks, and four scales per 128, besides",
            _WEIGHTS, _OFFLINE,
        ),
        **{
            f"bcq{bits}": Family(
                _planes(bits), "LUT-GEMM, arXiv 2206.09557",
                "binary planes, an fp16 scale per plane and 128 weights", _WEIGHTS, _OFFLINE,
            )
            for bits in (2, 3, 4)
        },
        "e8p2": Family(
            Scheme(DType("e8p2", Integer(2), "", coded=Integer(8))), "QuIP#, arXiv 2402.04396",
            "16 bits for 8 weights, a lattice point; goes with rotate=both", _WEIGHTS, _OFFLINE,
        ),
        **{
            f"kvquant{bits}": Family(
                _kvquant(bits), "KVQuant, arXiv 2401.18079",
                "keys before rotation; 1 % of elements in a sparse tensor", _CACHES,
                "it is a layout of caches",
            )
            for bits in (2, 3, 4)
        },
        **{
            f"kivi{bits}": Family(
                _kivi(bits), "KIVI, arXiv 2402.02750",
                "groups of 32 with minima; the last 128 tokens in 16 bit", _CACHES,
                "it is a layout of caches",
            )
            for bits in (2, 4)
        },
    }
)  # fmt: skip


def schemes(role: str) -> dict[str, Scheme]:
    """The schemes of the families that make sense in a role."""
    return {name: f.scheme for name, f in FAMILIES.items() if role in f.roles}


def refusals(role: str) -> dict[str, str]:
    """Formats that make no sense in a role, with the reason."""
    names = {"weights": "weights", "activations": "activations", "kv": "caches"}
    found = {}
    for name, family in FAMILIES.items():
        if role not in family.roles:
            where = " and ".join(names[r] for r in family.roles)
            found[name] = f"{name} is a format of {where}" + (
                f": {family.why_not}" if family.why_not else ""
            )
    return found
