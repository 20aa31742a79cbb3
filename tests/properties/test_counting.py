"""Counting holds for random decoders, against plain integer arithmetic."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Integer

from costgraph.compiling.compiled import Compiled
from costgraph.counting.accounting import EXACT
from costgraph.counting.count import exact_cost, parameters, rows
from costgraph.counting.footprint import cache_bytes, footprint
from costgraph.hardware import load_hardware
from costgraph.ir.cost import Direction
from costgraph.ir.program import autoregressive
from costgraph.ir.tensor import Role
from costgraph.ir.verify import verify
from costgraph.models.blocks import Style
from costgraph.models.decoder import build
from costgraph.rewriting.unrolled import unrolled
from costgraph.symbols import B, T, q

from . import oracle
from .strategies import decoder, shapes, sizes


@settings(max_examples=30)
@given(shapes(), sizes, sizes, sizes)
def test_symbolic_then_substituted_equals_the_integer_oracle(m, batch, queries, cached):
    graph = build("m", decoder(m))
    verify(graph)
    values = {B: Integer(batch), q: Integer(queries), T: Integer(cached + queries)}
    cost = exact_cost(graph)
    got = (cost.total_flops.xreplace(values), cost.total_bytes.xreplace(values))
    assert got == oracle.step(m, batch, queries, cached + queries)
    assert parameters(graph) == oracle.weights(m)


@settings(max_examples=25)
@given(shapes(), sizes, sizes, sizes)
def test_symbolic_dimensions_substituted_equal_the_integer_oracle(m, batch, queries, cached):
    described, dims = decoder(m).symbolic()
    graph = build("m", described)
    verify(graph)
    values = {**dims, B: Integer(batch), q: Integer(queries), T: Integer(cached + queries)}
    cost = exact_cost(graph)
    got = (cost.total_flops.xreplace(values), cost.total_bytes.xreplace(values))
    assert got == oracle.step(m, batch, queries, cached + queries)
    assert parameters(graph).xreplace(dims) == oracle.weights(m)


@settings(max_examples=25)
@given(shapes())
def test_rows_add_up_to_the_graph(m):
    graph = build("m", decoder(m))
    whole = exact_cost(graph)
    found = rows(graph)
    assert (sum(r.total.total_flops for r in found) - whole.total_flops).expand() == 0
    assert (sum(r.total.total_bytes for r in found) - whole.total_bytes).expand() == 0
    assert len({r.name for r in found}) == len(found)


@settings(max_examples=20)
@given(shapes(), sizes, sizes, sizes)
def test_a_repeated_region_equals_its_copies(m, batch, queries, cached):
    graph = build("m", decoder(m))
    flat = unrolled(graph)
    verify(flat)
    values = {B: Integer(batch), q: Integer(queries), T: Integer(cached + queries)}
    one, many = exact_cost(graph), exact_cost(flat)
    for key in one.flops.keys() | many.flops.keys():
        assert one.flops[key].xreplace(values) == many.flops[key].xreplace(values)
    for key in one.bytes.keys() | many.bytes.keys():
        assert one.bytes[key].xreplace(values) == many.bytes[key].xreplace(values)
    assert parameters(graph) == parameters(flat)
    assert cache_bytes(graph).xreplace(values) == cache_bytes(flat).xreplace(values)

    def peak(g):
        return max(int(a.xreplace(values)) for a in footprint(g).activations)

    assert peak(graph) == peak(flat)


@settings(max_examples=30)
@given(shapes(), sizes, st.integers(1, 12))
def test_a_prefill_has_the_flops_of_its_decode_steps(m, batch, prompt):
    graph = build("m", decoder(m), Style(logits="all"))
    flops = exact_cost(graph).total_flops
    prefill = flops.xreplace({B: Integer(batch), q: Integer(prompt), T: Integer(prompt)})
    single = [
        flops.xreplace({B: Integer(batch), q: Integer(1), T: Integer(t)})
        for t in range(1, prompt + 1)
    ]
    # Learned positions are added per position in both; nothing else differs.
    assert prefill == sum(single)


@settings(max_examples=25)
@given(shapes(), sizes, sizes, sizes)
def test_doubling_the_batch_doubles_activations_and_keeps_weights(m, batch, queries, cached):
    # Tables that all sequences share do not scale with the batch.
    cost = exact_cost(build("m", decoder(m, rotary=None, positions=None)))

    def of(role, size):
        values = {B: Integer(size), q: Integer(queries), T: Integer(cached + queries)}
        return cost.bytes_of(role).xreplace(values)

    assert of(Role.ACTIVATION, 2 * batch) == 2 * of(Role.ACTIVATION, batch)
    assert of(Role.KV, 2 * batch) == 2 * of(Role.KV, batch)
    gathered = 2 * m.d * queries * batch  # the embedding rows, which do scale
    assert of(Role.WEIGHT, 2 * batch) - of(Role.WEIGHT, batch) == gathered
    assert cost.bytes_of(Role.WEIGHT, Direction.WRITE) == 0


@settings(max_examples=15)
@given(shapes(), sizes, st.integers(1, 50), st.integers(1, 20), st.integers(1, 40))
def test_latency_equals_the_loop_and_scales_with_the_machine(m, batch, prompt, generated, k):
    program = autoregressive("m", build("m", decoder(m)))
    machine = load_hardware("a6000")
    compiled = Compiled(program, machine, EXACT)
    loop = compiled.ttft.evaluate(B=batch, S=prompt) + sum(
        compiled.tpot.evaluate(B=batch, T=prompt + i) for i in range(1, generated)
    )
    got = compiled.latency.evaluate(B=batch, S=prompt, N=generated)
    assert abs(got - loop) <= 1e-12 * loop
    rate = compiled.throughput.evaluate(B=batch, S=prompt, N=generated)
    assert abs(rate * got - batch * generated) <= 1e-9 * batch * generated
    # Homogeneous: every rate times k divides every time by k, exactly.
    symbolic = Compiled(program, machine.symbolic(), EXACT).tpot
    faster = symbolic.substitute({s: k * v for s, v in machine.bindings().items()})
    slower = symbolic.substitute(machine.bindings())
    values = {B: Integer(batch), T: Integer(prompt)}
    assert faster.expr.xreplace(values) * k == slower.expr.xreplace(values)


@settings(max_examples=15)
@given(shapes(), sizes, sizes, sizes)
def test_memory_holds_weights_and_caches_and_grows(m, batch, prompt, generated):
    compiled = Compiled(autoregressive("m", build("m", decoder(m))), load_hardware("a6000"), EXACT)

    def need(b, s, n):
        return compiled.memory.evaluate(B=b, S=s, N=n)

    base = need(batch, prompt, generated)
    kept = min(m.window or 10**9, prompt + generated - 1)
    kv = 2 * 2 * m.layers * m.kv_heads * m.head_dim * batch * kept
    assert base >= 2 * oracle.weights(m) + kv
    assert need(batch + 1, prompt, generated) >= base
    assert need(batch, prompt + 1, generated) >= base
    assert need(batch, prompt, generated + 1) >= base
