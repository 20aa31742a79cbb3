"""The words that commands share: how each asks for a model, devices, pipelines and values.

A command adds the options it takes with the functions here and reads them with the
functions here, so that one thing is called by one name everywhere:

* ``model``, ``--on``, ``--passes``: what is compiled;
* ``--accounting``, ``--fidelity``: how it is counted and timed;
* ``--weights``, ``--activations``, ``--kv``, ``--quantization``, ``--dims``, ``--reserve``:
  how model and device are read;
* ``--batch``, ``--prompt``, ``--generate``, ``--context``, ``--images``: sizes;
* ``--set NAME=VALUE``: any symbol, those of sizes, of the model (``K``) and of passes;
* ``--at X=V,…``: several symbols in one text.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from costgraph.cli.values import whole
from costgraph.errors import InputError, clip

if TYPE_CHECKING:
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
#: Commas between items; one in parentheses belongs to a size.
_SEPARATOR = re.compile(r",(?![^()]*\))")

# --- what a command takes ----------------------------------------------------------------


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
    what = "devices, systems (8xh100, dgx-h100) or TOML files, separated by commas; repeatable"
    add_machines(command, required, what)
    command.add_argument(
        "--passes",
        action="append",
        required=passes_required,
        metavar="P",
        help="a pipeline; repeatable ('': the unmodified model)",
    )
    add_conventions(command)


def add_machines(
    command: argparse.ArgumentParser,
    required: bool = False,
    what: str = "devices or TOML files, separated by commas; repeatable",
) -> None:
    """Several machines."""
    command.add_argument(
        "--on",
        required=required,
        default=[] if not required else None,
        action="append",
        metavar="HW[,HW]",
        help=what,
    )


def add_model(command: argparse.ArgumentParser, **more: Any) -> None:
    """The model."""
    command.add_argument("model", help=MODEL, **more)


def add_device(command: argparse.ArgumentParser, required: bool = True) -> None:
    """One device."""
    command.add_argument(
        "--on",
        required=required,
        metavar="HARDWARE",
        help="a device (h100), a system (8xh100, dgx-h100, rtx-4090+i9-13900k) or a TOML file",
    )


def add_pipeline(command: argparse.ArgumentParser) -> None:
    """One pipeline."""
    command.add_argument(
        "--passes", default="", metavar="P", help="pipeline, e.g. 'fuse,quantize{weights=int4}'"
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
    command: argparse.ArgumentParser, sizes: str = "BSNTG", usual: str = "", at: bool = False
) -> None:
    """Values of symbols: an option for each of ``sizes``, and ``--set`` for any.

    Args:
        command: what takes them.
        sizes: letters of :data:`SIZES`.
        usual: what sizes are where nothing is said, as text for the help: ``B=1,S=1024``.
        at: also ``--at``.
    """
    told = dict(item.split("=") for item in usual.split(",") if item)
    for letter in sizes:
        name, meaning = SIZES[letter]
        text = f"{meaning} ({told[letter]})" if letter in told else meaning
        command.add_argument(f"--{name}", type=whole, metavar=letter, help=text)
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any symbol: K (denoising steps), G, one of a pass; repeatable",
    )
    if at:
        command.add_argument(
            "--at", default="", metavar="X=V,…", help="values of symbols, e.g. 'B=8,T=2048'"
        )


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


def values(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every value that was given, by symbol: sizes, ``--at`` and ``--set``.

    Raises:
        InputError: an item does not parse, or a symbol is given twice.
    """
    found: dict[str, Any] = {}
    for letter, (name, _) in SIZES.items():
        value = getattr(arguments, name, None)
        if value is not None:
            found[letter] = value
    for where, items in (
        ("--at", [p for p in getattr(arguments, "at", "").split(",") if p.strip()]),
        ("--set", getattr(arguments, "set", [])),
    ):
        for item in items:
            symbol, value = assignment(item, where)
            if symbol in found:
                raise InputError(f"{where}: {clip(symbol)} is given twice")
            found[symbol] = number(value, f"{where}: {symbol}")
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
        if word and hasattr(arguments, word):
            return f"--{word} {name}"
        return f"-{name} {name}" if hasattr(arguments, name) else f"--set {name}=…"

    return f"; give {', '.join(map(option, names))}"


def assignment(item: str, where: str) -> tuple[str, str]:
    """``NAME=VALUE`` as its two parts.

    Raises:
        InputError: it is something else, or the name is none of a symbol.
    """
    from costgraph.symbols import symbol

    name, equals, value = (part.strip() for part in item.partition("="))
    if not equals or not name or not value:
        raise InputError(f"{where}: {clip(item)} is not NAME=NUMBER, such as T=2048")
    symbol(name)  # refuses what is no symbol name
    return name, value


def number(text: str, where: str) -> Any:
    """A positive number, exact: an int where it is whole, else a fraction.

    Raises:
        InputError: it is none.
    """
    from costgraph.number import positive

    found = positive(text, where)
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
