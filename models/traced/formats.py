"""Element formats of exporters, and how dimensions get their symbols."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import InputError, ModelError, clip, nearest
from costgraph.ir.dtypes import BF16, FP16, FP32, INT32, INT64, DType, dtype
from costgraph.models.traced.arithmetic import NotArithmetic, is_arithmetic, size
from costgraph.symbols import symbol

BOOL = DType("bool", Integer(8), "int8")
#: No engine is asked for products in this format: rules for products refuse it.
FP64 = DType("fp64", Integer(64), "fp64")

#: Formats by the names that PyTorch and ONNX use, lower case.
FORMATS: Mapping[str, DType] = MappingProxyType(
    {
        "bool": BOOL,
        "float64": FP64,
        "double": FP64,
        "float32": FP32,
        "float": FP32,
        "float16": FP16,
        "bfloat16": BF16,
        "int64": INT64,
        "int32": INT32,
        "uint64": DType("uint64", Integer(64), "int8"),
        "uint32": DType("uint32", Integer(32), "int8"),
        "int16": DType("int16", Integer(16), "int8"),
        "uint16": DType("uint16", Integer(16), "int8"),
        "int8": dtype("int8"),
        "uint8": DType("uint8", Integer(8), "int8"),
        "int4": dtype("int4"),
        "uint4": DType("uint4", Integer(4), "int4"),
        "float8_e4m3fn": dtype("e4m3"),
        "float8e4m3fn": dtype("e4m3"),
        "complex64": DType("complex64", Integer(64), "fp32"),
        "complex128": DType("complex128", Integer(128), "fp64"),
        "float8_e5m2": dtype("e5m2"),
        "float8e5m2": dtype("e5m2"),
    }
)


def format_of(name: str, where: str) -> DType:
    """The format that an exporter calls ``name``.

    Raises:
        ModelError: elements of this kind have no size here (texts).
    """
    found = FORMATS.get(name.lower().removeprefix("torch."))
    if found is None:
        raise ModelError(f"{where}: elements of type {clip(name)} are not supported")
    return found


#: Names that exporters give to the batch and to the sequence.
BATCH = frozenset({"batch", "batch_size", "batchsize", "bs", "n", "b", "unk__0"})
SEQUENCE = frozenset(
    {"seq", "sequence", "seq_len", "seq_length", "sequence_length", "seqlen", "length", "s"}
)
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}\Z")
#: Names of a machine's symbols; no dimension may be mistaken for one.
_TAKEN = re.compile(r"(BW|M|price|alpha|beta)\Z|(F|alpha|beta)_")
LARGEST = 10**12


class DimensionError(ModelError):
    """What a caller gave for dimensions does not fit the graph."""


class Dimensions:
    """Names of dynamic dimensions to our symbols.

    ``given`` maps a name to a symbol's name, a whole number or a size of symbols
    (``T + 1``). Names that mean the batch or the sequence need no entry (``batch`` → ``B``,
    ``sequence_length`` → ``S``); a name that computes (``past + 1``) is that size; any other
    plain name becomes a symbol of its own.
    """

    def __init__(self, given: Mapping[str, str | int | Expr] | None = None) -> None:
        self.given = dict(given or {})
        self.used: dict[str, Expr] = {}

    def named(self, name: str, where: str) -> Expr:
        """The dimension called ``name``.

        Raises:
            ModelError: the name cannot be a symbol and is not mapped to one.
        """
        if name not in self.used:
            self.used[name] = self._made(name, where)
        return self.used[name]

    def _made(self, name: str, where: str) -> Expr:
        value = self.given.get(name)
        if value is not None:
            return dimension(value, name)
        if name.lower() in BATCH:
            return symbol("B")
        if name.lower() in SEQUENCE:
            return symbol("S")
        if is_arithmetic(name):
            try:
                return size(name, lambda part: self.named(part, where))
            except NotArithmetic:
                pass  # a name all the same
        plain = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
        if not _PLAIN.match(plain):
            raise ModelError(
                f"{where}: dimension {clip(name)} is no name for a symbol; "
                f'give it one: dims={{{clip(name)}: "S"}}, --dims {clip(name)}=S'
            )
        if _TAKEN.match(plain):
            plain = f"dim_{plain}"
        try:
            return symbol(plain)
        except InputError:
            return symbol(f"dim_{plain}"[:40])

    @property
    def notes(self) -> tuple[str, ...]:
        """What names were taken for that do not say it themselves."""
        short = {
            n: e
            for n, e in self.used.items()
            if n not in self.given
            and e in (symbol("B"), symbol("S"))
            and not n.lower().startswith(("batch", "seq"))
        }
        return tuple(
            f"the dimension {clip(n)} is taken as the "
            f"{'batch' if e == symbol('B') else 'sequence'} ({e})"
            for n, e in short.items()
        )

    def check(self, where: str, known: Iterable[str] = ()) -> None:
        """Refuses names that were given and do not occur.

        Args:
            where: the model.
            known: names that might have been meant, besides those that occur.

        Raises:
            DimensionError: a name was given that is no dimension's.
        """
        unused = sorted(n for n in self.given if n not in self.used)
        if unused:
            hint = nearest(unused[0], (*self.used, *known))
            raise DimensionError(f"{where}: no dimension is called {clip(unused[0])}{hint}")


def dimension(value: str | int | Expr, name: str) -> Expr:
    """A symbol, a positive whole number or a size of symbols for the dimension ``name``.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, bool):
        raise InputError(f"dimension {clip(name)}: {value} is neither a symbol nor a number")
    if isinstance(value, int):
        if not 0 < value <= LARGEST:
            raise InputError(f"dimension {clip(name)} must be from 1 to 1e12, not {clip(value)}")
        return Integer(value)
    if isinstance(value, Expr):
        return value
    if isinstance(value, str):
        if value.isascii() and value.isdigit() and len(value) <= 13:
            return dimension(int(value), name)
        if not is_arithmetic(value):
            if _TAKEN.match(value):
                raise InputError(f"dimension {clip(name)}: {value} is a symbol of machines")
            return symbol(value)
        try:
            return size(value, symbol)
        except NotArithmetic as error:
            raise InputError(f"dimension {clip(name)}: {clip(value)} is no size: {error}") from None
    raise InputError(f"dimension {clip(name)}: {clip(value)} is neither a symbol nor a number")
