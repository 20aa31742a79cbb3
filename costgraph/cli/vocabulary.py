"""The words that commands share: how each asks for a model, devices, pipelines and values.

A command adds the options it takes with the functions here and reads them with the
functions here, so that one thing is called by one name everywhere:

* ``model``, ``--on``, ``--passes``: what is compiled. ``--on`` may be repeated and hold
  commas, ``--passes`` be repeated; a command that takes one refuses a second in a line;
* ``--accounting``, ``--fidelity``: how it is counted and timed;
* ``--weights``, ``--activations``, ``--kv``, ``--quantization``, ``--dims``, ``--reserve``:
  how model and device are read;
* ``--batch/-B``, ``--prompt/-S``, ``--generate/-N``, ``--context/-T``, ``--images/-G``: sizes;
* ``--set NAME=VALUE``: any symbol, those of sizes, of the model (``K``) and of passes;
* ``--at X=V,…``: several symbols in one text;
* ``--metric``: a metric, or several where a command takes them;
* ``--format``, and ``--json`` for short: what is printed (:mod:`costgraph.cli.showing`);
* ``--label``, ``--caption``, ``--bib``: how it stands in a paper, and its sources.

Sizes are one number each. A command that runs over several takes lists and ranges, for
``--set`` too.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from costgraph.cli.parser import OnlyOne
from costgraph.cli.values import several, whole
from costgraph.errors import InputError, clip

if TYPE_CHECKING:
    from costgraph.cli.showing import Source, Sources
    from costgraph.compiling.compiled import Compiled

MODEL = "shipped or hub name, config.json, or its directory"
#: Symbols of sizes: their option, and what they are.
SIZES = {
    "B": ("batch", "sequences"),
    "S": ("prompt", "prompt tokens"),
    "N": ("generate", "generated tokens"),
    "T": ("context", "attended tokens of a decode step, the new one included"),
    "G": ("images", "image tokens per sequence (multimodal, diffusion)"),
}

#: Options that say how model and device are read, as :func:`costgraph.compile` calls them.
READING = (
    ("weights", "FORMAT", "of weights, instead of the configured one: bf16, fp32, fp8, int4 …"),
    ("activations", "FORMAT", "of activations"),
    ("kv", "FORMAT", "of caches"),
    ("quantization", "read|ignore", "a checkpoint counts as it is stored, or in 16 bit"),
    (
        "image",
        "WxH",
        "pixels of images, width x height: 1280x720; of a model that also reads text all that a "
        "request shows, which gives its image tokens G: 4x1280x720,640x480",
    ),
    ("video", "WxH@…", "a video that a request shows: 640x360@60 (frames), 640x360@30s@2fps"),
    ("read_as", "FAMILY", "how to read a model_type that no family knows: llama …"),
    ("reserve", "SIZE", "memory that driver and framework keep: '2 GB' or 10%% (nothing)"),
)
#: How several values of a size are written.
VALUES, SPAN = "VALUES", "X[:Y]"
#: Commas between items; one in parentheses belongs to a size.
_SEPARATOR = re.compile(r",(?![^()]*\))")

# --- what a command takes ----------------------------------------------------------------

ONE_DEVICE = "one device or system; compare, sweep and search take several"
ONE_PIPELINE = (
    "one pipeline, its passes joined by commas: 'fuse,quantize{weights=int4}'; compare, sweep "
    "and search take several"
)


def add_target(command: argparse.ArgumentParser) -> None:
    """A model on one device through one pipeline."""
    add_model(command)
    add_device(command)
    add_pipeline(command)
    add_conventions(command)


def add_targets(command: argparse.ArgumentParser, passes_required: bool = False) -> None:
    """A model on one or several devices through one or several pipelines."""
    add_model(command)
    add_places(command, True, passes_required)


def add_places(
    command: argparse.ArgumentParser, required: bool = False, passes_required: bool = False
) -> None:
    """Devices, pipelines and conventions."""
    add_machines(command, required)
    add_pipelines(command, passes_required)
    add_conventions(command)


def add_machines(
    command: argparse.ArgumentParser,
    required: bool = False,
    what: str = "devices, systems (8xh100, dgx-h100) or TOML files, separated by commas",
) -> None:
    """Several machines."""
    command.add_argument(
        "--on",
        required=required,
        default=[] if not required else None,
        action="append",
        metavar="HW[,HW]",
        help=f"{what}; repeatable",
    )


def add_pipelines(
    command: argparse.ArgumentParser, required: bool = False, usual: str = ""
) -> None:
    """Several pipelines."""
    told = f"; {usual}" if usual else ""
    command.add_argument(
        "--passes",
        action="append",
        required=required,
        metavar="P",
        help=f"a pipeline; repeatable ('': the unmodified model{told})",
    )


def add_model(command: argparse.ArgumentParser, **more: Any) -> None:
    """The model."""
    command.add_argument("model", help=MODEL, **more)


def add_device(
    command: argparse._ActionsContainer,
    required: bool = True,
    what: str = "a device (h100), a system (8xh100, dgx-h100, rtx-4090+i9-13900k) or a TOML file",
    name: str = "--on",
) -> None:
    """One device."""
    command.add_argument(
        name, required=required, action=OnlyOne, what=ONE_DEVICE, splits=",", metavar="HW",
        help=what,
    )  # fmt: skip


def add_pipeline(
    command: argparse._ActionsContainer,
    usual: str | None = "",
    what: str = "pipeline, e.g. 'fuse,quantize{weights=int4}'",
    name: str = "--passes",
) -> None:
    """One pipeline."""
    command.add_argument(
        name, default=usual, action=OnlyOne, what=ONE_PIPELINE, metavar="P", help=what
    )


def add_conventions(command: argparse.ArgumentParser) -> None:
    """How it is counted and timed, and how model and device are read."""
    command.add_argument(
        "--accounting", default="exact", help="counting convention: exact (default) or survey"
    )
    command.add_argument(
        "--fidelity",
        default="ideal",
        help="ideal: the roofline, a lower bound (default); calibrated: fitted on measured "
        "timings; low, median, high: its error bands",
    )
    for name, metavar, text in READING:
        command.add_argument("--" + name.replace("_", "-"), metavar=metavar, help=text)
    add_dims(command)


def add_dims(command: argparse.ArgumentParser) -> None:
    """Dimensions of models that are exported graphs, and further graphs of a model."""
    command.add_argument(
        "--decoder",
        metavar="FILE[,FILE]",
        help="the model is the encoder in an .onnx file: the decoder's file, or that of its first "
        "step and that of later ones",
    )
    command.add_argument(
        "--dims",
        action="append",
        default=[],
        metavar="NAME=X[,NAME=X]",
        help="dimensions of an .onnx or .pt2 file: a symbol, a number or a size such as T+1",
    )


def add_values(
    command: argparse.ArgumentParser,
    usual: str = "",
    takes: Mapping[str, str] | None = None,
    sizes: str = "BSNTG",
    at: bool = True,
    required: bool = False,
) -> None:
    """Values of symbols: an option for each size, ``--set`` for any symbol, ``--at`` for several.

    Args:
        command: what takes them.
        usual: what sizes are where nothing is said, as text for the help: ``B=1,S=1024``.
        takes: sizes that are more than one number, and how they are written: ``VALUES``.
            Their texts are the command's to read (:func:`text_of`).
        sizes: letters of :data:`SIZES`.
        at: also ``--at``, which holds one number a symbol.
        required: whether sizes must be given.
    """
    told = dict(item.split("=") for item in usual.split(",") if item)
    more = takes or {}
    for letter in sizes:
        name, meaning = SIZES[letter]
        text = f"{meaning} ({told[letter]})" if letter in told else meaning
        command.add_argument(
            f"--{name}", f"-{letter}", type=str if letter in more else whole, required=required,
            metavar=more.get(letter, letter), help=text,
        )  # fmt: skip
    several = {VALUES: " or VALUES", SPAN: " or X:Y"}.get(more.get("T", ""), "")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"any symbol{several}: K (denoising steps), G, one of a pass; repeatable",
    )
    if at:
        command.add_argument(
            "--at", default="", metavar="X=V,…", help="values of symbols, e.g. 'B=8,T=2048'"
        )


def add_metric(
    command: argparse.ArgumentParser, metrics: Iterable[str], usual: str, *before: str
) -> None:
    """One metric; ``before`` are names that the option had, and still answers to."""
    names = tuple(metrics)
    command.add_argument(
        "--metric", choices=names, metavar="M", default=usual,
        help=f"{', '.join(names)} ({usual})",
    )  # fmt: skip
    for name in before:
        command.add_argument(
            name, dest="metric", choices=names, default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )


def add_metrics(command: argparse.ArgumentParser, usual: str) -> None:
    """Several metrics."""
    command.add_argument(
        "--metric", dest="metrics", action="append", metavar="M[,M]",
        help=f"separated by commas; repeatable ({usual})",
    )  # fmt: skip
    command.add_argument(
        "--metrics", action="append", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )


def add_format(command: argparse.ArgumentParser, *more: str, text: str = "") -> None:
    """What is printed: text, JSON, or one of ``more``; ``text`` says what those are."""
    names = ("text", "json", *more)
    command.add_argument(
        "--format", choices=names, default="text", metavar="F",
        help=text or f"{', '.join(names)} (text)",
    )  # fmt: skip
    command.add_argument(
        "--json", dest="format", action="short", const="json", help="short for --format json"
    )
    if "latex" in names:
        _add_paper(command)


def _add_paper(command: argparse.ArgumentParser) -> None:
    """How an answer stands in a paper."""
    command.add_argument(
        "--label", metavar="NAME", help="with latex: a number that \\ref{NAME} finds"
    )
    command.add_argument(
        "--caption",
        metavar="TEXT",
        help="with latex: its caption, in LaTeX; what it is about then stands below",
    )
    command.add_argument(
        "--bib",
        metavar="FILE",
        help="also add the sources to a file of BibTeX (.bib): the model's configuration, figures "
        "of the machine, papers of passes; LaTeX cites them",
    )


def check_paper(arguments: argparse.Namespace) -> None:
    """Refuses what has no place in the format that was asked for.

    Raises:
        InputError: it is not LaTeX, LaTeX would not read it, or a suffix is another.
    """
    for name in ("label", "caption"):
        text = getattr(arguments, name, None)
        if text is not None and arguments.format != "latex":
            raise InputError(f"--{name} is for latex, not {arguments.format}: leave it out")
    if getattr(arguments, "label", None) is not None:
        from costgraph.showing.export.escaping import anchor_latex

        anchor_latex(arguments.label)
    if getattr(arguments, "caption", None) is not None:
        from costgraph.showing.export.escaping import caption_latex

        caption_latex(arguments.caption)
    if getattr(arguments, "bib", None) is not None:
        from costgraph.files.writing import suffix_of

        suffix_of(arguments.bib, (".bib",), "--bib")


# --- what was given ----------------------------------------------------------------------


def devices(arguments: argparse.Namespace) -> list[str]:
    """The devices of ``--on``, which may be repeated and hold commas.

    Raises:
        InputError: a name is missing.
    """
    found = [name.strip() for text in arguments.on for name in text.split(",")]
    if not all(found):
        raise InputError("--on: a name is missing before or after a comma")
    return found


def pipelines(arguments: argparse.Namespace) -> list[str]:
    """The pipelines of ``--passes``; without any the unmodified model."""
    return list(arguments.passes or [""])


def metrics(arguments: argparse.Namespace) -> list[str] | None:
    """The metrics of :func:`add_metrics`; None without any."""
    if arguments.metrics is None:
        return None
    return [name.strip() for text in arguments.metrics for name in text.split(",")]


def values(arguments: argparse.Namespace, but: Collection[str] = ()) -> dict[str, Any]:
    """Every value that was given, by symbol: sizes, ``--at`` and ``--set``.

    Args:
        arguments: of the command line.
        but: sizes whose texts the command reads itself.

    Raises:
        InputError: an item does not parse, or a symbol is given twice.
    """
    return {
        name: number(value, where, "" if name in SIZES else name)
        if isinstance(value, str)
        else value
        for name, (where, value) in _given(arguments).items()
        if name not in but
    }


def ranges(arguments: argparse.Namespace) -> dict[str, Sequence[int | float]]:
    """All values that were given, by symbol, where a command runs over several.

    Raises:
        InputError: an item does not parse, or a symbol is given twice.
    """
    from costgraph.asking.sweeping.ranges import parse_values
    from costgraph.ir.workload import WHOLE

    return {
        name: parse_values(
            str(value), where, whole=name in WHOLE, symbol="" if name in SIZES else name
        )
        for name, (where, value) in _given(arguments).items()
    }


def text_of(arguments: argparse.Namespace, letter: str) -> str | None:
    """What was given for a size that may be more than one number.

    Raises:
        InputError: it is given twice.
    """
    found = _given(arguments).get(letter)
    return None if found is None else str(found[1])


def _given(arguments: argparse.Namespace) -> dict[str, tuple[str, Any]]:
    """What was given for each symbol, and by which option: a number, or its text."""
    found: dict[str, tuple[str, Any]] = {}
    for letter, (name, _) in SIZES.items():
        value = getattr(arguments, name, None)
        if value is not None:
            found[letter] = (f"--{name}", value)
    for where, items in (
        ("--at", [p for p in getattr(arguments, "at", "").split(",") if p.strip()]),
        ("--set", getattr(arguments, "set", [])),
    ):
        for item in items:
            symbol, text = assignment(item, where)
            if symbol in found:
                raise InputError(f"{where}: {clip(symbol)} is given twice")
            found[symbol] = (f"{where} {symbol}", text)
    return found


def beside(text: str) -> tuple[str, dict[str, int]]:
    """``MODEL[:S=…,N=…]`` as a model and the lengths that are its own.

    Raises:
        InputError: a length is no whole number, or given twice.
    """
    model, colon, lengths = text.rpartition(":")
    if not colon or "=" not in lengths:
        return text, {}
    found: dict[str, Any] = {}
    for item in lengths.split(","):
        name, value = assignment(item.strip(), "--beside")
        if name in found:
            raise InputError(f"--beside: {clip(name)} is given twice")
        found[name] = number(value, f"--beside: {name}")
    return model, wholes(found)


def hint(names: Sequence[str], arguments: argparse.Namespace) -> str:
    """How the command at hand is given values for symbols."""
    if not names:
        return ""

    def option(name: str) -> str:
        word = SIZES.get(name, ("",))[0]
        return f"--{word} {name}" if word and hasattr(arguments, word) else f"--set {name}=…"

    return f"; give {', '.join(map(option, names))}"


def assignment(item: str, where: str) -> tuple[str, str]:
    """``NAME=VALUE`` as its two parts.

    Raises:
        InputError: it is something else, or the name is none of a symbol.
    """
    from costgraph.names import symbol_name

    name, equals, value = (part.strip() for part in item.partition("="))
    if not equals or not name or not value:
        raise InputError(f"{where}: {clip(item)} is not NAME=NUMBER, such as T=2048")
    return symbol_name(name), value


def number(text: str, where: str, symbol: str = "") -> Any:
    """A positive number, exact: an int where it is whole, else a fraction.

    Args:
        text: what was given.
        where: what is being read, for messages.
        symbol: the name of one of a pass that it is the value of, if it is.

    Raises:
        InputError: it is none.
    """
    from costgraph.number import positive

    if said := several(text):
        raise InputError(f"{where}: {said}")
    found = positive(text, where, symbol=symbol)
    return int(found) if found.denominator == 1 else found


def wholes(given: dict[str, Any]) -> dict[str, int]:
    """Values that must be whole numbers.

    Raises:
        InputError: one is not.
    """
    for name, value in given.items():
        if not isinstance(value, int):
            raise InputError(f"{name} must be a whole number, not {value}")
    return given


def compiled(
    arguments: argparse.Namespace,
    passes: str | None = None,
    device: str | None = None,
    symbolic_hardware: bool | None = None,
) -> Compiled:
    """The model compiled as the command says."""
    from costgraph.compiling.compilation import compile

    if symbolic_hardware is None:
        symbolic_hardware = getattr(arguments, "symbolic_hardware", False)
    return compile(
        arguments.model,
        arguments.on if device is None else device,
        arguments.passes if passes is None else passes,
        symbolic_hardware=symbolic_hardware,
        symbolic_model=getattr(arguments, "symbolic_model", False),
        **conventions(arguments),
    )


def every(arguments: argparse.Namespace) -> Sources:
    """The model compiled for every device and pipeline, when it is asked for: its sources."""

    def sources() -> Iterator[Source]:
        for device in devices(arguments):
            for passes in pipelines(arguments):
                yield compiled(arguments, passes, device), ()

    return sources


def conventions(arguments: argparse.Namespace) -> dict[str, Any]:
    """What :func:`add_conventions` takes, as every question of Python calls it.

    Raises:
        InputError: an item of ``--dims`` is no NAME=X, or names a dimension again.
    """
    read = {name: getattr(arguments, name) for name, _, _ in READING}
    return {
        "accounting": arguments.accounting,
        "fidelity": arguments.fidelity,
        **{name: value for name, value in read.items() if value is not None},
        **dims(arguments),
    }


def dims(arguments: argparse.Namespace) -> dict[str, Any]:
    """What ``--dims`` and ``--decoder`` state, if anything.

    Raises:
        InputError: an item is no NAME=X, or names a dimension again.
    """
    found: dict[str, str] = {}
    for item in (part for text in arguments.dims for part in _SEPARATOR.split(text)):
        name, equals, value = (part.strip() for part in item.rpartition("="))
        if not (equals and name and value):
            raise InputError(f"--dims: {clip(item)} is not NAME=X, such as past=T or seq=128")
        if name in found:
            raise InputError(f"--dims: {clip(name)} is given twice")
        found[name] = value
    more = {} if arguments.decoder is None else {"decoder": arguments.decoder}
    return {"dims": found, **more} if found else more
