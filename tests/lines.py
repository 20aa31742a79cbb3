"""What tests of the command line share."""

from __future__ import annotations

from typing import Any

import pytest

from costgraph.cli import main


def refused(capsys: Any, *line: str) -> str:
    """What is said, in one line, of a command that ends with code 2."""
    with pytest.raises(SystemExit) as stop:
        main(list(line))
    assert stop.value.code == 2
    text: str = capsys.readouterr().err
    assert text.count("\n") == 1
    return text
