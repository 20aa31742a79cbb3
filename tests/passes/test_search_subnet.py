"""The subnet search: equal to trying everything, within its space, and worth its budget."""

from __future__ import annotations

import itertools
import json
import math
import random
from pathlib import Path

import pytest

import costgraph as cg
from costgraph.counting.count import parameters
from costgraph.errors import InputError
from costgraph.models import find
from costgraph.passes.sparsity.subnets import Choices, Space, Tables, least

CONFIGS = Path(cg.__file__).parents[1] / "models" / "configs"
ON = "a100-80g"


def compiled(passes: str, model: object = "llama-7b"):
    return cg.compile(model, ON, passes)


def small(**changes):
    """A model of three layers, four heads and a feed-forward width of 512."""
    made = json.loads((CONFIGS / f"{find('llama-2-7b')}.json").read_text())
    sizes = {
        "num_hidden_layers": 3, "hidden_size": 256, "num_attention_heads": 4,
        "num_key_value_heads": 4, "intermediate_size": 512, "vocab_size": 500,
    }  # fmt: skip
    return {**made, **sizes, **changes}


# --- the search by itself ------------------------------------------------------------


def drawn(seed: int) -> Space:
    rng = random.Random(seed)

    def choices(size: int) -> Choices:
        units = tuple(sorted(rng.sample(range(1, 9), rng.randint(2, 4))))
        return Choices(units, tuple(rng.uniform(1, 9) for _ in units), size)

    depths = tuple(range(rng.randint(1, 2), rng.randint(2, 3) + 1))
    return Space(
        depths, choices(rng.randint(2, 5)), choices(rng.randint(1, 3)),
        rng.random(), rng.randint(0, 20), rng.randint(0, 3),
    )  # fmt: skip


def everything(space: Space):
    """Size and cost of every subnet, one by one."""
    for depth in space.depths:
        for heads in itertools.product(range(len(space.heads.units)), repeat=depth):
            for ffn in itertools.product(range(len(space.ffn.units)), repeat=depth):
                size = space.fixed_size + depth * space.layer_size
                size += space.heads.size * sum(space.heads.units[i] for i in heads)
                size += space.ffn.size * sum(space.ffn.units[i] for i in ffn)
                cost = space.fixed_cost + sum(space.heads.costs[i] for i in heads)
                yield size, cost + sum(space.ffn.costs[i] for i in ffn)


@pytest.mark.parametrize("seed", range(12))
def test_the_exact_search_equals_trying_everything(seed):
    space, rng = drawn(seed), random.Random(seed)
    all_of_them = list(everything(space))
    sizes = sorted(s for s, _ in all_of_them)
    for _ in range(6):
        low, high = sorted(rng.choices(range(sizes[0] - 3, sizes[-1] + 3), k=2))
        best = min((c for s, c in all_of_them if low <= s <= high), default=None)
        found = least(space, low, high)
        assert (found is None) == (best is None)
        if found is not None:
            assert found.cost == pytest.approx(best, rel=1e-12)
            assert low <= found.size <= high


@pytest.mark.parametrize("seed", range(4))
def test_no_subnet_beats_the_front(seed):
    space = drawn(seed)
    all_of_them = list(everything(space))
    front = Tables(space).front(sorted({s for s, _ in all_of_them}), 1.0)
    assert [f.cost for f in front] == sorted((f.cost for f in front), reverse=True)
    for size, cost in all_of_them:
        assert any(f.size >= size and f.cost <= cost * (1 + 1e-12) for f in front)


# --- in a model ---------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["tpot", "latency", "memory"])
def test_in_a_small_model_it_equals_compiling_every_subnet(metric):
    model, budget, spend = small(), 0.7, 0.9
    given = {"T": 4096} if metric == "tpot" else {"S": 16, "N": 2000}
    options = f"budget={budget},spend={spend},metric={metric},heads=0.5-1,heads-step=0.5"
    options += ",ffn=0.25-1,ffn-step=0.375,depth=2-3,at-batch=8"
    options += ",at-context=4096" if metric == "tpot" else ",at-prompt=16,at-tokens=2000"
    found = compiled(f"search-subnet{{{options}}}", model)
    total = parameters(compiled("", model).program)
    value = getattr(found, metric).evaluate(B=8, **given)
    least_value = math.inf
    heads, widths = ("1/2", "1"), ("1/4", "5/8", "1")
    # Layers are alike: which of them keeps what makes no difference.
    kinds = list(itertools.product(heads, widths))
    for depth in (2, 3):
        for chosen in itertools.combinations_with_replacement(kinds, depth):
            filled = [*chosen, *[("1", "1")] * (3 - depth)]
            size = _size(model, chosen)
            if not spend * budget * total <= size <= budget * total:
                continue
            passes = "shrink{{heads={},ffn={}{}}}".format(
                "|".join(a for a, _ in filled), "|".join(m for _, m in filled),
                ",drop=2" if depth == 2 else "",
            )  # fmt: skip
            one = compiled(passes, model)
            assert parameters(one.program) == size
            least_value = min(least_value, getattr(one, metric).evaluate(B=8, **given))
    assert value == pytest.approx(least_value, rel=1e-9)
    assert spend * budget * total <= parameters(found.program) <= budget * total


