"""NUMA domains, workers bound to them or not, and what a paper measured on processors."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sympy import Rational

import costgraph as cg
from costgraph.errors import HardwareError
from costgraph.hardware import load_hardware, load_system
from costgraph.hardware.domains import domain, unbound

XEON = "xeon-8480p"
#: A processor of four domains with the one bandwidth that both baselines of arXiv 2406.07553
#: imply: 9.31 and 4.36 token/s of 3.04 and 6.74 billion weights in 16 bit.
EFFECTIVE = """
name = "effective"
title = "A 4th generation Xeon at its effective bandwidth"
kind = "cpu"
[sources]
paper = "derived: 2 byte per weight times the token rates of one request in arXiv 2406.07553"
[peaks.tensor]
bf16 = { value = "100 TFLOP/s", source = "paper" }
[peaks.vector]
fp32 = { value = "7 TFLOP/s", source = "paper" }
[memory]
bandwidth = { value = "58 GB/s", source = "paper" }
capacity = { value = "256 GB", source = "paper" }
[topology]
numa_domains = { value = 4, source = "paper" }
remote = { value = "5 GB/s", source = "paper" }
"""


@pytest.fixture
def effective(tmp_path):
    path = tmp_path / "effective.toml"
    path.write_text(EFFECTIVE)
    return path


def test_domains_share_a_device_and_together_are_it():
    whole = load_hardware(XEON)
    part = load_system(f"{XEON}.numa").device
    assert replace(part, figures={}) == replace(domain(whole), figures={})
    # What is stated of it is its own.
    assert part.figures["memory.bandwidth"].value == part.memory.bandwidth
    assert part.figures["topology.cores"].value == 14
    some = load_system(f"{XEON}.8cores").device
    assert some.figures["peaks.tensor.bf16"].value * 7 == 229_376 * 10**9
    assert "xeon-8480p.8cores, xeon-8480p: derived" in some.figures["peaks.tensor.bf16"].source
    assert 4 * part.memory.bandwidth == whole.memory.bandwidth
    assert 4 * part.memory.room == whole.memory.room
    assert all(4 * part.peaks[key] == peak for key, peak in whole.peaks.items())
    assert 4 * part.topology.cores == whole.topology.cores
    assert load_system(f"4x{XEON}.numa").devices == 4
    with pytest.raises(HardwareError, match="holds 4"):
        load_system(f"5x{XEON}.numa")
    with pytest.raises(HardwareError, match="one NUMA domain"):
        load_system("i9-13900k.numa")
    with pytest.raises(HardwareError, match=r"state \[topology\] numa_domains"):
        load_system("a100.numa")
    with pytest.raises(HardwareError, match=r"state \[topology\] remote"):
        load_system(f"{XEON}.unbound")


def test_unbound_threads_read_at_the_harmonic_mean(effective):
    machine = load_hardware(effective)
    near, far = machine.memory.bandwidth / 4, machine.topology.remote
    expected = 4 / (Rational(1, 4) / near + Rational(3, 4) / far)
    assert unbound(machine).memory.bandwidth == expected
    assert load_system(f"{effective}.unbound").device.memory.bandwidth == expected
    # Domains that are as near as one's own cost nothing.
    alike = load_hardware(effective)
    same = replace(alike, topology=replace(alike.topology, remote=near))
    assert unbound(same).memory == alike.memory


#: Token/s of one request, of 100 in a batch, of four workers (arXiv 2406.07553, Table 2).
MEASURED = {"starcoder2-3b": (9.31, 167.58, 670.32), "llama-2-7b": (4.36, 93.69, 305.30)}


@pytest.mark.parametrize("model", MEASURED)
def test_one_effective_bandwidth_explains_both_baselines_and_batching_stays_below_it(
    model, effective
):
    # StarCoderBase-3B and CodeLlama-7B; models of the same sizes stand for them.
    one, many, _ = MEASURED[model]
    found = cg.compile(model, effective, "fuse")
    assert 1 / found.tpot.evaluate(B=1, T=100) == pytest.approx(one, rel=0.05)
    bound = 100 / found.tpot.evaluate(B=100, T=100)
    assert many < bound
    gain = {"starcoder2-3b": 18.0, "llama-2-7b": 21.5}[model]
    assert many / one == pytest.approx(gain, abs=0.05)


@pytest.mark.parametrize(("model", "published"), [("starcoder2-3b", 4.00), ("llama-2-7b", 3.26)])
def test_four_bound_workers_are_four_times_one(model, published):
    one = cg.compile(model, f"{XEON}.numa", "fuse")
    four = cg.compile(model, f"4x{XEON}.numa", "fuse,parallel{dp=4}")
    sizes = {"S": 100, "N": 100}
    gain = four.throughput.evaluate(B=400, **sizes) / one.throughput.evaluate(B=100, **sizes)
    assert gain == pytest.approx(4, rel=1e-12)
    assert published <= gain + 1e-12
    # Each worker holds the weights itself.
    assert four.memory.evaluate(B=400, **sizes) == one.memory.evaluate(B=100, **sizes)


# --- threads ---------------------------------------------------------------------------


def test_some_cores_have_their_part_of_the_peaks_and_what_they_read_of_the_memory(effective):
    text = effective.read_text().replace(
        "numa_domains", 'cores = { value = 32, source = "paper" }\nnuma_domains'
    )
    effective.write_text(text + 'core_bandwidth = { value = "5 GB/s", source = "paper" }\n')
    whole = load_hardware(effective)
    rates = {}
    for count in (1, 4, 11, 12, 32):
        some = load_system(f"{effective}.{count}cores").device
        assert all(some.peaks[key] * 32 == peak * count for key, peak in whole.peaks.items())
        assert some.memory.room == whole.memory.room
        assert some.topology.cores == count
        rates[count] = some.memory.bandwidth / 10**9
    # Linear until the memory is used up, and the whole with all cores.
    assert rates == {1: 5, 4: 20, 11: 55, 12: 58, 32: 58}
    assert load_system(f"{effective}.32cores").device.peaks == whole.peaks
    # Of a domain likewise: eight cores on a quarter of the rate.
    part = load_system(f"{effective}.numa.2cores").device
    assert part.memory.bandwidth == 10 * 10**9
    assert (
        load_system(f"{effective}.numa.8cores").device.memory.bandwidth
        == whole.memory.bandwidth / 4
    )
    made = cg.compile("gpt2", f"{effective}.4cores", "fuse")
    assert not any("core_bandwidth" in a for a in made.assumptions)


def test_cores_whose_rate_nobody_states_are_taken_to_reach_all_of_it_and_that_is_said():
    few = cg.compile("llama-2-7b", f"{XEON}.14cores", "fuse")
    all_of_them = cg.compile("llama-2-7b", XEON, "fuse")
    assert few.tpot.evaluate(B=1, T=64) == all_of_them.tpot.evaluate(B=1, T=64)
    # Prompts are bound by compute: a quarter of the cores takes four times as long.
    ratio = few.ttft.evaluate(B=1, S=2048) / all_of_them.ttft.evaluate(B=1, S=2048)
    assert 3.5 < ratio <= 4
    (note,) = [a for a in few.assumptions if "core_bandwidth" in a]
    assert note.startswith(f"{XEON}.14cores: how fast a core reads by itself is not stated")
    # The host of a device as well, with the same note.
    host = cg.compile(
        "opt-6.7b", "rtx-4090+i9-13900k.4cores", "offload{weights=host,caches=host,attention=host}"
    )
    assert any("i9-13900k.4cores: how fast" in a for a in host.assumptions)
    for name, said in (
        (f"{XEON}.57cores", "has 56 cores, not 57"), (f"{XEON}.0cores", "not 0"),
        ("a100.4cores", r"state \[topology\] cores"),
    ):  # fmt: skip
        with pytest.raises(HardwareError, match=said):
            load_system(name)


#: The 2D Jacobi kernels of the paper on the ECM model (arXiv 1410.5010, Table III): million updates
#: a second of one core, bytes of an update, and cores that saturate 40 GB/s.
SATURATED = [(659, 24, 3), (587, 24, 3), (529, 24, 4), (438, 40, 3)]


@pytest.mark.parametrize(("updates", "size", "cores"), SATURATED)
def test_cores_saturate_the_memory_where_the_ecm_model_says(updates, size, cores, effective):
    """``P(n) = min(n·P(1), b_S/B_C)``: in bytes, what the law of cores here is."""
    text = effective.read_text().replace("58 GB/s", "40 GB/s").replace(
        "numa_domains",
        'cores = { value = 8, source = "paper" }\n'
        f'core_bandwidth = {{ value = "{updates * size} MB/s", source = "paper" }}\nnuma_domains',
    )  # fmt: skip
    effective.write_text(text)
    rates = [load_system(f"{effective}.{n}cores").device.memory.bandwidth for n in range(1, 9)]
    one = updates * size * 10**6
    assert rates == [min(n * one, 40 * 10**9) for n in range(1, 9)]
    assert 1 + rates.index(40 * 10**9) == cores
