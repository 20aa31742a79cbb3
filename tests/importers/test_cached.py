"""Exported steps that keep caches: prefill and decode, equal to the shipped reading."""

from __future__ import annotations

import json
import warnings
from functools import cache

import pytest
from sympy import Integer, expand

import costgraph as cg
from costgraph.cli import main
from costgraph.counting.count import exact_cost, parameters
from costgraph.errors import InputError
from costgraph.hardware.machine import Engine
from costgraph.ir.tensor import Role
from costgraph.ir.verify import verify_program
from costgraph.models import load_model
from costgraph.symbols import B, S, T

torch = pytest.importorskip("torch")

from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from costgraph.models.torch_export import from_torch  # noqa: E402
from tests.importers import tiny_cached  # noqa: E402
from tests.importers.tiny_llama import Config  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]
#: Two layers are enough to be folded.
SMALL = Config(layers=2)


@cache
def exported(name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name.startswith("static"):
            new = 4 if name.endswith("many") else 1
            how = "index_put" if new > 1 else "index_copy"
            return tiny_cached.static(SMALL, new, how)[2]
        whole = tiny_cached.exported(tiny_cached.cached(SMALL), 1 if name == "one" else 4)
        return whole.run_decompositions() if name == "core" else whole


def shipped(mask: str = "skip"):
    wide = dict.fromkeys(("weights", "activations", "kv"), "fp32")
    return load_model(SMALL.hub(), logits="all", mask=mask, **wide)


def products(phase):
    return phase.bind(exact_cost(phase.graph).flops_of(Engine.TENSOR))


def of_caches(phase):
    return phase.bind(exact_cost(phase.graph).bytes_of(Role.KV))


@pytest.mark.parametrize("mask", ["skip", "compute"])
@pytest.mark.parametrize("name", ["many", "core", "one"])
def test_a_growing_cache_is_the_shipped_reading(name, mask):
    program, own = from_torch(exported(name), mask=mask), shipped(mask)
    verify_program(program)
    assert parameters(program.graph) == parameters(own.graph)
    for phase in ("prefill", "decode")[name == "one" :]:
        mine, theirs = program.phase(phase), own.phase(phase)
        assert expand(products(mine) - products(theirs)) == 0
        assert expand(of_caches(mine) - of_caches(theirs)) == 0
    assert any("T - " in note for note in program.notes)


@pytest.mark.parametrize("name", ["static", "static many"])
def test_a_cache_of_fixed_size_is_read_as_a_whole(name):
    program, own = from_torch(exported(name)), shipped("compute")
    verify_program(program)
    assert parameters(program.graph) == parameters(own.graph)
    full = {B: Integer(1), T: Integer(32)}
    mine, theirs = program.phase("decode"), own.phase("decode")
    assert products(mine) == products(theirs).xreplace(full)
    assert of_caches(mine) == of_caches(theirs).xreplace(full)
    assert any("all 32 positions" in said for said in program.assumptions)
    tpot = cg.compile(program, "h100", "fuse").tpot
    assert tpot.evaluate(T=32) == tpot.evaluate(B=1, T=1)
    with pytest.raises(InputError, match="33 exceeds 32"):
        tpot.evaluate(T=33)
    with pytest.raises(InputError, match="B is 1 here"):
        tpot.evaluate(B=2, T=8)


def test_products_of_both_phases_equal_pytorchs_own_count():
    program = from_torch(exported("many"), mask="compute")
    model = tiny_cached.cached(SMALL)
    for phase, new, before in (("prefill", 9, 0), ("decode", 1, 30)):
        with (
            FlopCounterMode(display=False) as counter,
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
        ):
            model(*tiny_cached.example(SMALL, 3, new, before))
        point = {B: 3, S: 9, T: before + new}
        assert products(program.phase(phase)).xreplace(point) == counter.get_total_flops()


def test_a_step_of_one_position_takes_a_prompt_one_by_one():
    """Time to the first token is as many decode steps as the prompt has positions."""
    compiled = cg.compile(from_torch(exported("one")), "h100", "fuse")
    steps = sum(compiled.tpot.evaluate(B=2, T=t) for t in range(1, 18))
    assert compiled.ttft.evaluate(B=2, S=17) == pytest.approx(steps)
    with pytest.raises(InputError, match="one position"):
        compiled.program.check_served()


@pytest.mark.parametrize("pipeline", ["fuse", "fuse,page-kv", "fuse,quantize{kv=int8}"])
def test_passes_of_caches_apply(pipeline):
    mine, own = (cg.compile(p, "h100", pipeline) for p in (from_torch(exported("many")), shipped()))
    mine, own = (c.bytes.evaluate(B=2, S=64, N=8) for c in (mine, own))
    assert mine == pytest.approx(own, rel=0.02)


class Twice(tiny_cached.Cached):
    """Uses what it caches for something else, too."""

    def forward(self, ids, past):
        logits, *present = super().forward(ids, past)
        return (logits + present[0].sum(), *present)


class Kept(tiny_cached.Cached):
    """Does not hand on what it caches."""

    def forward(self, ids, past):
        return super().forward(ids, past)[:1]


@pytest.mark.parametrize(
    ("kind", "dims", "why"),
    [
        (Twice, {}, "attention alone does not read"),
        (Kept, {}, ""),
        (tiny_cached.Cached, {"past": 12}, "as the sizes say"),
        (tiny_cached.Cached, {"seq": 4}, "neither one nor any number"),
    ],
)
def test_what_is_not_certain_stays_one_phase_and_says_why(kind, dims, why):
    program = from_torch(tiny_cached.exported(kind(SMALL).eval()), dims)
    assert [p.name for p in program.phases] == ["forward"]
    assert (not why) or any(why in note for note in program.notes)
    plain = from_torch(tiny_cached.exported(kind(SMALL).eval()), dims, recognise=False)
    assert expand(products(program.phases[0]) - products(plain.phases[0])) == 0 or why
    with pytest.raises(InputError):
        _ = cg.compile(program, "h100").tpot


def test_the_import_command_accounts_for_a_file(tmp_path, capsys):
    path = tmp_path / "step.pt2"
    torch.export.save(exported("many"), path)
    assert main(["import", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["phases"], found["unknown"]) == (["prefill", "decode"], {})
    assert [found["recognised"][n] for n in ("attention", "caches")] == [2, 4]
    assert found["layers"] == ["layers × 2"]
    assert 0.99 < found["understood"] <= 1
    assert found["flop"] == sum(p["flop"] for p in found["parts"])
    total = exact_cost(from_torch(exported("many")).graph).total_flops
    phase = from_torch(exported("many")).phase("prefill")
    assert found["flop"] == phase.bind(total).xreplace({B: 1, S: found["at"]["S"]})


def test_the_import_command_names_unknown_operators(tmp_path, capsys):
    class Odd(torch.nn.Module):
        def forward(self, x):
            return torch.linalg.eigvalsh(x @ x.mT) + 1

    path = tmp_path / "odd.pt2"
    torch.export.save(torch.export.export(Odd(), (torch.zeros(4, 4),)), path)
    assert main(["import", str(path)]) == 2
    said = capsys.readouterr().out
    assert "unknown: " in said
    assert "nothing is counted" in said
