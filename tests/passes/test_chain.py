"""Models in the memories of a row of chips: what a token takes, what fits, groups in flight."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sympy import Integer

import costgraph as cg
from costgraph.counting.footprint import weight_bytes
from costgraph.errors import InputError, PipelineError
from costgraph.hardware import load_hardware, load_system

ROW = "576xgroqchip"
NARROW = "fuse,quantize{weights=int8}"


def row(chips: int, link=Integer(10) ** 20):
    """So many chips in a row, over links without any cost to speak of."""
    chip = load_hardware("groqchip1")
    fast = replace(chip.links["c2c"], bandwidth=link, devices=None, wiring="switch")
    chip = replace(chip, links={"c2c": fast}, node=replace(chip.node, devices=Integer(4096)))
    base = load_system("groq-576")
    return replace(base, device=chip, per_node=chips, nodes=1, name=f"{chips} chips")


def test_a_token_reads_every_chip_once_and_the_row_is_never_faster():
    """A row of full chips takes 2.875 µs each: 1.656 ms or 604 token/s for 576."""
    chip = load_hardware("groqchip1")
    full = chip.memory.capacity / chip.memory.bandwidth
    assert float(full) == pytest.approx(2.875e-6)
    assert 1 / float(576 * full) == pytest.approx(604, abs=0.5)
    # In 16 bit the weights alone take 600: a token reads all of them.
    found = cg.compile("llama-2-70b", row(600), "fuse,chain")
    read = float(weight_bytes(cg.load_model("llama-2-70b").phases[0].graph))
    step = found.tpot.evaluate(B=1, T=1)
    # One row of the embedding is read, not all of it.
    assert (read - 8192 * 32000 * 2) / 80e12 <= step < 1.01 * read / 80e12
    assert 300 < 1 / step < 604


@pytest.mark.parametrize("chips", [11, 64, 576])
def test_without_links_a_row_is_one_chip_with_all_their_memory(chips):
    """But for the row of every sequence that each chip reads and writes as it passes it on."""
    alone = cg.compile("llama-3.2-1b", "groqchip1", "fuse")
    found = cg.compile("llama-3.2-1b", row(576), f"fuse,chain{{chips={chips}}}")
    at = {"B": 2, "T": 100}
    passed = (chips - 1) * 2 * (2 * 2048 * 2) / 80e12
    assert found.tpot.evaluate(**at) - alone.tpot.evaluate(**at) == pytest.approx(passed, rel=1e-3)
    sizes = {"B": 2, "S": 64, "N": 8}
    assert found.flops.evaluate(**sizes) == alone.flops.evaluate(**sizes)
    assert found.parameters == alone.parameters
    with pytest.raises(PipelineError, match="needs 11 of groqchip1"):
        cg.compile("llama-3.2-1b", row(576), "chain{chips=10}")


def test_what_does_not_fit_says_how_many_chips_it_needs():
    with pytest.raises(PipelineError) as error:
        cg.compile("llama-2-70b", ROW, "fuse,chain")
    text = str(error.value)
    assert "\n" not in text
    assert "needs 600 of groqchip1" in text
    assert "the row has 576" in text
    found = cg.compile("llama-2-70b", ROW, f"{NARROW},chain")
    (said,) = [a for a in found.assumptions if "needs ceil" in a]
    # In words what memory says in bytes: a row is full where its formula reaches the room.
    assert "327680*B*(N + S - 1)" in said
    assert "303 for its weights" in said
    assert found.fit(B=1, S=512, N=64).fits
    assert found.fit(B=1, S=4096, N=200_000).fits is False
    held = found.memory.evaluate(B=1, S=1001, N=1) - found.memory.evaluate(B=1, S=1, N=1)
    rows = 327680 * 1000 / 576
    assert held >= rows


def test_published_speed_lies_below_the_bound():
    """Groq: more than 300 token/s a user of LLaMA-2-70B on 576 chips, in 8 and 16 bit."""
    found = cg.compile("llama-2-70b", ROW, f"{NARROW},chain")
    rate = 1 / found.tpot.evaluate(B=1, T=512)
    assert 300 < rate < 604
    links = str(found.explain("tpot", B=1, T=512))
    assert "relay (link c2c)" in links
    # 504 messages of 16 KB inside of nodes, over one of seven lanes, and 71 between nodes.
    relay = [r for r in found.rows["decode"] if r.name == "relay"]
    (sent,) = relay
    phase = found.program.phase("decode")
    counts = {name: phase.bind(m.steps) for name, m in sent.cost.links.items()}
    assert counts == {"c2c": 504, "network": 71}
    (size,) = {phase.bind(m.wire / m.steps) for m in sent.cost.links.values()}
    assert size.xreplace({cg.symbols.B: Integer(1)}) == 8192 * 2


def test_groups_in_flight_share_weights_and_time():
    one = cg.compile("llama-2-70b", ROW, f"{NARROW},chain")
    many = cg.compile("llama-2-70b", ROW, f"{NARROW},chain{{groups=64}}")
    open_ = cg.compile("llama-2-70b", ROW, f"{NARROW},chain{{groups=g}}")
    at = {"B": 64, "S": 100, "N": 50}
    # Each group takes what a sequence alone takes.
    alike = pytest.approx(one.tpot.evaluate(B=1, T=512))
    assert many.tpot.evaluate(B=64, T=512) == alike
    assert many.throughput.evaluate(**at) == pytest.approx(
        64 * one.throughput.evaluate(**(at | {"B": 1}))
    )
    dense = [cg.compile("llama-3.2-1b", ROW, f"fuse,chain{x}") for x in ("", "{groups=64}")]
    assert dense[0].flops.evaluate(**at) == dense[1].flops.evaluate(**at)
    assert open_.throughput.evaluate(**at, g=64) == pytest.approx(many.throughput.evaluate(**at))
    # Caches are those of all groups, weights are there once.
    for each in (one, many):
        grown = [each.memory.evaluate(B=64, S=2, N=n) for n in (20_000, 40_000)]
        assert grown[1] - grown[0] == pytest.approx(64 * 20_000 * 327680 / 576, rel=0.02)
    with pytest.raises(InputError, match="each group needs a sequence"):
        many.tpot.evaluate(B=2, T=100)
    with pytest.raises(InputError, match="a chip for each group"):
        open_.tpot.evaluate(B=1000, T=100, g=577)


@pytest.mark.parametrize(
    ("passes", "words"),
    [
        ("chain{chips=577}", "has 576 devices"),
        ("chain{groups=577}", "there are 576 chips"),
        ("chain,parallel{tp=8}", "shared among devices already"),
        ("chain,speculative{gamma=2,draft=llama-3.2-1b}", "no room for drafts"),
        ("chain,offload{weights=disk}", "give one of the two"),
    ],
)
def test_refusals_say_what_would_be_right(passes, words):
    with pytest.raises(PipelineError, match=words):
        cg.compile("llama-3.2-1b", ROW, passes)


def test_other_chips_stand_in_rows():
    """Four IPUs hold OPT-1.3B; a token reads its weights at 47.5 TB/s."""
    found = cg.compile("opt-1.3b", "4xipu-gc200", "fuse,chain")
    assert found.fit(B=1, S=100, N=10).fits
    assert 1 / found.tpot.evaluate(B=1, T=100) < 47.5e12 / (2 * 1.2e9)
    miss = cg.compile("opt-125m", "ipu-gc200", "fuse,chain")
    assert "one chip is no row" in str(miss.trace)
    flat = cg.compile("vgg-16", "4xipu-gc200", "fuse,chain")
    assert "no region of layers" in str(flat.trace)
    assert flat.program.devices == 1
