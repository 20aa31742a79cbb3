"""Life of a cache: prefixes found and shared, turns of a chat, caches that cross a link.

Everything by hand, to the byte and the FLOP: Llama-3.1-8B keeps 131,072 byte a token.
"""

from __future__ import annotations

from functools import cache

import pytest
from sympy import Integer, Rational, binomial, expand

import costgraph as cg
from costgraph.counting.count import rows
from costgraph.errors import CostgraphError, InputError, PipelineError
from costgraph.ir.tensor import Role
from costgraph.symbols import B, N, S, T, q, symbol

MODEL, HOST = "llama-3.1-8b", "h100+epyc-9654"
TOKEN = 2 * 32 * 8 * 128 * 2
SEEING = "qwen2-vl-7b"


@cache
def made(passes: str, model: str = MODEL, device: str = HOST):
    return cg.compile(model, device, passes)


def cost(compiled, phase: str, **values: int):
    """The exact cost of one step of a phase at sizes."""
    chosen = compiled.program.phase(phase)
    at = {symbol(k): Integer(v) for k, v in values.items()}
    return chosen.graph.cost.mapped(lambda e: chosen.bind(e).xreplace(at))


def flops(compiled, **values: int):
    """FLOP of a whole request, exactly."""
    at = {symbol(k): Integer(v) for k, v in values.items()}
    total = Integer(0)
    for phase in compiled.program.phases:
        one = phase.bind(phase.graph.cost.total_flops)
        if phase.span is None:
            total += one.xreplace(at)
            continue
        first, last = (int(e.xreplace(at)) for e in (phase.span.lower, phase.span.upper))
        total += sum(one.xreplace({**at, T: Integer(t)}) for t in range(first, last + 1))
    return total


def row_of_logits(compiled):
    """FLOP of a step over no positions: what its one row of logits takes."""
    step = compiled.program.phase("decode").graph.cost.total_flops
    return step.xreplace({B: Integer(1), q: Integer(0), T: Integer(0)})


# --- prefixes that are found ------------------------------------------------------------


def test_a_hit_and_what_it_spares_are_the_whole_prompt():
    plain, hit = made(""), made("prefix-cache{tokens=300}")
    whole, rest = (cost(c, "prefill", B=1, S=1000).total_flops for c in (plain, hit))
    assert whole - rest == cost(plain, "prefill", B=1, S=300).total_flops - row_of_logits(plain)
    # The rows that were found are read, and those that are new written.
    read = cost(made("fuse,prefix-cache{tokens=300}"), "prefill", B=2, S=1000)
    assert read.bytes_of(Role.KV) == 2 * TOKEN * (1000 + 700)


def test_a_share_of_zero_is_the_plain_prompt_and_a_symbol_stays_one():
    plain, hit = made("fuse"), made("fuse,prefix-cache{share=h}")
    h = symbol("h")
    for metric, rest in (("ttft", {}), ("latency", {"N": 9}), ("memory", {"N": 9})):
        a, b = getattr(plain, metric), getattr(hit, metric)
        at = {symbol(k): Integer(v) for k, v in {"B": 3, "S": 700, **rest}.items()}
        none = b.expr.xreplace({h: Integer(0)})
        assert float(none.xreplace(at)) == pytest.approx(float(a.expr.xreplace(at)), rel=1e-12)
    new = hit.program.phase("prefill").bind(q)
    assert new.xreplace({h: Integer(0)}) == S
    assert hit.tpot.expr == plain.tpot.expr
    half = made("fuse,prefix-cache")
    assert hit.ttft.evaluate(B=1, S=800, h=0.5) == pytest.approx(half.ttft.evaluate(B=1, S=800))


def row_costs(compiled, **values: int):
    """FLOP and bytes of every operation of a prompt, weights apart."""
    chosen = compiled.program.phase("prefill")
    at = {symbol(k): Integer(v) for k, v in values.items()}
    found = {}
    for row in rows(chosen.graph):
        one = row.cost.mapped(lambda e: chosen.bind(e).xreplace(at))
        weights = one.bytes_of(Role.WEIGHT)
        moved = (one.total_bytes - weights) * row.count
        found[row.node.name] = (one.total_flops * row.count, moved, weights)
    return found


