"""Any order of passes that is accepted verifies, round-trips and keeps its promises."""

from __future__ import annotations

from hypothesis import event, given, settings
from hypothesis import strategies as st

import costgraph as cg
from costgraph.compiling.compiled import Compiled
from costgraph.counting.accounting import EXACT
from costgraph.counting.count import parameters
from costgraph.errors import InputError
from costgraph.hardware import load_hardware
from costgraph.hardware.systems import alone
from costgraph.ir.program import autoregressive
from costgraph.ir.verify import verify_program
from costgraph.models.decoder import build
from costgraph.passes import PASSES
from costgraph.rewriting.pipeline import parse, run, text_of

from .strategies import decoder, shapes

ITEMS = [
    "fuse",
    "fuse{attention=none,prologue=true}",
    "quantize{preset=w4a16}",
    "quantize{preset=w8a8}",
    "quantize{kv=int8}",
    "page-kv{block=4}",
    "early-exit{distribution=uniform}",
    "early-exit{exit=1,p=1/3,confidence=softmax}",
    "speculative{layers=1,gamma=2}",
    "speculative{draft=heads,gamma=2}",
]


@settings(max_examples=60)
@given(shapes(), st.lists(st.sampled_from(ITEMS), max_size=4), st.sampled_from(["h100", "v100"]))
def test_every_accepted_pipeline_verifies_and_gives_numbers(m, items, device):
    text = ",".join(items)
    passes = parse(text, PASSES)
    assert parse(text_of(passes), PASSES) == passes
    program = autoregressive("m", build("m", decoder(m)))
    machine = load_hardware(device)
    try:
        made, trace = run(program, passes, alone(machine))
    except InputError as refusal:
        event(type(refusal).__name__)  # an order that makes no sense is refused
        return
    verify_program(made)
    assert len(trace.steps) == len(passes)
    assert parameters(made.graph) == parameters(program.graph)
    compiled = Compiled(made, machine, EXACT, passes, trace, machine)
    values = {"B": 2, "S": 5, "N": 3}
    names = {s.name for s in compiled.latency.symbols}
    latency = compiled.latency.evaluate(**{k: v for k, v in values.items() if k in names})
    assert latency > 0
    for phase in made.phases:
        at = {"S": 5} if phase.span is None else {"T": 6}
        step = compiled.breakdown(phase.name, B=2, **at)
        assert step.totals["flops"] >= 0
        assert step.totals["seconds"] > 0


def test_the_orders_that_users_write_are_accepted():
    for text in (
        "fuse,quantize{preset=w4a16},page-kv",
        "quantize{preset=w8a8},fuse,page-kv",
        "page-kv,fuse,quantize{kv=int8}",
        "speculative{draft=opt-125m},page-kv,fuse",
        "fuse,early-exit,page-kv",
        "quantize{preset=w4kv4},fuse,speculative{draft=opt-125m},page-kv",
    ):
        assert cg.compile("opt-13b", "a100", text).tpot.evaluate(B=2, T=100) > 0
