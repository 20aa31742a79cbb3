"""What papers say about the quality of models that passes changed: cited, never worked out."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from costgraph.files import outside
from costgraph.rewriting import grammar

#: Where a row was read: in the authors' own text, or in one about it.
READ = ("table", "note")


@dataclass(frozen=True)
class Quality:
    """One published result.

    Attributes:
        passes: the pipeline that stands for the setting: what it costs, not what values it stores.
        model: a shipped model.
        metric: what was measured, on what.
        before, after: of the unmodified model and of the changed one, as printed.
        method: who chose the values that are stored.
        source, where: the paper or repository, and the table in it.
        read: one of :data:`READ`.
    """

    passes: str
    model: str
    metric: str
    before: str
    after: str
    method: str
    source: str
    where: str
    read: str

    @property
    def cited(self) -> str:
        """Source and place in one line."""
        return f"{self.source}, {self.where}"


@cache
def published() -> tuple[Quality, ...]:
    """Every row of ``quality.toml``, in its order."""
    text = outside.package_text(Path(__file__).with_name("quality.toml"))
    names = [f.name for f in fields(Quality)]
    return tuple(Quality(**{n: row[n] for n in names}) for row in tomllib.loads(text)["row"])


def of(name: str) -> tuple[Quality, ...]:
    """The rows whose pipeline has a pass of this name."""
    return tuple(q for q in published() if name in {item.name for item in grammar.read(q.passes)})