@pytest.mark.parametrize(
    "passes",
    ["", "fuse", "quantize{kv=int8},fuse", "quantize{weights=int8,activations=int8,dynamic=false}"],
)
@pytest.mark.parametrize("chance", [Rational(1, 4), Rational(2, 3)])
def test_hits_and_misses_of_a_batch_are_a_mean_over_all_that_can_come(passes, chance):
    """Each of three prompts hits on its own: sums over 0 … 3 hits, by their chances.

    Where ``k`` prompts of a batch hit, they and the others are as batches of their own, but
    for weights, which are read once.
    """
    count, given = 3, {"B": 1, "S": 640}
    each = passes + "," if passes else ""
    hit, miss = (row_costs(made(f"{each}prefix-cache{{tokens={t}}}" if t else passes), **given)
                 for t in (384, 0))  # fmt: skip
    mean = row_costs(
        made(f"{each}prefix-cache{{tokens=384,chance={chance}}}"), B=count, S=given["S"]
    )
    assert mean.keys() == hit.keys() == miss.keys()
    for name, (flop, moved, weights) in mean.items():
        for at, found in ((0, flop), (1, moved)):
            expected = sum(
                binomial(count, k) * chance**k * (1 - chance) ** (count - k)
                * (k * hit[name][at] + (count - k) * miss[name][at])
                for k in range(count + 1)
            )  # fmt: skip
            # Of tables, weights or not, those rows are read that the mean prompt asks for.
            if at == 0 or not ("embed" in name or "rope" in name):
                assert found == expected, (name, at)
        if "embed" not in name:
            assert weights == miss[name][2]


@pytest.mark.parametrize(
    ("model", "passes", "bent"),
    [
        (MODEL, "", set()),
        (MODEL, "select{block=16,blocks=4}", {"page_append"}),
        (MODEL, "quantize{kv=int4,kv-recent=32}", {"k_append", "v_append"}),
        ("granite-4.0-h-micro", "", {"scan"}),
        ("kimi-k2", "", {"expert_gate", "expert_up", "expert_down"}),
    ],
)
def test_what_is_of_the_mean_prompt_is_named_and_nothing_else_is(model, passes, bent):
    """Of one prompt by chance: all else is the mean of hit and miss, weights and all."""
    found, head = [], "prefix-cache: of the mean tokens by chance: "
    for more in ("prefix-cache{tokens=77,chance=1/3}", "prefix-cache{tokens=77}", ""):
        program = made(",".join(p for p in (passes, more) if p), model, "h100").program
        phase, at = program.phase("prefill"), {B: Integer(1), S: Integer(200)}
        said = [a.removeprefix(head) for a in program.assumptions if a.startswith(head)]
        assert {n for a in said for n in a.split(", ")} == (bent if "chance" in more else set())
        found.append({
            r.node.name: r.cost.mapped(lambda e, p=phase, at=at: p.bind(e).xreplace(at))
            for r in rows(phase.graph)
        })  # fmt: skip

    def amounts(one):
        return (one.total_flops, *(one.bytes_of(role=r) for r in Role))

    mean, hit, miss = found
    other = {
        name
        for name in mean
        for a, b, c in zip(*(amounts(x[name]) for x in found), strict=True)
        if a != (b + 2 * c) / 3
    }
    assert mean.keys() == hit.keys() == miss.keys()
    assert other == bent


def test_hits_by_a_symbol_lie_between_none_and_all():
    hit, h = made("fuse,prefix-cache{share=1/2,chance=h}"), symbol("h")
    for chance, passes in ((0, "fuse"), (1, "fuse,prefix-cache")):
        for phase in ("prefill", "decode"):
            a, b = (cost(c, phase, B=2, S=512, T=600).total_flops for c in (hit, made(passes)))
            assert expand(a.xreplace({h: Integer(chance)})) == b
    assert any("each on its own" in a for a in hit.program.assumptions)
    # Attention of the mean prompt would be more than the mean attention.
    pairs = {c: cost(made(f"fuse,prefix-cache{{tokens=256,chance={c}}}"), "prefill", B=1, S=512)
             for c in ("1/2", "1")}  # fmt: skip
    alike = cost(made("fuse,prefix-cache{tokens=128}"), "prefill", B=1, S=512)
    assert pairs["1"].total_flops < pairs["1/2"].total_flops < alike.total_flops


