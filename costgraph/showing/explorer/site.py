"""The explorer as one folder of files, for any web host or from a disk.

For each model and pipeline one file holds the numbers on all machines, as a report of them
would. What is long to print lies in files named by their contents, so that machines whose
formulas are equal share them; the page loads it when it is to be seen.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from costgraph.compiling.compilation import compile
from costgraph.compiling.compiled import Compiled
from costgraph.errors import CostgraphError, InputError
from costgraph.files.outside import reason_of
from costgraph.hardware import load_system
from costgraph.models.catalog import find
from costgraph.showing.explorer import catalog, page
from costgraph.showing.explorer.catalog import Start
from costgraph.showing.explorer.parts import Asked, received, source, written
from costgraph.showing.report.code import Scripts
from costgraph.showing.report.contents import Contents, formulas, pictures
from costgraph.showing.report.load import load_of
from costgraph.showing.report.page import bundle, headed
from costgraph.showing.report.plans import plans_of
from costgraph.showing.report.starting import start

#: What a site holds unless something else is said.
PIPELINES = ("", "fuse", "fuse,quantize{weights=int4}")


@dataclass(frozen=True)
class Site:
    """What a site was made of.

    Attributes:
        folder: where it lies.
        models, machines, pipelines: what can be chosen.
        files, size: how many files, and their bytes.
        refused: model, machine, pipeline and why, where one does not go with another.
    """

    folder: Path
    models: tuple[str, ...]
    machines: tuple[str, ...]
    pipelines: tuple[str, ...]
    files: int
    size: int
    refused: tuple[tuple[str, str, str, str], ...] = ()


@dataclass(frozen=True)
class _Writer:
    """Writes files below a folder; equal shared ones once."""

    folder: Path

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def share(self, value: Any) -> str:
        """The name of a file that holds a value, by its contents."""
        text = json.dumps(value, ensure_ascii=True, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:24]
        path = self.folder / "shared" / f"{digest}.js"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Another process may be writing the same: each has a name of its own until it is whole.
            mine = path.with_suffix(f".{os.getpid()}")
            mine.write_text(received(digest, value), encoding="utf-8")
            mine.replace(path)
        return digest


def site(
    folder: str | os.PathLike[str],
    models: Sequence[str],
    machines: Sequence[str],
    pipelines: Sequence[str] = PIPELINES,
    *,
    jobs: int = 1,
    plans: bool = False,
    told: Callable[[int, int], None] = lambda done, all: None,
) -> Site:
    """Writes the explorer as files.

    Args:
        folder: a new or empty one; it appears when all is written.
        models: names of shipped models.
        machines: shipped devices and systems, also counted (``8xh100``).
        pipelines: those to choose from.
        jobs: processes that derive at the same time.
        plans: also every way to share each model among the devices of each system.
        told: how many of how many pairs of model and pipeline are done.

    Raises:
        InputError: the folder holds something, or cannot be written; a name is unknown.
    """
    known = tuple(dict.fromkeys(find(name) for name in models))
    names = tuple(dict.fromkeys(machines))
    texts = tuple(dict.fromkeys(pipelines))
    titles = [(name, load_system(name).title) for name in names]
    if not (known and names and texts):
        raise InputError("a site needs at least one model, one machine and one pipeline")
    with _whole(Path(folder)) as place:
        pairs = [(m, i, p) for m in known for i, p in enumerate(texts)]
        refused: list[tuple[str, str, str, str]] = []
        work = partial(_pair, place, names, plans)
        for done, found in enumerate(_each(work, pairs, jobs), 1):
            refused += found
            told(done, len(pairs))
        _frame(_Writer(place), known, titles, texts, plans)
        files = [f for f in place.rglob("*") if f.is_file()]
        size = sum(f.stat().st_size for f in files)
    return Site(Path(folder), known, names, texts, len(files), size, tuple(refused))


def _frame(
    writer: _Writer,
    models: Sequence[str],
    machines: Sequence[tuple[str, str]],
    texts: Sequence[str],
    plans: bool,
) -> None:
    """The page itself, and what can be chosen."""
    chosen = Start(models[0], (machines[0][0],), tuple(texts[:2]))
    if Start().model in models:
        chosen = Start(Start().model, chosen.on, chosen.passes)
    value = {
        "models": catalog.models(models),
        "machines": [{"value": n, "title": title, "more": ""} for n, title in machines],
        "pipelines": list(texts),
        "plans": plans,
        "start": catalog.start_value(chosen),
    }
    writer.write("catalog.js", received("catalog", value))
    writer.write("explorer.js", page.script())
    writer.write("explorer.css", page.style())
    writer.write("index.html", page.index(False))


def _each(
    work: Callable[[tuple[str, int, str]], Any], pairs: Iterable[tuple[str, int, str]], jobs: int
) -> Iterator[Any]:
    if jobs == 1:
        yield from map(work, pairs)
        return
    pool: Executor = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
    try:
        yield from pool.map(work, pairs)
    finally:
        pool.shutdown(cancel_futures=True)


def _pair(
    folder: Path, machines: Sequence[str], plans: bool, pair: tuple[str, int, str]
) -> list[tuple[str, str, str, str]]:
    """Writes one pipeline of one model on all machines; returns what did not work, and why."""
    model, number, passes = pair
    writer, rows = _Writer(folder), list[list[Compiled]]()
    places: dict[str, int | str] = {}
    for name in machines:
        try:
            made = compile(source(model, {}), name, passes, symbolic_hardware=True)
            places[name] = len(rows)
            rows.append([made])
        except CostgraphError as error:
            places[name] = str(error)
    asked = Asked("numbers", model, "", passes)
    refused = [(model, n, passes, why) for n, why in places.items() if isinstance(why, str)]
    if not rows:
        writer.write(f"parts/{model}-{number}.js", received(asked.key, {"machines": places}))
        return refused
    contents, data, _ = bundle(rows, start([c for (c,) in rows], {}), Contents(later=True))
    printing = Contents()
    more = [_later(writer, made, printing) for (made,) in rows]
    value = {
        "bundle": data,
        "heads": [headed(made.setting) for (made,) in rows],  # nothing of a machine not chosen
        "texts": contents.texts,
        "machines": places,
        "later": more,
    }
    writer.write(f"parts/{model}-{number}.js", received(asked.key, value, contents.scripts.texts))
    scripts = Scripts()
    loads = [load_of(made, scripts) for (made,) in rows]
    key = replace(asked, kind="load").key
    writer.write(f"parts/{model}-{number}-load.js", received(key, loads, scripts.texts))
    if plans:
        shared = Contents(later=True)
        on = [name for name, place in places.items() if not isinstance(place, str)]
        ways = [plans_of(source(model, {}), name, passes, shared) for name in on]
        key = replace(asked, kind="plans").key
        writer.write(f"parts/{model}-{number}-plans.js", received(key, ways, shared.scripts.texts))
    return refused


def _later(writer: _Writer, made: Compiled, printing: Contents) -> dict[str, Any]:
    """Names of the files with formulas, what is to be copied, and pictures."""
    found = formulas(made, printing)
    latex = written(made)
    return {
        "formulas": {
            metric: writer.share({d: printing.texts[i] for d, i in details.items()})
            for metric, details in found.items()
        },
        "written": {
            metric: writer.share({kind: latex[kind].get(metric, "") for kind in latex})
            for metric in found
        },
        "pictures": [writer.share(picture) for picture in pictures(made)],
    }


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder`` that takes its place once all is written.

    Raises:
        InputError: ``folder`` holds something, or cannot be made.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder}: is there already and not an empty folder")
        place = folder.with_name(f".{folder.name}.{os.getpid()}")
        place.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {reason_of(error)}") from None
    try:
        yield place
        if folder.exists():
            folder.rmdir()
        place.rename(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {reason_of(error)}") from None
    finally:
        with suppress(OSError):
            shutil.rmtree(place)
