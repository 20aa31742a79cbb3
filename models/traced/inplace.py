"""Programs that write into their operands, as programs that do not.

``y.add_(1)`` gives ``y`` a new value, and everything that shares its memory too. Each such
call becomes the operator that makes a new value; what views the same memory is made
from it anew where it is needed later, and what an input or a buffer holds in the end
is a result. Writing into a part of an array replaces that part: a scatter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip
from costgraph.models.traced.record import Call, Ref, Result, Traced

#: The same elements in the same or another order of axes: undone by a reshape.
_RESHAPED = frozenset(
    {
        "view", "reshape", "_unsafe_view", "unsqueeze", "squeeze", "flatten", "unflatten",
        "view_as", "reshape_as", "contiguous", "detach", "alias", "dropout", "native_dropout",
        "feature_dropout", "lift_fresh",
    }
)  # fmt: skip
#: Two axes swapped: undone by doing it again.
_SWAPPED = frozenset({"transpose", "t", "mT", "numpy_T", "swapaxes"})
_CUT = frozenset({"slice", "select", "narrow"})
_PARTED = frozenset({"split", "split_with_sizes", "chunk", "unbind", "tensor_split"})
_VIEWS = _RESHAPED | _SWAPPED | _CUT | _PARTED | {"permute", "expand", "expand_as", "broadcast_to"}
#: What remains of writers whose name without ``_`` is another operator.
_MAKERS: Mapping[str, str] = {"fill": "full_like", "zero": "zeros_like"}


def writes(target: str) -> bool:
    """True if an operator changes its first operand: its name ends in one ``_``."""
    return target.endswith("_") and not target.endswith("__")


def functional(graph: Traced) -> Traced:
    """The same program without writing.

    Raises:
        ModelError: it writes where the written part cannot be told.
    """
    if not any(writes(c.target) for c in graph.calls):
        return graph
    try:
        return _Rewriter(graph).run()
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        # Graphs come from outside: an operand of the wrong kind is their defect.
        reason = clip(f"{type(error).__name__}: {error}", 90)
        raise ModelError(f"{graph.name}: what it writes is not understood ({reason})") from None


class _Rewriter:
    def __init__(self, graph: Traced) -> None:
        self.graph = graph
        self.calls: list[Call] = []
        self.now: dict[str, str] = {}
        self.same: dict[str, str] = {}
        self.view: dict[str, tuple[Call, int, str]] = {}
        self.viewers: dict[str, list[str]] = {}
        self.stale: set[str] = set()
        self.shapes: dict[str, Result] = {
            s.name: Result(s.name, s.shape, s.dtype) for s in graph.sources
        }
        self.written: list[str] = []
        self.count = 0

    def run(self) -> Traced:
        sources = {s.name for s in self.graph.sources}
        for call in self.graph.calls:
            self._call(call)
        outputs = [self._value(n) for n in self.graph.outputs]
        outputs += [self._value(n) for n in self.written if n in sources]
        return replace(self.graph, calls=tuple(self.calls), outputs=tuple(dict.fromkeys(outputs)))

    def _call(self, call: Call) -> None:
        if writes(call.target):
            self._write(call)
            return
        self.calls.append(self._resolved(call))
        for index, result in enumerate(call.results):
            self.shapes[result.name] = result
            first = call.args[0] if call.args else None
            if self._is_view(call, result) and isinstance(first, Ref) and result.name:
                base = self._origin(first.name)
                self.view[result.name] = (call, index, base)
                self.viewers.setdefault(base, []).append(result.name)

    def _is_view(self, call: Call, result: Result) -> bool:
        if call.target in _VIEWS:
            return True
        if call.target not in ("to", "type_as", "float", "half"):
            return False
        first = call.args[0]
        known = self.shapes.get(self._origin(first.name)) if isinstance(first, Ref) else None
        return known is not None and known.dtype == result.dtype  # nothing was converted

    def _write(self, call: Call) -> None:
        if not call.args or not isinstance(call.args[0], Ref):
            raise self._wrong(call, "writes into something that is no tensor")
        name = self._origin(call.args[0].name)
        made = self._resolved(call)
        target = call.target[:-1]
        result = Result(self._fresh(name), *self._stated(name))
        self.calls.append(replace(made, target=_MAKERS.get(target, target), results=(result,)))
        if call.results and call.results[0].name:
            self.same[call.results[0].name] = name
        self.shapes[result.name] = result
        self._replace(call, name, result.name)

    def _replace(self, call: Call, name: str, value: str) -> None:
        """``name`` is ``value`` from here on, and so is all that it views or that views it."""
        path = {name}
        self.now[name] = value
        self.stale.discard(name)
        while name in self.view:
            by, index, base = self.view[name]
            old = self._value(base)
            undone = self._undone(call, by, index, base, old, value)
            self.calls.append(undone)
            value = undone.results[0].name
            self.shapes[value] = undone.results[0]
            self.now[base] = value
            path.add(base)
            name = base
        self.written.append(name)
        waiting = list(self.viewers.get(name, ()))
        while waiting:
            other = waiting.pop()
            waiting += self.viewers.get(other, ())
            if other not in path:
                self.stale.add(other)

    def _undone(self, call: Call, by: Call, index: int, base: str, old: str, new: str) -> Call:
        """The call that makes ``base`` anew from the new value of its view."""
        shape, kind = self._stated(base)
        results = (Result(self._fresh(base), shape, kind),)
        label = results[0].name
        target = by.target
        if target in _RESHAPED or target in ("to", "type_as", "float", "half"):
            return Call(label, "reshape", (Ref(new), shape), {}, results, by.scope)
        if target in _SWAPPED:
            return Call(label, target, (Ref(new), *by.args[1:]), by.attributes, results, by.scope)
        if target == "permute":
            axes = [int(a) % len(by.args[1]) for a in by.args[1]]
            back = tuple(axes.index(i) for i in range(len(axes)))
            return Call(label, target, (Ref(new), back), {}, results, by.scope)
        pair = (Ref(old), Ref(new))
        if target in ("slice", "select"):
            args = (*pair, *by.args[1:])
            return Call(label, f"{target}_scatter", args, by.attributes, results, by.scope)
        if target == "narrow":
            axis, start, length = by.args[1:4]
            part: tuple[Any, ...] = (axis, start, start + length)
            return Call(label, "slice_scatter", (*pair, *part), {}, results, by.scope)
        if target in _PARTED:
            place = 1 if target == "unbind" else 2
            axis = by.args[place] if len(by.args) > place else by.attributes.get("dim", 0)
            if target == "unbind":
                return Call(label, "select_scatter", (*pair, axis, index), {}, results, by.scope)
            sizes = [self._axis_size(call, r, axis) for r in by.results[: index + 1]]
            start = sum(sizes[:-1], Integer(0))
            part = (axis, start, start + sizes[-1])
            return Call(label, "slice_scatter", (*pair, *part), {}, results, by.scope)
        raise self._wrong(call, f"writes into the result of {target}, whose elements repeat")

    def _axis_size(self, call: Call, result: Result, axis: int) -> Expr:
        if result.shape is None:
            raise self._wrong(call, "writes into a part whose shape is not stated")
        return result.shape[axis]

    # --- names

    def _origin(self, name: str) -> str:
        """The name under which the program first made a value."""
        while name in self.same:
            name = self.same[name]
        return name

    def _value(self, name: str) -> str:
        """The name of the present value of what the program calls ``name``."""
        name = self._origin(name)
        if name in self.stale:
            self.stale.discard(name)
            by, index, base = self.view[name]
            anew = tuple(
                replace(r, name=self._fresh(name) if i == index else "")
                for i, r in enumerate(by.results)
            )
            args = (Ref(self._value(base)), *(self._argument(a) for a in by.args[1:]))
            label = anew[index].name
            self.calls.append(replace(by, name=label, args=args, results=anew))
            self.shapes[label] = anew[index]
            self.now[name] = label
        return self.now.get(name, name)

    def _argument(self, item: Any) -> Any:
        if isinstance(item, Ref):
            return Ref(self._value(item.name))
        if isinstance(item, tuple):
            return tuple(self._argument(i) for i in item)
        return item

    def _resolved(self, call: Call) -> Call:
        attributes = {k: self._argument(v) for k, v in call.attributes.items()}
        return replace(call, args=self._argument(call.args), attributes=attributes)

    def _stated(self, name: str) -> tuple[tuple[Expr, ...] | None, str | None]:
        known = self.shapes.get(name)
        return (None, None) if known is None else (known.shape, known.dtype)

    def _fresh(self, name: str) -> str:
        self.count += 1
        return f"{name}.written{self.count}"

    def _wrong(self, call: Call, message: str) -> ModelError:
        return ModelError(f"{self.graph.name}: {clip(call.name)} ({call.target[:60]}): {message}")