@pytest.mark.parametrize("model", ["mistral-7b", "gemma-3-27b-text"])
def test_hits_of_windows_are_refused_by_chance_alone(model):
    assert cg.compile(model, "h100", "prefix-cache").ttft.evaluate(B=1, S=100) > 0
    with pytest.raises(PipelineError, match="chance: hits and misses see other rows"):
        cg.compile(model, "h100", "prefix-cache{chance=1/2}")


@pytest.mark.parametrize(("tokens", "block", "found"), [(100, 16, 96), (15, 16, 0), (100, 1, 100)])
def test_whole_blocks_are_found(tokens, block, found):
    compiled = made(f"prefix-cache{{tokens={tokens},block={block}}}")
    assert compiled.program.phase("prefill").bind(q).subs(S, 500) == 500 - found
    share = made(f"prefix-cache{{share=1/5,block={block}}}").program.phase("prefill")
    assert share.bind(q).xreplace({S: Integer(500)}) == 500 - 100 // block * block


def test_no_token_is_found_where_none_is_said():
    none = made("fuse,prefix-cache{tokens=0}")
    assert none.program.phases == made("fuse").program.phases
    assert any("nothing is found" in line for line in none.undone)


@pytest.mark.parametrize(
    ("passes", "model", "words"),
    [
        ("prefix-cache", "mamba-130m", "prefix-cache: states are kept"),
        ("share-prefix", "jamba-v0.1", "share-prefix: states are kept"),
        ("snap-kv,prefix-cache", MODEL, "those rows are there that stayed"),
        ("evict,prefix-cache", MODEL, "those rows are there that stayed"),
    ],
)
def test_what_a_hit_finds_is_said_where_it_is_not_every_row(passes, model, words):
    assert any(words in line for line in made(passes, model).assumptions)
    plain = made(passes.split(",")[-1])
    assert not any(words in line for line in plain.assumptions)


def test_the_last_token_is_always_computed():
    with pytest.raises(InputError, match="the last token of a prompt is computed"):
        made("prefix-cache{tokens=300}").ttft.evaluate(B=1, S=300)
    assert made("prefix-cache{tokens=300}").ttft.evaluate(B=1, S=301) > 0


# --- reloading against recomputing -------------------------------------------------------


def test_every_row_that_was_found_crosses_the_link_once():
    away = cost(made("prefix-cache{tokens=300,kept=host}"), "prefill", B=4, S=1000)
    assert away.bytes_of(level="ddr") == 4 * 300 * TOKEN
    near = cost(made("prefix-cache{tokens=300}"), "prefill", B=4, S=1000)
    assert away.bytes_of(level="memory") - near.bytes_of(level="memory") == 4 * 300 * TOKEN
    assert away.total_flops == near.total_flops


def test_without_overlap_the_link_comes_on_top_and_with_it_the_longer_counts():
    first, near, late = (
        made(f"fuse,prefix-cache{{tokens=900{o}}}")
        for o in (",kept=host", "", ",kept=host,overlap=false")
    )
    t = {k: c.ttft.evaluate(B=1, S=1000) for k, c in (("o", first), ("n", near), ("l", late))}
    link = float(900 * TOKEN / made("").bound.links["pcie"].bandwidth)
    assert t["l"] == pytest.approx(t["n"] + link)
    assert max(t["n"], link) <= t["o"] <= t["l"]


def test_from_which_context_on_reloading_is_faster_than_recomputing():
    plain = made("fuse", "llama-2-7b").ttft
    reload = made("fuse,prefix-cache{tokens=p,kept=host,overlap=false}", "llama-2-7b").ttft
    p = symbol("p")
    again, kept = (f.bind(B=1).substitute({S: p + 64}) for f in (plain, reload))
    (found,) = cg.wins(again, kept, "p")
    edge = int(found.lower)
    assert edge == 577
    assert again.evaluate(p=edge) < kept.evaluate(p=edge)
    assert again.evaluate(p=edge + 1) > kept.evaluate(p=edge + 1)


# --- prefixes that are shared ------------------------------------------------------------