def _size(model, chosen) -> int:
    d, width, vocabulary = (model[n] for n in ("hidden_size", "intermediate_size", "vocab_size"))
    share = {"1/4": 0.25, "1/2": 0.5, "5/8": 0.625, "1": 1.0}
    layers = sum(share[a] * 4 * d * d + share[m] * 3 * d * width + 2 * d for a, m in chosen)
    return int(layers) + 2 * vocabulary * d + d


#: Percent of the parameters to depths and least shares (arXiv 2409.17372).
ROWS = {90: (32, 0.9, 0.6), 80: (32, 0.8, 0.4), 70: (30, 0.3, 0.2), 60: (28, 0.6, 0.1),
        50: (28, 0.6, 0.1)}  # fmt: skip


def test_rows_of_the_paper_are_drawn_from_its_spaces():
    """LLaMA-7B at 90 to 50 %: sizes within the budget, times that fall with it."""
    whole = compiled("")
    total, times = parameters(whole.program), []
    for percent, (depth, heads, ffn) in ROWS.items():
        made = compiled(f"search-subnet{{budget={percent / 100}}}")
        assert 0.99 * percent / 100 <= parameters(made.program) / total <= percent / 100
        times.append(made.tpot.evaluate(B=1, T=1024))
        layers = 0
        for tensor, count in made.program.weights():
            if tensor.name == "o_proj.weight":
                layers += int(count)
                assert tensor.shape[1] >= math.floor(heads * 32 + 0.5) * 128
            if tensor.name == "up_proj.weight":
                assert tensor.shape[0] >= ffn * 11008 - 32
                assert tensor.shape[0] % 64 == 0
        assert depth <= layers <= 32
    assert times == sorted(times, reverse=True)
    assert times[0] < whole.tpot.evaluate(B=1, T=1024)


def test_attention_goes_first_where_contexts_are_long():
    """Heads carry the cache besides their weights, widths do not."""
    near, far = (
        compiled(f"search-subnet{{budget=0.8,at-context={t},heads=0.5-1,at-batch=16}}")
        for t in (2, 2048)
    )

    def heads(made) -> int:
        weights = made.program.weights()
        return sum(int(t.shape[1] * n) for t, n in weights if t.name == "o_proj.weight")

    assert heads(far) <= heads(near)
    at = {"B": 16, "T": 2048}
    assert far.tpot.evaluate(**at) <= near.tpot.evaluate(**at)


def test_evolution_stays_in_the_space_and_never_beats_the_exact_search():
    options = "budget=0.7,spend=0.9,heads=0.5-1,heads-step=0.25,ffn=0.25-1,ffn-step=0.25"
    exact = compiled(f"search-subnet{{{options}}}", small())
    found = compiled(
        f"search-subnet{{{options},method=evolution,population=6,generations=2}}", small()
    )
    again = compiled(
        f"search-subnet{{{options},method=evolution,population=6,generations=2}}", small()
    )
    assert found.passes == again.passes
    total = parameters(compiled("", small()).program)
    assert 0.63 * total <= parameters(found.program) <= 0.7 * total
    at = {"B": 1, "T": 1024}
    assert exact.tpot.evaluate(**at) <= found.tpot.evaluate(**at) * (1 + 1e-9)


@pytest.mark.parametrize("model", ["gemma-2-2b", "llama-3-8b"])
def test_other_models_are_searched(model):
    made = compiled(
        "search-subnet{budget=0.8,spend=0.95,population=4,generations=1,ffn=0.3-1,heads=0.5-1}",
        model,
    )
    share = parameters(made.program) / parameters(compiled("", model).program)
    assert 0.76 <= share <= 0.8
    assert "search-subnet" in made.program.assumptions[-1]


def test_what_was_found_is_a_shrink_that_the_assumptions_spell_out():
    made = compiled("search-subnet{budget=0.8},fuse")
    assert made.passes[0].spec() == "search-subnet"  # the budget is the default
    (note,) = [a for a in made.program.assumptions if a.startswith("search-subnet")]
    shrink = made.passes[0].chosen.spec()
    assert shrink in note
    assert len(shrink) < 200
    again = compiled(f"{shrink},fuse")
    assert again.program.graph.cost == made.program.graph.cost
    assert parameters(again.program) == parameters(made.program)


def test_a_shrink_beside_it_comes_after_whatever_the_order():
    a, b = (
        compiled(text)
        for text in ("search-subnet,shrink{hidden=1/2}", "shrink{hidden=1/2},search-subnet")
    )
    assert a.program.phases == b.program.phases
    c = cg.compile(b.program, ON, "page-kv")  # from what the program remembers: as decided

    def found(made):
        return [s.made_by.chosen for s in made.trace.steps if s.made_by.name == "search-subnet"]

    assert found(c) == found(b)
    assert found(b)[0] is not None


@pytest.mark.parametrize(
    ("passes", "words"),
    [
        ("search-subnet{budget=0.01}", "no subnet of the space has"),
        ("search-subnet{depth=40}", "depth = 40 of 32 layers"),
        ("search-subnet{heads=1-0.5}", "ends before it starts"),
        ("search-subnet{ffn=0.5-2}", "at most 1"),
        ("search-subnet{metric=flops}", "tpot"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(passes, words):
    with pytest.raises(InputError, match=words) as error:
        compiled(passes)
    assert "\n" not in str(error.value)


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(InputError, match="no attention heads"):
        compiled("search-subnet", "mamba-130m")
