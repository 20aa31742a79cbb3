"""The errors a caller can act on.

Everything costgraph raises on bad input derives from :class:`CostgraphError`.
The command line turns any of them into one line on standard error and exit
code 2; a traceback therefore always means a defect in costgraph itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from costgraph.quoting import visible


class CostgraphError(Exception):
    """Root of all errors caused by input; its text is one line for the user.

    What a text holds that cannot be shown is escaped: parts of it come from outside.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(visible(a) if isinstance(a, str) else a for a in args))


class InputError(CostgraphError):
    """A value, name, file or option from the user cannot be used."""


class ModelError(InputError):
    """A model configuration is malformed, incomplete or of an unknown family."""


class HardwareError(InputError):
    """A device description is malformed or incomplete."""


class PipelineError(InputError):
    """A pass pipeline does not parse, or its passes do not fit together."""


class VerifyError(CostgraphError):
    """A graph breaks an invariant; names the pass that broke it, if one did."""


class MissingRuleError(CostgraphError):
    """An operation has no cost rule: it must never be counted as free."""


class UnboundSymbolError(InputError):
    """A formula was evaluated without a value for one of its symbols.

    Attributes:
        names: of the symbols, where they are known.
    """

    def __init__(self, message: str, names: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.names = tuple(names)


class NoMetricError(InputError):
    """A model has no such quantity.

    Attributes:
        metric: what was asked for.
        instead: what to ask for.
    """

    def __init__(self, message: str, metric: str, instead: str) -> None:
        super().__init__(message)
        self.metric, self.instead = metric, instead


def unbound(what: str, missing: Sequence[str], meanings: Mapping[str, str]) -> UnboundSymbolError:
    """The error that ``what`` has no value for some symbols, with what is known of them."""
    told = "; ".join(f"{n}: {meanings[n]}" for n in missing if n in meanings)
    text = f"{what}: no value for {', '.join(missing)}" + (f" ({told})" if told else "")
    return UnboundSymbolError(text, missing)


def closest(name: str, known: Iterable[str], alike: float = 0.55) -> str | None:
    """The known name that is most like one that is not; None where none is.

    Args:
        name: what was given.
        known: names.
        alike: the least share of equal letters, from 0 to 1, as :mod:`difflib` counts them.
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(name[:80], names, n=1, cutoff=alike)
    if not close:  # perhaps only the case is off
        lowered = {n.lower(): n for n in names}
        close = difflib.get_close_matches(name[:80].lower(), lowered, n=1, cutoff=alike)
        close = [lowered[c] for c in close]
    return close[0] if close else None


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    """The error that ``what`` has no symbol of a name, with the nearest, or all there are."""
    return InputError(f"{what} has no symbol {clip(name)}{nearest(name, known)}")


def independent(what: str, name: str, known: Iterable[str]) -> InputError:
    """The error that nothing about ``what`` changes with a symbol, with those that it has."""
    names = ", ".join(sorted(known)) or "nothing"
    return InputError(f"{what} does not depend on {clip(name)}; it depends on {names}")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint naming the closest known name, or the known names when few.

    Returns a text that starts with ``"; "`` so that it can be appended to a
    message, or an empty string when there is nothing useful to say.
    """
    names = sorted(set(known))
    close = closest(name, names)
    if close is not None:
        return f"; did you mean {close!r}?"
    if names and len(names) <= 12:
        return "; known: " + ", ".join(names)
    return ""


def many(count: int, what: str) -> str:
    """So many things: ``1 layer``, ``2 layers``."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def clip(text: object, limit: int = 60) -> str:
    """``repr`` of an untrusted value, shortened so that a message stays one line.

    ``repr`` itself fails on whole numbers of thousands of digits and on very deep
    nesting, both of which a hostile file can hold: then only the type is named.
    """
    try:
        shown = repr(text)
    except (ValueError, RecursionError):
        return f"{type(text).__name__} too large to show"
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