@pytest.mark.parametrize(("requests", "groups"), [("batch", 1), ("4", 2), ("8", 1), ("3", 3)])
def test_a_shared_prefix_is_kept_and_read_once_by_hand(requests, groups):
    once = made(f"fuse,share-prefix{{tokens=300,requests={requests}}}")
    each = made(f"fuse,share-prefix{{tokens=300,requests={requests},read=each}}")
    rows = 8 * 400 - (8 - groups) * 300
    for compiled, read in ((once, rows), (each, 8 * 400)):
        step = compiled.breakdown("decode", B=8, T=400)
        assert step.totals["kv_bytes"] == rows * TOKEN
        moved = cost(compiled, "decode", B=8, T=400)
        assert moved.bytes_of(Role.KV) == (read + 8) * TOKEN
    assert (
        cost(once, "decode", B=8, T=400).total_flops
        == cost(made("fuse"), "decode", B=8, T=400).total_flops
    )
    prefix = cost(once, "prefix", B=8, S=400)
    assert prefix.total_flops == cost(made("fuse"), "prefill", B=groups, S=300).total_flops
    rest = cost(once, "prefill", B=8, S=400)
    hit = cost(made("fuse,prefix-cache{tokens=300}"), "prefill", B=8, S=400)
    assert rest.total_flops == hit.total_flops
    assert hit.bytes_of(Role.KV) - rest.bytes_of(Role.KV) == (8 - groups) * 300 * TOKEN


def test_only_whole_blocks_are_shared():
    paged = made("fuse,page-kv{block=16},share-prefix{tokens=300}")
    step = paged.breakdown("decode", B=8, T=400)
    assert step.totals["kv_bytes"] == (8 * 400 - 7 * 288) * TOKEN
    assert paged.program.phase("prefix").bind(T) == 288
    alone = made("fuse,page-kv{block=16},share-prefix{tokens=300,read=each}")
    table = 32 * 8 * 25 * 4
    read = (8 * 400 + 8) * TOKEN
    assert cost(alone, "decode", B=8, T=400).bytes_of(Role.KV) == read
    assert (
        cost(alone, "decode", B=8, T=400).total_bytes
        - cost(made("fuse,share-prefix{tokens=288,read=each}"), "decode", B=8, T=400).total_bytes
        == table
    )


def test_one_request_and_no_prefix_are_the_plain_model():
    plain, p = made("fuse"), symbol("p")
    shared = made("fuse,share-prefix{tokens=p,prompt=cached}")
    for metric in ("tpot", "flops", "bytes"):
        a, b = getattr(plain, metric), getattr(shared, metric)
        at = {"B": 4, "T": 500, "S": 300, "N": 8}
        names = {s.name for s in a.symbols}
        given = {k: v for k, v in at.items() if k in names}
        none = b.expr.xreplace({p: Integer(0)}).xreplace(
            {symbol(k): Integer(v) for k, v in given.items()}
        )
        assert float(none) == pytest.approx(float(a.evaluate(**given)), rel=1e-12)
    alone = shared.tpot.evaluate(B=1, T=500, p=200)
    assert alone == pytest.approx(plain.tpot.evaluate(B=1, T=500))
    assert made("fuse,share-prefix{requests=1}").program.phases == plain.program.phases
    assert "no whole block" in made("fuse,page-kv,share-prefix{tokens=15}").undone[-1]


def test_windows_do_not_share_and_say_so():
    found = made("fuse,share-prefix", "gemma-2-2b")
    assert any("its cache keeps window 4096" in line for line in found.undone)
    latent = made("fuse,share-prefix{tokens=300}", "deepseek-v2-lite")
    each = 27 * (512 + 64) * 2
    assert latent.breakdown("decode", B=8, T=400).totals["kv_bytes"] == (8 * 400 - 7 * 300) * each


def test_rows_of_blocks_are_each_requests_own_and_it_says_so():
    made = cg.compile("gpt2", "h100", "nsa,share-prefix{tokens=64}")
    (said,) = {u for u in made.setting.not_done if u.at == "nsa_k_compress"}
    assert said.reason == "rows that it makes of others are kept and read for each request"


def test_replicas_share_their_own_copy():
    two = made("fuse,parallel{dp=2},share-prefix{tokens=300}", MODEL, "2xh100")
    half = made("fuse,share-prefix{tokens=300}")
    a = two.breakdown("decode", B=8, T=400).totals["kv_bytes"]
    assert a == half.breakdown("decode", B=4, T=400).totals["kv_bytes"]
    assert two.program.phase("prefix").bind(B) == 1


# --- turns -------------------------------------------------------------------------------


def test_turns_that_keep_their_cache_compute_every_position_once():
    plain, chat = made(""), made("turns{count=2,say=20}")
    whole = flops(plain, B=1, S=100 + 8 + 20, N=8)
    # Rows of logits of the first turn come on top: one a token of its answer.
    assert flops(chat, B=1, S=100, N=8) == whole + 8 * row_of_logits(plain)


