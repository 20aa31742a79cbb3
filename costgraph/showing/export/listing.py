"""Passes as tables or JSON; models and machines have modules of their own."""

from __future__ import annotations

from typing import Any

from costgraph.errors import PipelineError, clip, nearest
from costgraph.number import MOST
from costgraph.rewriting.pipeline import Option, typed
from costgraph.showing.export.fitting import wrapped
from costgraph.showing.export.records import print_data
from costgraph.showing.export.terminal import print_table, width

#: Characters of a line of prose where the output is no terminal.
PAGE = 100


def list_passes(how: str) -> None:
    """Every pass with one line on what it does."""
    from costgraph.passes import PASSES

    if print_data([_pass_object(cls) for cls in PASSES.values()], how):
        return
    print_table(("pass", "what it does"), [(c.name, c.title) for c in PASSES.values()])


def show_pass(name: str, how: str) -> None:
    """One pass: options with defaults, formula, source, assumptions, published quality.

    Raises:
        PipelineError: there is no such pass.
    """
    from costgraph.passes import PASSES

    if name not in PASSES:
        raise PipelineError(f"unknown pass {clip(name)}{nearest(name, PASSES)}")
    cls = PASSES[name]
    if print_data(_pass_object(cls), how, "options"):
        return
    print(f"{cls.name}: {cls.title}\n")
    rows = [
        (o["name"], o["default"], _values(cls.options()[o["name"]]), o["help"])
        for o in _pass_object(cls)["options"]
    ]
    print_table(("option", "default", "values", "meaning"), rows, lines=PAGE)
    for label, text in (("formula", cls.formula), ("source", cls.source)):
        if text:
            print("\n" + wrapped(f"{label}: {text}", width() or PAGE))
    for sentence in cls.assumptions:
        print(wrapped(f"assumes: {sentence}", width() or PAGE))
    _print_quality(name)


def _print_quality(name: str) -> None:
    """What papers say of the quality; sources are numbered under the table."""
    from costgraph.passes.quality import of

    rows = of(name)
    if not rows:
        return
    sources = {cited: f"[{i}]" for i, cited in enumerate(dict.fromkeys(q.cited for q in rows), 1)}
    print("\npublished quality (cited; nothing here models it):\n")
    print_table(
        ("pipeline", "model", "method", "measured", "value"),
        [
            (
                q.passes,
                q.model,
                f"{q.method} {sources[q.cited]}",
                q.metric,
                f"{q.before} → {q.after}",
            )
            for q in rows
        ],
    )
    for cited, number in sources.items():
        print(f"{number} {cited}")


def _values(option: Option) -> str:
    """What an option takes, in words."""
    words = [word for word in option.choices if word]
    if not words or option.is_number:
        ends = f", at most {option.maximum}" if option.maximum < MOST else ""
        words.append(option.kind + ends)
    return ", ".join(words)


def _pass_object(cls: Any) -> dict[str, Any]:
    import dataclasses

    from costgraph.passes.quality import of

    defaults = {f.name.replace("_", "-"): f.default for f in dataclasses.fields(cls)}
    return {
        "name": cls.name,
        "title": cls.title,
        "options": [
            {
                "name": name,
                "default": typed(defaults[name]),
                "kind": o.kind,
                "choices": list(o.choices),
                **({"maximum": o.maximum, "symbolic": o.symbolic} if o.is_number else {}),
                "help": o.help,
            }
            for name, o in cls.options().items()
        ],
        "formula": cls.formula,
        "source": cls.source,
        "assumptions": list(cls.assumptions),
        "quality": [dataclasses.asdict(q) for q in of(cls.name)],
    }
