"""The reference of the site: pages made from the program itself while the site is built.

Nothing of them is kept, so that nothing is ever out of date. ``pages`` makes them; as a hook of
MkDocs (``mkdocs.yml``) this file adds them to the site. Python's part is rendered from
docstrings by mkdocstrings.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape as html_text
from html import unescape
from typing import Any

import costgraph
from costgraph.cli import main as command_line
from costgraph.cli.entry import _build_parser
from costgraph.showing.export.models import context_text, growth_text
from costgraph.units import format_quantity


def asked(*words: str) -> Any:
    """What ``costgraph WORDS --json`` says."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        assert command_line([*words, "--json"]) == 0
    return json.loads(out.getvalue())


def cell(value: object) -> str:
    """A value as it stands in a table of Markdown."""
    text = re.sub(r"\s+", " ", str(value)).strip()
    return re.sub(r"([|*_])", r"\\\1", text.replace("<", "&lt;")) or "–"


def code(value: object) -> str:
    """The same as code, which needs no escapes."""
    return f"`{value}`" if str(value) else "–"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"| {' | '.join('---' for _ in head)} |",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
    ]


def commands() -> Mapping[str, argparse.ArgumentParser]:
    """Every command of the command line by its name, without second names."""
    (action,) = (a for a in _build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    names = (choice.dest.split()[0] for choice in action._choices_actions)
    return {name: action.choices[name] for name in names}


def _option(action: argparse.Action) -> tuple[str, str]:
    names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    if action.option_strings and action.nargs != 0:
        shown = action.metavar or "|".join(map(str, action.choices or ())) or action.dest.upper()
        names += f" {shown if isinstance(shown, str) else ' '.join(shown)}"
    return code(names), cell((action.help or "") % {"default": action.default, "prog": "costgraph"})


def command_page() -> str:
    """Commands with their options, from the parser."""
    lines = ["# Commands", "", "`costgraph COMMAND --help` says the same in a terminal.", ""]
    for name, parser in commands().items():
        lines += [f"## {name}", "", cell(parser.description or ""), ""]
        actions = [a for a in parser._actions if a.help is not argparse.SUPPRESS]
        lines += table(("option", "meaning"), map(_option, actions))
        if parser.epilog:
            lines += ["```text", parser.epilog.strip("\n"), "```", ""]
    return "\n".join(lines)


def pass_page() -> str:
    """Passes with their options, formulas, sources and assumptions."""
    lines = [
        "# Passes",
        "",
        "What each means, in which order they run: [passes](../passes.md).",
        "",
    ]
    for told in asked("passes"):
        lines += [f"## {told['name']}", "", cell(told["title"]) + ".", ""]
        lines += options_table(told["options"])
        for key in ("formula", "source"):
            if told.get(key):
                lines += [f"{key.capitalize()}: {cell(told[key])}", ""]
        if told.get("assumptions"):
            lines += ["Assumes: " + "; ".join(map(cell, told["assumptions"])), ""]
    return "\n".join(lines)


def options_table(options: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a pass takes; a line where it takes nothing."""
    if not options:
        return ["It has no options.", ""]
    rows = (
        (code(o["name"]), code(o["default"]), cell(_values(o)), cell(o["help"])) for o in options
    )
    return table(("option", "default", "values", "meaning"), rows)


def _values(option: Mapping[str, Any]) -> str:
    """What an option takes: words, and what else."""
    words = [str(word) for word in option["choices"] if word != ""]
    kind = [] if option["kind"] == "word" and words else [option["kind"]]
    most = [f"at most {option['maximum']}"] if 0 < option.get("maximum", 0) < 10**6 else []
    return ", ".join([*words, *kind, *most])


def device_page() -> str:
    """Devices and systems with their figures, and where each figure is from."""
    lines = [
        "# Devices and systems",
        "",
        "How their files are read: [machines](../hardware.md). A name of the tables leads to all "
        "figures of the device, each with its source.",
        "",
    ]
    kinds: dict[str, list[Any]] = {}
    for told in asked("hardware"):
        kinds.setdefault(_maker(told), []).append(told)
    for maker in sorted(kinds, key=lambda m: (m in (OTHERS, SYSTEMS), m == SYSTEMS, m)):
        lines += [f"## {maker}", ""]
        lines += table(
            ("name", "devices", "memory", "bandwidth", "peak, 16 bit", "board", "machine"),
            map(_brief, kinds[maker]),
        )
        for told in kinds[maker]:
            title = html_text(f"{told['name']}: {told['title']}")
            lines += [f'<details markdown="1" id="{told["name"]}"><summary>{title}</summary>', ""]
            lines += table(
                ("figure", "value", "source"),
                (
                    (code(figure), cell(_value(f["value"], f["unit"])), cell(f["source"] or ""))
                    for figure, f in told["figures"].items()
                ),
            )
            lines += ["</details>", ""]
    return "\n".join(lines)


SYSTEMS, OTHERS = "Systems", "Others"
MAKERS = ("NVIDIA", "AMD", "Intel", "Apple", "Google", "AWS")


def _maker(told: Mapping[str, Any]) -> str:
    """Where a machine stands: who made it, as its title begins; systems among themselves."""
    if told["kind"] == "system":
        return SYSTEMS
    first = str(told["title"]).split()[0]
    return first if first in MAKERS else OTHERS


def _brief(told: Mapping[str, Any]) -> tuple[str, ...]:
    """A machine in a line; of a system what all of its devices have."""
    whole = told.get("totals", told)
    peaks = whole["peaks"]
    peak = next((peaks[n] for n in ("tensor.bf16", "tensor.fp16", "vector.fp16") if n in peaks), "")
    board = whole.get("power")
    return (
        f"[`{told['name']}`](#{told['name']})",
        str(told.get("devices", 1)),
        cell(_value(whole["capacity"], "B") if whole["capacity"] else ""),
        cell(_value(whole["bandwidth"], "B/s") if whole["bandwidth"] else ""),
        cell(_value(peak, "FLOP/s") if peak else ""),
        cell(_value(board, "W") if board else ""),
        cell(told["title"]),
    )


def _value(value: object, unit: str) -> str:
    if isinstance(value, int | float) and unit:
        return format_quantity(float(value), unit)
    return f"{value} {unit}".strip()


def model_page() -> str:
    """Shipped models with what is known of each."""
    models = asked("models")
    lines = ["# Models", "", "How families are read and added: [families](../families.md).", ""]
    lines += table(
        ("name", "model", "family", "parameters", "cache, byte a token", "context"),
        (
            (
                code(m["name"]), cell(m["title"]), code(m["family"]), f"{m['parameters']:,}",
                cell(growth_text(m)), context_text(m),
            )
            for m in models
        ),
    )  # fmt: skip
    origins: dict[str, list[str]] = {}
    for m in models:
        origins.setdefault(m["source"], []).append(code(m["name"]))
    lines += ["## Where each is from", ""]
    lines += table(
        ("source", "models"), ((cell(s), ", ".join(found)) for s, found in origins.items())
    )
    return "\n".join(lines)


def python_page() -> str:
    """What ``costgraph`` exports, each to be rendered from its docstring."""
    lines = ["# Python", "", "All of it is `import costgraph as cg`, and `cg.NAME`.", ""]
    for name in sorted(set(costgraph.__all__) - {"__version__"}, key=str.lower):
        what = getattr(costgraph, name)
        # Rooms beside the package lie in folders of their own, where docstrings are read.
        folder = re.sub(r"^costgraph\.(passes|models|hardware)\b", r"\1", what.__module__)
        home = f"{folder}.{what.__qualname__}"
        lines += [f"::: {home}", "    options:", f'      heading: "{name}"', ""]
    return "\n".join(lines)


def index_page() -> str:
    """What the reference holds, with the names on its pages."""
    exported = sorted(set(costgraph.__all__) - {"__version__"}, key=str.lower)
    rows = (
        ("Commands", "commands.md", "what the command line takes", commands()),
        ("Python", "python.md", "what `import costgraph as cg` brings", exported),
        ("Passes", "passes.md", "what changes a model", [p["name"] for p in asked("passes")]),
        ("Devices and systems", "devices.md", "figures, each with its source",
         [d["name"] for d in asked("hardware")]),
        ("Models", "models.md", "what is shipped", [m["name"] for m in asked("models")]),
    )  # fmt: skip
    lines = ["# Reference", "", "Made from the program itself when this site is built.", ""]
    for title, path, about, names in rows:
        lines += [f"## [{title}]({path})", "", f"{len(names)}: {about}.", ""]
        lines += [", ".join(map(code, names)), ""]
    return "\n".join(lines)


def pages() -> dict[str, str]:
    """Every page of the reference by its path within the site."""
    return {
        "reference/index.md": index_page(),
        "reference/commands.md": command_page(),
        "reference/python.md": python_page(),
        "reference/passes.md": pass_page(),
        "reference/devices.md": device_page(),
        "reference/models.md": model_page(),
    }


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages to a site of MkDocs."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


#: As Pygments marks the prompt of a console.
PROMPT = '<span class="gp">$ </span>'


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Code as it is typed, in tables and with options whole; docstrings without Sphinx's roles.

    The prompt of a shell is drawn by the style sheet alone: a copied command has no ``$`` in it.
    """
    html = html.replace(PROMPT, '<span class="gp"></span>')
    html = re.sub(r"<td[^>]*>.*?</td>", _typed, html, flags=re.DOTALL)
    html = re.sub(r"<code[^>]*>.*?</code>", _unbroken, html, flags=re.DOTALL)
    made = page is not None and page.url.startswith("reference/")
    return re.sub(r":[a-z]+:(?=<code)", "", html) if made else html


def _unbroken(found: re.Match[str]) -> str:
    """Code whose options no line breaks behind their strokes (site.css)."""
    option = re.compile(r"(?<![\w-])--[a-z][\w-]*")
    whole = r'<span class="whole">\g<0></span>'
    return re.sub(r"(?<=>)[^<]+", lambda text: option.sub(whole, text[0]), found[0])


#: Code of more characters may be broken behind commas and other signs.
LONG = 24
#: Cells of more characters have a class, so that a narrow screen leaves them room (site.css).
WORDS, SENTENCES = 24, 60


def _room(text: str) -> str:
    """The class of a cell of a table by what stands in it, or nothing."""
    if re.fullmatch(r"[−+~]?[\d.,]+ (%|[A-Za-zµ/]{1,8})", text):
        return "quantity"
    return "sentences" if len(text) > SENTENCES else "words" if len(text) > WORDS else ""


def _typed(found: re.Match[str]) -> str:
    """A cell of a table: ``\\|`` in code, which other renderers need, is a stroke."""

    def shown(code: re.Match[str]) -> str:
        text = code[1].replace("\\|", "|")
        if len(text) <= LONG:
            return f"<code>{text}</code>"
        text = re.sub(r"([,|=+])", r"\1<wbr>", text)
        return f'<code class="long">{text}</code>'

    typed = re.sub(r"<code>(.*?)</code>", shown, found[0], flags=re.DOTALL)
    room = _room(unescape(re.sub(r"<[^>]*>", "", typed)).strip())
    return typed.replace("<td", f'<td class="{room}"', 1) if room else typed