def test_turns_that_recompute_are_requests_of_their_own():
    plain, chat = made("fuse"), made("fuse,turns{between=recomputed,say=20}")
    parts = [plain.latency.evaluate(B=2, S=s, N=8) for s in (100, 128, 156)]
    assert chat.latency.evaluate(B=2, S=100, N=8) == pytest.approx(sum(parts))
    assert chat.memory.evaluate(B=2, S=100, N=8) == plain.memory.evaluate(B=2, S=156, N=8)


def test_turns_that_reload_bring_back_every_row_but_the_last():
    chat = made("turns{count=3,say=20,between=reloaded}")
    for turn, kept in ((2, 100 + 7), (3, 100 + 28 + 7)):
        moved = cost(chat, f"turn{turn}-prefill", B=2, S=100, N=8)
        assert moved.bytes_of(level="ddr") == 2 * kept * TOKEN
        assert chat.program.phase(f"turn{turn}-prefill").bind(q) == 21
    kept = made("turns{count=3,say=20}")
    assert kept.latency.evaluate(B=2, S=100, N=8) < chat.latency.evaluate(B=2, S=100, N=8)


def test_a_chat_is_its_turns():
    plain, chat = made("fuse"), made("fuse,turns{count=3,say=u}")
    assert chat.program.generated == 3 * N
    assert chat.program.after_first == 3 * N - 1
    assert chat.ttft.expr == plain.ttft.expr
    at = {"B": 1, "S": 50, "N": 4, "u": 6}
    prompts = (chat.time(p.name) for p in chat.program.phases if p.span is None)
    parts = sum(f.evaluate(**{x.name: at[x.name] for x in f.symbols}) for f in prompts)
    steps = chat.latency.evaluate(**at) - parts
    by_hand = sum(plain.tpot.evaluate(B=1, T=t) for s in (50, 60, 70) for t in range(s + 1, s + 4))
    assert steps == pytest.approx(by_hand)
    (column, other) = cg.compare(
        MODEL, HOST, ["fuse", "fuse,turns{count=3,say=6}"], B=1, S=50, N=4
    ).columns
    assert other.tpot == pytest.approx(by_hand / 9)
    assert column.ttft == other.ttft


def test_answers_of_one_token_have_no_time_per_token():
    (column,) = cg.compare(MODEL, HOST, ["fuse,turns{count=2}"], B=1, S=50, N=1).columns
    assert (column.tpot, column.tpot_bound) == (None, None)
    assert column.latency > column.ttft > 0


def test_rounds_of_a_draft_go_through_turns_as_well():
    chat = made("fuse,turns{count=2},speculative{gamma=2}", "llama-2-7b")
    assert [p.name for p in chat.program.phases][3:] == [
        f"turn2-{n}" for n in ("prefill", "draft", "verify")
    ]


# --- images, and prompts that grow ----------------------------------------------------------


@cache
def blind(passes: str):
    return cg.compile(SEEING, HOST, passes, images=False)


def test_images_in_front_of_what_is_new_are_not_encoded():
    """A prompt behind cached tokens is that of text, whether these or the new ones hold images."""
    text = blind("prefix-cache{tokens=600}")
    at = {"B": 2, "G": 400, "S": 1000}
    for where, towers in (("new", ["vision"]), ("found", [])):
        seen = made(f"prefix-cache{{tokens=600,images={where}}}", SEEING)
        assert [p.name for p in seen.program.phases] == [*towers, "prefill", "decode"]
        one, other = (cost(c, "prefill", **at) for c in (seen, text))
        assert one.total_flops == other.total_flops
        rows = 0 if where == "found" else 2 * 2 * 400 * 3584 * 2  # read and put in their places
        assert one.total_bytes == other.total_bytes + rows
        assert any("none is encoded" in a for a in seen.assumptions) == (where == "found")
    plain, hit = made("", SEEING), made("prefix-cache{tokens=600}", SEEING)
    assert hit.time("vision").expr == plain.time("vision").expr


