"""Names of symbols from outside: which texts are one."""

from __future__ import annotations

import keyword
import re

from costgraph.errors import InputError, clip

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}\Z")


def symbol_name(text: str) -> str:
    """The text, if it names a symbol.

    Raises:
        InputError: it is not a plain identifier of at most 40 characters.
    """
    if not _NAME.match(text) or keyword.iskeyword(text):
        raise InputError(
            f"{clip(text)} is not a symbol name: "
            "use letters, digits and '_', starting with a letter"
        )
    return text
