"""Traced graphs to graphs of operations: what all dialects share.

A dialect is a table from operators to functions ``(lowering, call)`` that emit
operations through a :class:`Lowering`. Values known while reading (shapes, small
constants) are followed and leave no operations; views of weights that a product
takes as they are disappear likewise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sympy import Expr, Integer, Symbol, floor

from costgraph.errors import ModelError, VerifyError, clip, nearest
from costgraph.ir.dtypes import DType
from costgraph.ir.graph import Builder, Graph
from costgraph.ir.op import same_shape
from costgraph.ir.tensor import Tensor
from costgraph.models.traced.emitter import LABEL, Misfit, shown
from costgraph.models.traced.formats import format_of
from costgraph.models.traced.known import MOST_KNOWN
from costgraph.models.traced.products import Products
from costgraph.models.traced.record import Branch, Call, Ref, Source, Traced, around, used
from costgraph.models.traced.value import Value
from costgraph.progress import counted
from costgraph.rewriting.rewrite import live

ONE = Integer(1)
ZERO = Integer(0)


class UnknownOperators(ModelError):
    """Operators have no rule; ``targets`` says which."""

    def __init__(self, message: str, targets: Iterable[str]) -> None:
        super().__init__(message)
        self.targets = frozenset(targets)


class Lowering(Products):
    """Reads one traced graph by the rules of its dialect."""

    def __init__(self, graph: Traced, dialect: Dialect, mask: str = "skip") -> None:
        super().__init__(graph, mask, *_counted_uses(graph, dialect))
        self.rules = dialect.rules
        #: Calls read so far that gave nothing but known numbers.
        self.constants = 0

    def run(self) -> Graph:
        """The graph of operations.

        Raises:
            ModelError: an operator has no rule, or does not fit its operands.
        """
        self._refuse_unknown(self.graph.calls)
        self._read(self.graph.sources, self.graph.calls)
        results = [self.value(Ref(name)) for name in self.graph.outputs]
        handed = [v for v in results if v.name not in self._resident]
        outputs = tuple(dict.fromkeys(self.tensor(v) for v in handed))
        return live(self._builder.build(*outputs))

    def inline(self, branch: Branch, given: Sequence[Value] = ()) -> tuple[Value, ...]:
        """What a graph inside the present operator makes of ``given`` inputs."""
        present = self._call
        self.values.update(zip(branch.inputs, given, strict=False))
        self._refuse_unknown(branch.calls)
        self._read(branch.sources, branch.calls)
        self._call = present
        return tuple(self.value(Ref(name)) for name in branch.outputs)

    def body(self, branch: Branch, given: Mapping[str, Value], last: Mapping[str, Value]) -> Body:
        """A graph inside the present operator as one of its own, which runs in rounds.

        ``given`` and ``last`` are what stands for the inputs of the graph; they become its
        first and its last operands. What is known around the graph is known in it, and a
        weight that nothing else uses is one of its own; all other values around it become
        operands between those.
        """
        outer = (self._builder, self._made, self.values)
        inner = Counter(n for c in branch.calls for n in used(c))
        captured: dict[str, Value] = {}
        for name in around(branch):
            value = outer[2].get(name)
            if value is None or value.known is not None:
                continue
            if not (value.narrow.is_weight and inner[name] == self._uses[name]):
                captured[name] = value
        stand_ins = {n: self.stand_in(v.shape, v.dtype, v) for n, v in captured.items()}
        self._builder, self._made = Builder(LABEL.sub("_", self.call.name)), set()
        self.values = outer[2] | dict(given) | stand_ins | dict(last)
        try:
            for value in (*given.values(), *stand_ins.values(), *last.values()):
                if value.known is None:
                    self._builder.source(Tensor(value.name, value.shape, value.dtype))
                    self._made.add(value.name)
            results = self.inline(branch)
            names = {v.name: self.tensor(v) for v in results if v.known is None}
            return Body(self._builder, results, names, tuple(captured.values()))
        finally:
            self._builder, self._made, self.values = outer

    def stand_in(self, shape: Sequence[Expr], dtype: DType, like: Value | None = None) -> Value:
        """A value of a body that its region hands in; it has the law of another."""
        law = None if like is None else like.law
        return Value(self._fresh("given"), tuple(shape), dtype, law=law)

    def _read(self, sources: Sequence[Source], calls: Sequence[Call]) -> None:
        for source in sources:
            # What operators are called must not take the name of a stored value.
            name = source.name if source.name not in self._names else self._fresh(source.name)
            self._names.add(name)
            self.values[source.name] = self._sourced(replace(source, name=name))
        for given in counted(calls, "operators read"):
            self._call = call = self._settled_call(given)
            try:
                made = self.rules[call.target](self, call)
                results = made if isinstance(made, tuple) else (made,)
                self._keep(call, results)
                known = [v is not None and v.known is not None for v in results]
                self.constants += bool(known) and all(known)
            except VerifyError as error:
                raise Misfit(str(self.wrong(str(error)))) from None
            except (IndexError, KeyError, TypeError, ValueError, AttributeError) as error:
                # Graphs come from outside: an operand of the wrong kind is their defect.
                reason = f"{type(error).__name__}: {error}"
                raise self.wrong(f"its arguments are not understood ({clip(reason, 90)})") from None

    def _refuse_unknown(self, calls: Sequence[Call]) -> None:
        rules = self.rules
        missing = Counter(c.target for c in calls if c.target not in rules)
        if not missing:
            return
        listed = sorted(missing.items(), key=lambda i: (-i[1], i[0]))
        shown = ", ".join(f"{clip(t)[1:-1]} ×{n}" for t, n in listed[:20])
        more = f" and {len(listed) - 20} more" if len(listed) > 20 else ""
        hint = nearest(listed[0][0], rules) if len(listed) == 1 and len(rules) > 12 else ""
        hint = "" if "known" in hint else hint.replace("did you mean", "the nearest with one is")
        raise UnknownOperators(
            f"{self.graph.name}: operators without a cost rule: {shown}{more}{hint.rstrip('?')}",
            missing,
        )

    def _keep(self, call: Call, made: Sequence[Value | None]) -> None:
        for result, value in zip(call.results, made, strict=False):
            if not result.name:
                continue
            if value is None:
                if self._uses[result.name] or result.name in self.graph.outputs:
                    raise self.wrong(f"its result {clip(result.name)} is used, and not modelled")
                continue
            shape = None if result.shape is None else [self.settled(d) for d in result.shape]
            if shape is not None and not same_shape(shape, value.shape):
                raise self.wrong(
                    f"the exporter states the shape {shown(shape)} for "
                    f"{clip(result.name)}, its operands give {shown(value.shape)}"
                )
            self.values[result.name] = value
        for result in call.results[len(made) :]:
            if self._uses[result.name] or result.name in self.graph.outputs:
                raise self.wrong(f"its result {clip(result.name)} is used, and not modelled")

    def _sourced(self, source: Source) -> Value:
        kind = format_of(source.dtype, f"{self.graph.name}: {clip(source.name)}")
        # Values of weights are not followed; an operator may still ask for a few numbers.
        known = None if source.role == "weight" else source.values
        if known is not None and len(known) > MOST_KNOWN:
            known = None
        return Value(source.name, source.shape, kind, known, source)

    def _settled_call(self, call: Call) -> Call:
        def plain(argument: Any) -> Any:
            if isinstance(argument, tuple):
                return tuple(plain(a) for a in argument)
            return self.settled(argument)

        results = tuple(
            r if r.shape is None else replace(r, shape=tuple(self.settled(d) for d in r.shape))
            for r in call.results
        )
        return replace(call, args=plain(call.args), results=results)

    def rounded(self) -> set[Symbol]:
        """Symbols of sizes that were divided and rounded so far."""
        return {
            symbol
            for value in self.values.values()
            for size in value.shape
            for part in size.atoms(floor)
            for symbol in part.free_symbols
            if isinstance(symbol, Symbol)
        }


@dataclass(frozen=True)
class Body:
    """A graph inside an operator, which runs in rounds.

    Attributes:
        builder: holds the graph, and takes no more operations.
        results: what it makes.
        names: tensors of the graph by the names of results that are not known.
        captured: values around it that are operands of it.
    """

    builder: Builder
    results: tuple[Value, ...]
    names: Mapping[str, str]
    captured: tuple[Value, ...]

    def graph(self, outputs: Sequence[Value]) -> Graph:
        """The graph with some of its results, none of which is known."""
        return self.builder.build(*(self.names[v.name] for v in outputs))


@dataclass(frozen=True)
class Dialect:
    """A table of operators, and what it needs to know before reading.

    Attributes:
        rules: a function per operator.
        matrices: names of the values that a call uses as the right-hand matrix
            of a product, stored as ``(ic, oc)``.
        same: operators whose result is their operand.
    """

    rules: Mapping[str, Rule]
    matrices: Callable[[Call], Sequence[str]]
    same: frozenset[str] = frozenset()


Rule = Callable[[Lowering, Call], "Value | tuple[Value | None, ...]"]


def _counted_uses(graph: Traced, dialect: Dialect) -> tuple[Counter[str], Counter[str]]:
    """How often each value is used, and how often as a right-hand matrix; other names resolved."""
    named: dict[str, str] = {}
    uses: Counter[str] = Counter()
    matrices: Counter[str] = Counter()
    for call in graph.calls:
        given = [named.get(n, n) for n in used(call)]
        if call.target in dialect.same and len(given) == 1 and call.results:
            named[call.results[0].name] = given[0]
            continue
        uses.update(given)
        matrices.update(named.get(n, n) for n in _right_matrices(call, dialect))
    for alias, name in named.items():
        uses[alias], matrices[alias] = uses[name], matrices[name]
    return uses, matrices


def _right_matrices(call: Call, dialect: Dialect) -> Iterator[str]:
    yield from dialect.matrices(call)
    for item in call.attributes.values():
        for inner in item.calls if isinstance(item, Branch) else ():
            yield from _right_matrices(inner, dialect)