@pytest.mark.parametrize("where", ["new", "found"])
def test_images_of_prompts_that_find_nothing_are_encoded(where):
    """The work of a batch of which some hit is the mean of that of hits and misses."""
    passes = f"prefix-cache{{tokens=600,images={where}"
    at = {"B": 4, "G": 400, "S": 1000, "N": 1}
    hit, miss = (flops(made(p, SEEING), **at) for p in (f"{passes}}}", ""))
    for chance in ("1/4", "1/2"):
        some = made(f"{passes},chance={chance}}}", SEEING)
        assert flops(some, **at) == miss + Rational(chance) * (hit - miss)
        assert [p.name for p in some.program.phases] == ["vision", "prefill", "decode"]
        assert not any("none is encoded" in a for a in some.assumptions)
    parted = made(f"{passes},chance=1/2}},parallel{{dp=2}}", SEEING, "2xh100")
    assert parted.ttft(B=2, G=400, S=1000) > 0


@pytest.mark.parametrize(
    ("passes", "room", "words"),
    [
        ("prefix-cache{tokens=600}", 400, "images stand behind the tokens that are found"),
        ("prefix-cache{tokens=600,images=found}", 600, "images are among the tokens"),
        ("share-prefix{tokens=600}", 400, "images stand behind the shared tokens"),
    ],
)
def test_images_have_their_place_in_a_prompt(passes, room, words):
    ttft = made(passes, SEEING).ttft
    assert ttft.evaluate(B=2, S=1000, G=room) > 0
    with pytest.raises(InputError, match=words):
        ttft.evaluate(B=2, S=1000, G=room + 4)


def test_a_shared_prefix_of_requests_with_images_is_text():
    seen, text = made("share-prefix{tokens=600}", SEEING), blind("share-prefix{tokens=600}")
    at = {"B": 2, "G": 400, "S": 1000}
    one, other = (cost(c, "prefix", **at) for c in (seen, text))
    assert (one.flops, one.total_bytes) == (other.flops, other.total_bytes)
    tower = cost(seen, "vision", **at).total_flops
    assert flops(seen, N=20, **at) - flops(text, N=20, **at) == tower


@pytest.mark.parametrize("between", ["kept", "reloaded", "recomputed"])
def test_a_chat_looks_at_its_images_once_unless_it_computes_all_anew(between):
    passes = f"turns{{count=3,say=50,between={between}}}"
    seen, text = made(passes, SEEING), blind(passes)
    at = {"B": 2, "G": 400, "S": 1000, "N": 30}
    vision = cost(seen, "vision", **at).total_flops
    times = 3 if between == "recomputed" else 1
    assert flops(seen, **at) == flops(text, **at) + times * vision
    names = [p.name for p in seen.program.phases]
    assert ("turn2-vision" in names) == (between == "recomputed")


def test_prompts_that_grow_are_found_and_shared_and_go_on():
    """Of 1,000 tokens, 500 of passages and the landmarks behind both a half is found."""
    for order in ("retrieve,landmark{block=10}", "landmark{block=10},retrieve"):
        hit = made(f"{order},prefix-cache")
        assert [p.name for p in hit.program.phases] == ["retrieve", "prefill", "decode"]
        prompt = hit.program.phase("prefill")
        assert prompt.bind(q).xreplace({S: Integer(1000)}) == 1650 / Integer(2)
        assert prompt.bind(T).xreplace({S: Integer(1000)}) == 1650
    shared = made("retrieve,share-prefix{tokens=64}")
    assert [p.name for p in shared.program.phases] == ["retrieve", "prefix", "prefill", "decode"]
    assert shared.program.phase("prefill").bind(q) == S + 500 - 64
    chat = made("retrieve,turns{count=3,say=50}").program
    assert [p.name for p in chat.phases].count("retrieve") == 1
    assert chat.phase("turn3-prefill").bind(q) == 51
    assert expand(chat.phase("turn3-prefill").bind(T) - (S + 500 + 2 * (N + 50))) == 0
    marked = made("landmark{block=10},turns{count=2,say=50}").program.phase("turn2-prefill")
    assert expand(marked.bind(q) - (51 + (N + 50) / 10)) == 0  # and landmarks of the answer


# --- two machines ------------------------------------------------------------------------


