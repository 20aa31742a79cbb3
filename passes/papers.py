"""The papers that passes and conventions are from: bibliographic data, each at one place.

A pass names a paper by its number in the text of its ``source`` (``arXiv 2211.17192``); what
else is known of the paper stands in ``papers.toml``. A paper that is not there is still cited,
by its number.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from costgraph.files import outside

#: Numbers of arXiv since 2007: year, month, and a serial number.
_NUMBER = re.compile(r"(?<![\d.])(\d{2})(0[1-9]|1[0-2])\.\d{4,5}(?![\d.]*\d)")


@dataclass(frozen=True)
class Paper:
    """A paper on arXiv.

    Attributes:
        number: ``2211.17192``.
        title: empty where it is not on file.
        author: surname of the first author; empty where it is not on file.
        alone: whether that is the only one.
    """

    number: str
    title: str = ""
    author: str = ""
    alone: bool = False

    @property
    def year(self) -> int:
        """When it was first submitted: its number says so."""
        return 2000 + int(self.number[:2])


@cache
def _known() -> Mapping[str, Paper]:
    """Every paper of ``papers.toml``, by its number."""
    text = outside.package_text(Path(__file__).with_name("papers.toml"))
    return {number: Paper(number, **item) for number, item in tomllib.loads(text).items()}


def papers_in(text: str) -> Iterator[tuple[str, Paper | None]]:
    """The parts of a source, which semicolons separate, each with every paper it names.

    A part without a paper of arXiv comes with None.
    """
    for part in re.split(r";\s+(?![^()]*\))", text):
        numbers = [m.group() for m in _NUMBER.finditer(part)]
        for number in numbers:
            yield part.strip(), _known().get(number, Paper(number))
        if not numbers:
            yield part.strip(), None
