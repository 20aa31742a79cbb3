"""The page of an explorer: the report's page, with a chooser, its script and style as files."""

from __future__ import annotations

from costgraph.showing.report.load import queue_script
from costgraph.showing.report.page import SCRIPTS, asset, page_of, scripts

HERE = "costgraph.showing.explorer"
OWN = ("loading.js", "address.js", "picker.js", "palette.js", "copying.js", "explorer.js")
#: What the page may do: its own files alone; ``blob:`` for pictures that it makes to save.
POLICY = (
    "default-src 'none'; script-src {own}; style-src {own}; img-src blob:; "
    "connect-src {connect}; base-uri 'none'; form-action 'none'"
)


def index(served: bool) -> str:
    """The HTML.

    Args:
        served: by the server of ``costgraph explore``; else by any host, or from a disk,
            where browsers differ in whether ``'self'`` holds files beside the page.
    """
    return page_of(
        title="costgraph",
        kind="explorer",
        policy=POLICY.format(
            own="'self'" if served else "'self' file:", connect="'self'" if served else "'none'"
        ),
        style='<link rel="stylesheet" href="explorer.css">',
        chooser=asset("chooser.html", HERE),
        network="Made by costgraph. The numbers are computed in this page; nothing leaves it."
        if not served
        else "Made by costgraph. Formulas come from this computer alone; the numbers are "
        "computed in this page.",
        tail=f'<script src="explorer.js" data-served="{str(served).lower()}"></script>',
    )


def script() -> str:
    """The script of the page."""
    code = f"{queue_script()}\n{scripts(SCRIPTS)}\n{scripts(OWN, HERE)}"
    return f'(() => {{\n"use strict";\n{code}\n}})();\n'


def style() -> str:
    """The style sheet of the page."""
    return asset("report.css") + asset("explorer.css", HERE)
