"""What every number is about, and what it rests on.

One value, made once where a model is compiled. Formulas carry it, and every printer
shows it: a table, a title, a file or a figure cannot forget what it was made for.
Texts begin with :meth:`Setting.lines` (model, device, passes, conventions, warnings) and
end with :meth:`Setting.foot` (assumptions, remarks, what passes did not do); JSON has
:meth:`Setting.to_dict`, with the same keys everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from costgraph.undone import Undone
from costgraph.undone import lines as undone_lines

#: Parts that are sentences: what must be said beside a number, and what stands under a text.
SAID = ("warnings", "cautions")
FOOT = ("assumptions", "notes", "not_done")


@dataclass(frozen=True)
class Setting:
    """What a number was computed for.

    Attributes:
        model, hardware: names.
        passes: the pipeline as text; empty for the unmodified model.
        accounting: the counting convention.
        fidelity: ``ideal`` (the roofline, a lower bound), ``calibrated`` or a band.
        reading: options other than the usual ones that model and device were read with
            (``routing=zipf:1``, ``weights=int8``, ``reserve=2 GB``).
        fixed: values of symbols that were fixed (``K=20``), as exact texts.
        assumptions: sentences that the number rests on.
        notes: remarks on how the model was read, which change no number.
        not_done: what passes did not do, and why.
        warnings: what must be said beside every number until more is known of the
            workload, such as weights that do not fit into the device's memory.
        cautions: what must be said beside every number whatever the workload, such as
            devices that idle.
        symbols: what symbols of passes stand for: name and meaning.
        whole: names of those that stand for whole numbers.
        zero: names of those that may be zero; all others are positive.
    """

    model: str
    hardware: str = ""
    passes: str = ""
    accounting: str = "exact"
    fidelity: str = "ideal"
    reading: tuple[tuple[str, str], ...] = ()
    fixed: tuple[tuple[str, str], ...] = ()
    assumptions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    not_done: tuple[Undone, ...] = ()
    warnings: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    symbols: tuple[tuple[str, str], ...] = ()
    whole: tuple[str, ...] = ()
    zero: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Setting: {self.text()}>"

    def text(self, *more: str, without: Collection[str] = ()) -> str:
        """One line: what it is, ``more`` about it, then the conventions.

        Args:
            more: what to say between the model and the conventions, such as values.
            without: fields that a table shows by itself (``hardware``, ``passes``), or
                that what is shown does not hang on (``fidelity``, of a graph alone).
        """
        return ", ".join(self.parts(*more, without=without))

    def parts(self, *more: str, without: Collection[str] = ()) -> list[str]:
        """The parts of :meth:`text`; the first is the model on its device."""
        on = f" on {self.hardware}" if self.hardware and "hardware" not in without else ""
        parts = [f"{self.model}{on}", *filter(None, more)]
        parts += [f"{name}={_short(value)}" for name, value in self.fixed]
        if "passes" not in without:
            parts.append(f"passes {self.passes}" if self.passes else "no passes")
        return [*parts, *(c for c in self.conventions if c.split()[0] not in without)]

    def assuming(self, *sentences: str) -> Setting:
        """The setting of something that rests on further sentences."""
        return replace(self, assumptions=tuple(dict.fromkeys((*self.assumptions, *sentences))))

    def warned(self, *sentences: str) -> Setting:
        """The setting of something of which these must be said, those that are not empty."""
        said = (*self.cautions, *filter(None, sentences))
        return replace(self, cautions=tuple(dict.fromkeys(said)))

    def counting(self, *names: str) -> Setting:
        """The setting of something in which further symbols stand for whole numbers."""
        return replace(self, whole=tuple(dict.fromkeys((*self.whole, *names))))

    def lines(self, *more: str, warning: str = "", without: Collection[str] = ()) -> list[str]:
        """:meth:`text`, and under it what must be said: ``warning`` of the workload, or of all."""
        return [self.text(*more, without=without), *self.said(warning)]

    def said(self, warning: str = "") -> tuple[str, ...]:
        """What must be said: a warning of the workload, or those of every workload; cautions."""
        return (*((warning,) if warning else self.warnings), *self.cautions)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is said beside an output that has no room for :meth:`foot`."""
        return (*self.notes, *undone_lines(self.not_done))

    def foot(self, *more: str) -> list[str]:
        """What stands under a text: sentences under a heading each; none if nothing is said.

        Args:
            more: what else it assumes, such as limits.
        """
        return foot((*self.assumptions, *more), self.notes, undone_lines(self.not_done))

    @property
    def conventions(self) -> tuple[str, ...]:
        """How it was counted and timed: what is not as usual, and always the fidelity."""
        parts = [f"accounting {self.accounting}"] if self.accounting != "exact" else []
        parts += [f"{name} {value}" for name, value in self.reading]
        return (*parts, f"fidelity {self.fidelity}")

    def at(self, values: Mapping[Any, Any]) -> Setting:
        """The setting of something whose symbols take these values, where they are numbers."""
        numbers = {str(s): str(v) for s, v in values.items() if getattr(v, "is_Rational", False)}
        return self.told(numbers)

    def told(self, numbers: Mapping[str, str]) -> Setting:
        """:meth:`at` of exact texts."""
        return replace(self, fixed=tuple({**dict(self.fixed), **numbers}.items()))

    def to_data(self) -> dict[str, Any]:
        """All of it as plain values, which :meth:`from_data` gives back."""
        return asdict(self)

    @staticmethod
    def from_data(data: Mapping[str, Any]) -> Setting:
        """The setting of :meth:`to_data`, also after it was JSON."""

        def tuples(value: Any) -> Any:
            return tuple(map(tuples, value)) if isinstance(value, (list, tuple)) else value

        undone = tuple(Undone(**item) for item in data["not_done"])
        rest = {k: tuples(v) for k, v in data.items() if k != "not_done"}
        return Setting(**rest, not_done=undone)

    def to_dict(self, *more: str) -> dict[str, Any]:
        """Plain values, for JSON; the same keys everywhere.

        ``cautions`` are all that must be said: ``more`` of the workload at hand, ``warnings``
        of every workload, which have a key of their own as well, and the rest.
        """
        return {
            "model": self.model,
            "hardware": self.hardware,
            "passes": self.passes,
            "accounting": self.accounting,
            "fidelity": self.fidelity,
            "reading": dict(self.reading),
            "fixed": dict(self.fixed),
            "assumptions": list(self.assumptions),
            "notes": list(self.notes),
            "not_done": [item.to_dict() for item in self.not_done],
            "warnings": list(self.warnings),
            "cautions": list(dict.fromkeys((*more, *self.warnings, *self.cautions))),
        }

    @staticmethod
    def shared(settings: Sequence[Setting]) -> Setting:
        """What is said of several together: devices side by side, and what all have.

        What the numbers rest on is said of all, each sentence once. Their passes are left
        out where they differ; whoever shows them names them.
        """
        first = settings[0]

        def same(name: str) -> Any:
            values = [getattr(s, name) for s in settings]
            if isinstance(values[0], tuple):
                return tuple(v for v in values[0] if all(v in other for other in values))
            return values[0] if len(set(values)) == 1 else ""

        joined: dict[str, Any] = {
            name: ", ".join(dict.fromkeys(getattr(s, name) for s in settings))
            for name in ("model", "hardware", "accounting", "fidelity")
        }
        joined |= {
            name: tuple(dict.fromkeys(item for s in settings for item in getattr(s, name)))
            for name in (*FOOT, "symbols", "whole")
        }
        joined["cautions"] = tuple(_cautions(settings))
        joined["zero"] = _zero(settings)
        kept = {name: same(name) for name in ("passes", "reading", "fixed", "warnings")}
        return replace(first, **joined, **kept)

    def beside(self, other: Setting | None) -> Setting:
        """What is said of something made from two settings: both, where they differ."""
        if other is None or other == self:
            return self
        changed: dict[str, Any] = {}
        for f in fields(self):
            mine, its = getattr(self, f.name), getattr(other, f.name)
            if mine == its:
                continue
            if f.name == "zero":
                changed[f.name] = _zero((self, other))
            elif isinstance(mine, tuple):
                changed[f.name] = tuple(dict.fromkeys((*mine, *its)))
            else:
                changed[f.name] = f"{mine or 'none'} | {its or 'none'}"
        return replace(self, **changed)


