"""A server of one pipeline under load: what a page evaluates with the forms of a queue."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from sympy import Expr

from costgraph.asking.serving import dealt, forms, odds, rooms, settled
from costgraph.asking.serving.caches import RESERVED
from costgraph.asking.serving.memory import LIVE, MEMORY_SHARE
from costgraph.asking.serving.queueing import ALIKE, BRIEF, CONDITIONS, LOW
from costgraph.asking.serving.steps import StepTimes
from costgraph.compiling.mixing import stepping
from costgraph.errors import CostgraphError, InputError, clip
from costgraph.showing.export.code.functions import javascript_functions
from costgraph.showing.report.code import Scripts, Values

if TYPE_CHECKING:
    from costgraph.compiling.compiled import Compiled

#: Where the controls start: the most sequences at a time, tokens of a step, the policy.
START = {"rate": None, "seqs": 64, "chunk": 2048, "policy": "chunked"}
#: Policies with forms.
POLICIES = ("chunked", "continuous", "prefill-first")
#: What they take.
ALLOWED: dict[str, dict[str, Any]] = {
    "rate": {"whole": False, "least": 1e-6, "most": 1e9},
    "seqs": {"whole": True, "least": 1, "most": 4096},
    "chunk": {"whole": True, "least": 1, "most": 1e9},
}
NAMES = {"rate": "a rate", "seqs": "sequences at a time", "chunk": "tokens of a step"}
HELD = f"weights and caches have {MEMORY_SHARE:.0%} of memory; {LIVE}; {RESERVED}"


@cache
def queue_script() -> str:
    """JavaScript that defines ``FORMS``, functions of ``forms``, ``settled``, ``odds``, ``rooms``
    and ``dealt`` (of :mod:`costgraph.asking.serving`), and ``LOADED``, what the controls take."""
    library = (files("costgraph.showing.report") / "assets" / "arrays.js").read_text("utf-8")
    functions = javascript_functions(forms, settled, odds, rooms, dealt, library=library)
    return f"const FORMS = {functions};\nconst LOADED = {json.dumps(ALLOWED)};\n"


def starting(
    rate: float | None, limit: int | None, chunk: int | None, policy: str | None
) -> dict[str, Any]:
    """Where the controls of the load start.

    Raises:
        InputError: a number is not positive, or the policy has no forms.
    """
    if policy is not None and policy not in POLICIES:
        raise InputError(
            f"no closed form for the policy {clip(policy)}: {', '.join(POLICIES)} have one"
        )
    given = {"rate": rate, "seqs": limit, "chunk": chunk, "policy": policy}
    for name, allowed in ALLOWED.items():
        value, least, most = given[name], allowed["least"], allowed["most"]
        if value is None:
            continue
        assert not isinstance(value, str)
        if not least <= value <= most or (allowed["whole"] and value != int(value)):
            kind = "a whole number" if allowed["whole"] else "a number"
            raise InputError(f"{NAMES[name]}: {kind} from {least:g} to {most:g}, not {value}")
    return START | {k: v for k, v in given.items() if v is not None}


def load_of(compiled: Compiled, scripts: Scripts) -> dict[str, Any]:
    """Functions of a server's steps and memory, or why there are none.

    Steps are those of :class:`.StepTimes`, over sequences ``c`` at context ``T``, tokens ``C`` of a
    chunk that ends at ``P``, those on the fullest of several replicas, and the page's figures.
    """
    try:
        return {"queue": _queue(compiled, scripts), "why": ""}
    except CostgraphError as error:
        return {"queue": None, "why": str(error)}


def _queue(compiled: Compiled, scripts: Scripts) -> dict[str, Any]:
    times = StepTimes(compiled, 1)
    program = compiled.program
    if program.stages != 1:
        raise InputError("stages of a pipeline serve groups in turn: costgraph serve-plan has them")
    decode, prompt, joint = (list(part) for part in times.parts)
    values = Values()
    found = {
        "decode": scripts.add(decode),
        "prompt": scripts.add(prompt),
        "joint": scripts.add(joint),
        "overlaps": times.overlaps,
        "replicas": times.replicas,
        "gain": values.index(stepping(program).tokens),
        "memory": _memory(times, values),
        # Requests of a page are all alike.
        "said": [
            CONDITIONS,
            LOW,
            BRIEF,
            *((ALIKE,) if times.replicas > 1 else ()),
            HELD,
            *times.assumed,
        ],
    }
    return found | {"values": scripts.add(values.formulas())}


def _memory(times: StepTimes, values: Values) -> dict[str, Any]:
    """Places of what is kept, of each unit over ``T`` and, of a prompt's chunk, ``q``."""

    def place(expr: Expr) -> int:
        return values.index(expr)

    held = times.memories
    return {
        "units": [
            {
                "weights": place(u.weights),
                "caches": place(u.caches),
                "decode": [[place(once), place(each)] for once, each in u.decode],
                "prompt": [place(e) for e in u.prompt],
            }
            for u in held.units
        ],
        "far": [[name, size, place(once), place(each)] for name, size, once, each in held.far],
    }