def test_a_cache_crosses_its_link_to_the_byte():
    plain, apart = made("fuse"), made("fuse,disaggregate{link=pcie,overlap=false}")
    sent = cost(apart, "transfer", B=3, S=1000)
    assert sent.total_wire == 3 * 1000 * TOKEN
    assert sent.bytes_of(Role.KV) == 3 * 1000 * TOKEN
    rate = made("").bound.links["pcie"].bandwidth
    gap = apart.ttft.evaluate(B=3, S=1000) - plain.ttft.evaluate(B=3, S=1000)
    assert gap == pytest.approx(float(3 * 1000 * TOKEN / rate))
    assert apart.tpot.expr == plain.tpot.expr
    beside = made("fuse,disaggregate{link=pcie}")
    assert cost(beside, "prefill", B=3, S=1000).total_wire == 3 * 1000 * TOKEN
    assert beside.ttft.evaluate(B=3, S=1000) <= apart.ttft.evaluate(B=3, S=1000)


def test_narrow_caches_windows_and_states_send_what_they_keep():
    narrow = made("quantize{kv=int8},disaggregate{link=pcie,overlap=false}")
    assert cost(narrow, "transfer", B=1, S=100).total_wire < 100 * TOKEN * Rational(6, 10)
    window = made("disaggregate{link=pcie,overlap=false}", "mistral-7b")
    each = 2 * 32 * 8 * 128 * 2
    assert cost(window, "transfer", B=1, S=9000).total_wire == 4096 * each
    state = made("disaggregate{link=pcie,overlap=false}", "mamba-130m")
    assert cost(state, "transfer", B=1, S=10) == cost(state, "transfer", B=1, S=1000)


@pytest.mark.parametrize(
    "model",
    [
        "gpt-oss-20b", "llama-4-scout", "glm-5.2", "gemma-3n-e4b", "jamba-v0.1", "nemotron-h-56b",
        "whisper-small",
    ],
)  # fmt: skip
def test_layer_by_layer_as_much_is_sent_as_in_one_piece(model):
    """Layers in patterns of several kinds, nested, and beside states and other caches."""
    sent = []
    for overlap in ("false", "true"):
        apart = cg.compile(model, "h100", f"disaggregate{{link=pcie,overlap={overlap}}}")
        phases = apart.program.phases
        sent.append(sum(p.bind(p.graph.cost.total_wire) for p in phases))
    at = {B: Integer(2), S: Integer(9001)}
    assert sent[0].xreplace(at) == sent[1].xreplace(at) > 0
    if model == "gpt-oss-20b":  # 12 layers of a window of 128, 12 that see all
        assert sent[1].xreplace(at) == 2 * 12 * (9001 + 128) * 2 * 8 * 64 * 2


@pytest.mark.parametrize(
    ("passes", "model", "words"),
    [
        ("disaggregate", MODEL, "states no link 'network'.*2x"),
        ("disaggregate{link=nvlnk}", MODEL, "did you mean 'nvlink'"),
        ("turns", "t5-base", "must read a whole prompt into a cache"),
        ("prefix-cache", "llama-3.2-11b-vision", "attends to images apart.*images=False"),
        ("turns", "whisper-small", "must read a whole prompt into a cache"),
        ("prefix-cache{images=found}", MODEL, "holds none"),
        ("prefix-cache{images=found},prune-tokens", SEEING, "takes image tokens out of prompts"),
        ("turns,prune-tokens", SEEING, "give between=recomputed"),
        ("prefix-cache{kept=tape}", MODEL, "no memory level 'tape'"),
        ("prefix-cache{kept=host},offload{caches=host}", MODEL, "offload keeps caches elsewhere"),
        ("turns,offload{caches=host}", MODEL, "offload keeps caches elsewhere"),
        ("turns,snap-kv", MODEL, "chosen behind it once.*between=recomputed"),
        ("turns,samples", MODEL, "answers in branches"),
        ("turns,disaggregate{link=pcie}", MODEL, "stays on the machine that decodes"),
        ("page-kv{prefix=16,sharers=2},share-prefix", MODEL, "shares a prefix already"),
        ("prefix-cache,share-prefix", MODEL, "share-prefix: .* must read a whole prompt"),
    ],
)
def test_what_does_not_go_together_is_refused(passes, model, words):
    with pytest.raises(PipelineError, match=words):
        made(passes, model)


@pytest.mark.parametrize("passes", ["turns", "disaggregate{link=pcie}", "prefix-cache"])
def test_no_server_mixes_what_it_does_not_have(passes):
    compiled = made(f"fuse,{passes}")
    with pytest.raises(CostgraphError, match=r"not a request of one server|cached in part"):
        compiled.step(("c", 1, "T"), (1, "C", "P"))