def _zero(settings: Sequence[Setting]) -> tuple[str, ...]:
    """Symbols that may be zero in all settings that know them."""
    names = dict.fromkeys(name for s in settings for name in s.zero)
    return tuple(n for n in names if all(n in s.zero for s in settings if n in dict(s.symbols)))


def _cautions(settings: Sequence[Setting]) -> Iterator[str]:
    """Each caution once, with the passes that it is about where others do without it."""
    about: dict[str, list[Setting]] = {}
    for s in settings:
        for text in s.cautions:
            about.setdefault(text, []).append(s)
    for text, own in about.items():
        places = {(s.model, s.hardware) for s in own}
        every = {s.passes for s in settings if (s.model, s.hardware) in places}
        passes = dict.fromkeys(s.passes for s in own)
        whose = "" if len(passes) == len(every) else f"{'; '.join(p or 'none' for p in passes)}: "
        yield f"{whose}{text}"


def foot(
    assumptions: Sequence[str] = (), notes: Sequence[str] = (), not_done: Sequence[str] = ()
) -> list[str]:
    """Sentences under a heading each, as lines of text; none if nothing is said."""
    parts = (("assuming", assumptions), ("noting", notes), ("not done", not_done))
    return [line for head, said in parts if said for line in (head, *(f"    {s}" for s in said))]


def _short(value: str) -> str:
    """A number in few digits: exact fractions may have many."""
    if len(value) <= 12:
        return value
    top, _, bottom = value.partition("/")
    return f"{int(top) / int(bottom or 1):.6g}"
