"""How far work has come: told to whoever listens, where it is known how much there is.

Loops that may be long say so (:func:`counted`), whatever they are called from; where nobody
listens that costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

#: Takes what is done, how much of it is, and of how much.
Listener = Callable[[str, int, int], None]
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)
_T = TypeVar("_T")


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """``listener`` is told of everything that is counted in the block."""
    before = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(before)


def tell(what: str, done: int, total: int) -> None:
    """Says that ``done`` of ``total`` are done."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(what, done, total)


def counted(items: Sequence[_T], what: str) -> Iterator[_T]:
    """The items one by one; whoever listens is told how many are done."""
    listener = _LISTENER.get()
    if listener is None:
        yield from items
        return
    total = len(items)
    for done, item in enumerate(items):
        listener(what, done, total)
        yield item
    listener(what, total, total)
