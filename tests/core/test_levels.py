"""Tensors that lie in a farther level of memory: bytes over the link to the host."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sympy import Integer

import costgraph as cg
from costgraph.errors import HardwareError
from costgraph.hardware import load_hardware
from costgraph.hardware.systems import HOST, link_to
from costgraph.ir.cost import Cost, Direction
from costgraph.ir.regions import Region
from costgraph.ir.tensor import MEMORY, Role
from costgraph.timing.roofline import crossings, reach

FAR = ("gate_proj.weight", "up_proj.weight", "down_proj.weight")


def lying(graph, level, names=FAR):
    """The graph with the tensors of some names in another level."""
    nodes = []
    for node in graph.nodes:
        if isinstance(node.op, Region):
            inner = [lying(g, level, names) for g in node.op.graphs]
            node = replace(node, op=node.op.with_graphs(inner))
        nodes.append(node)
    sources = (replace(t, level=level) if t.name in names else t for t in graph.sources)
    return replace(graph, sources=tuple(sources), nodes=tuple(nodes))


def program(level):
    return cg.load_model("llama-3.2-1b").rewritten(lambda g: lying(g, level))


@pytest.mark.parametrize("passes", ["", "fuse"])
def test_weights_of_the_host_cross_its_link_and_leave_the_memory(passes):
    near, far = (cg.compile(program(level), "h100", passes) for level in (MEMORY, "ddr"))
    size = 16 * 3 * 2048 * 8192 * 2
    at = {"B": 1, "S": 100, "N": 2}
    assert near.memory.evaluate(**at) - far.memory.evaluate(**at) == size
    for counted in ("flops", "bytes"):
        assert getattr(near, counted).evaluate(**at) == getattr(far, counted).evaluate(**at)
    link = float(load_hardware("h100").links["pcie"].bandwidth)
    step = far.tpot.evaluate(B=1, T=100)
    others = near.tpot.evaluate(B=1, T=100) - size / 3.35e12
    # Each kernel waits for the link; what it reads in memory beside is small.
    assert step == pytest.approx(size / link + others, rel=2e-3)
    assert "pcie" in far.tpot.text()


def test_levels_that_no_link_reaches_are_refused():
    for device, level, words in (
        ("h100", "sdram", "no memory level 'sdram'"),
        ("i9-13900k", "nvme", "no memory level|no link to its host"),
    ):
        with pytest.raises(HardwareError, match=words):
            _ = cg.compile(program(level), device).tpot


def test_reads_of_other_levels_have_no_calibration():
    with pytest.raises(HardwareError, match="not calibrated"):
        _ = cg.compile(program("ddr"), "h100", fidelity="calibrated").tpot


def test_a_tensor_says_where_it_lies():
    tensor = next(t for t, _ in program("ddr").graph.weights() if t.name in FAR)
    assert str(tensor).endswith(" in ddr")
    assert " in " not in str(replace(tensor, level=MEMORY))


@pytest.mark.parametrize("device", ["a100", "h100", "h200", "gh200", "tpu-v5p", "alveo-u280"])
def test_what_is_read_from_a_level_comes_as_fast_as_both_it_and_its_link(device):
    machine = load_hardware(device)
    for name, tier in machine.tiers.items():
        cost = Cost(bytes={(name, Role.WEIGHT, Direction.READ): Integer(10**9)})
        if tier.bandwidth is None and name != HOST:
            with pytest.raises(HardwareError, match=f"no bandwidth of {name}"):
                reach(machine, name)
            continue
        assert reach(machine, name) == tier.bandwidth
        if not link_to(machine, name):
            with pytest.raises(HardwareError, match="no link to its host"):
                list(crossings(cost, machine))
            continue
        link = machine.links[link_to(machine, name)]
        times = [
            arm.expr - (link.latency or 0) * ("link" in arm.resource)
            for arm in crossings(cost, machine)
        ]
        # A host's memory without a stated rate is not what binds: the link alone counts.
        slowest = link.bandwidth if tier.bandwidth is None else min(link.bandwidth, tier.bandwidth)
        assert max(times) == 10**9 / slowest
