"""Results as rows: CSV for programs, LaTeX tables for papers; what they rest on goes with them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from costgraph.quoting import csv_text
from costgraph.setting import FOOT, SAID
from costgraph.showing.export.escaping import Tex, anchor_latex, caption_latex, text_latex
from costgraph.showing.export.plain_json import plain_value, print_json
from costgraph.showing.export.table import is_numeric
from costgraph.undone import Undone
from costgraph.undone import lines as undone_lines

#: Sentences of a setting: said once, in the last column of the first row.
_SENTENCES = (*SAID, *FOOT)


def print_data(value: Any, how: str, rows: str = "") -> bool:
    """Prints plain values in a format that programs read; whether it is one.

    Args:
        value: as :mod:`.plain_json` takes it.
        how: ``json`` or ``csv``; anything else is for the caller to print.
        rows: under which key of ``value`` the rows of a CSV file are; itself without one.
    """
    if how == "json":
        print_json(value)
    elif how == "csv":
        print(records_csv(value, rows), end="")
    return how in ("json", "csv")


def records_csv(value: Any, rows: str = "") -> str:
    """Comma-separated values with a heading, a row a record.

    What is said of all records stands before each: names and numbers at the top of
    ``value``. Sentences stand in a last column ``remarks`` of the first row, as in files of
    sweeps. No text is taken for a formula by a spreadsheet.

    Args:
        value: plain values: records, or a mapping that holds them.
        rows: the key under which it does; without it the value is one record.
    """
    value = plain_value(value)
    top: dict[str, Any] = {}
    found: Any = value
    if rows:
        listed = {k for k, v in value.items() if isinstance(v, list) and k != "over"}
        top = dict(_flat({k: v for k, v in value.items() if k not in {rows, *_SENTENCES, *listed}}))
        found = value[rows]
    if isinstance(found, Mapping):
        one = not rows or not all(isinstance(v, Mapping) for v in found.values())
        found = [found] if one else [{"name": k, **v} for k, v in found.items()]
    # Without any row, what is said of all still stands in one.
    records = [{**top, **dict(_flat(_record(r)))} for r in found] or [top]
    said = " | ".join(_sentences(value)) if rows else ""
    names = list(dict.fromkeys(name for r in records for name in r))
    if said:
        names.append("remarks")
        records[0] = {**records[0], "remarks": said}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([csv_text(name) for name in names])
    for record in records:
        writer.writerow([_cell(record.get(name)) for name in names])
    return text.getvalue()


def _record(value: Any) -> Mapping[str, Any]:
    """A record; of an interval its ends."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list) and len(value) == 2:
        return dict(zip(("from", "to"), value, strict=True))
    return {"value": value}


def _flat(record: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Inner mappings as columns of their own: ``totals.seconds``."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def _sentences(value: Mapping[str, Any]) -> Iterator[str]:
    for name in _SENTENCES:
        said = value.get(name, ())
        plain = [s for s in said if isinstance(s, str)]
        found = (
            Undone(s["pass"], s["did_something"], s["rule"], s["at"], s["reason"], not s["rule"])
            for s in said
            if not isinstance(s, str)
        )
        yield from (*plain, *undone_lines(found))


def _cell(value: Any) -> Any:
    """A number as it is, whole lists in one text; nothing for what there is not."""
    if isinstance(value, (list, tuple)):
        plain = not any(isinstance(v, (list, tuple, Mapping)) for v in value)
        value = "; ".join(map(str, value)) if plain else json.dumps(value, ensure_ascii=False)
    if value is None:
        return ""
    if isinstance(value, str):
        return csv_text(value)
    return repr(value) if isinstance(value, float) else value


def latex_table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: Sequence[str],
    foot: Sequence[str] = (),
    *,
    wrapped: int | None = None,
    caption: str | None = None,
    label: str | None = None,
) -> str:
    """A table for a paper (packages array, booktabs, graphicx): no wider than the line.

    Args:
        head, rows: texts, or LaTeX (:class:`.escaping.Tex`).
        title: lines of the caption: what it is about, and what must be said.
        foot: lines below it: what it rests on.
        wrapped: a column whose texts are broken into lines.
        caption: LaTeX in place of the title, which is then said below.
        label: what ``\\ref`` finds.

    Raises:
        InputError: a label or a caption that LaTeX would not read as one.
    """
    right = [is_numeric([r[i] for r in rows]) for i in range(len(head))]
    columns = ["r" if r else "l" for r in right]
    if wrapped is not None:
        columns[wrapped] = r">{\raggedright\arraybackslash}p{0.66\linewidth}"
    said = [t for t in title if t]
    if caption is None:
        above = rf"\caption{{{r'. '.join(map(text_latex, said))}}}"
    else:
        above, foot = caption_latex(caption), (*said, *foot)
    body = [" & ".join(map(text_latex, cells)) + r" \\" for cells in rows]
    told = [text_latex(line if isinstance(line, Tex) else line.strip()) for line in foot if line]
    return "\n".join([
        r"\begin{table}",
        above,
        *([] if label is None else [anchor_latex(label)]),
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{''.join(columns)}}}",
        r"\toprule",
        " & ".join(map(text_latex, head)) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}}",
        *([r"\par\smallskip{\footnotesize\raggedright", *(f"{t}\\par" for t in told), "}"]
          if told else []),
        r"\end{table}",
    ])  # fmt: skip
