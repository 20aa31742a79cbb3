"""What writes drafts: parts of the target, heads, copies; what they share, and where it lies."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from sympy import Integer, Rational

import costgraph as cg
from costgraph.counting.count import parameters
from costgraph.errors import CostgraphError, InputError, PipelineError
from costgraph.ir.tensor import MEMORY
from costgraph.models.ahead import FUSING
from costgraph.passes.decoding.sublayers import parse_skipped
from costgraph.symbols import B, G, N, S, T, q

CONFIGS = Path(cg.__file__).parents[1] / "models" / "configs"
AT = {"B": 2, "S": 60, "N": 40, "G": 40, "T": 50}


def at(formula, **other):
    values = AT | other
    return formula.evaluate(**{s.name: values[s.name] for s in formula.symbols})


def compiled(model, options="", on="h200", before="fuse,"):
    return cg.compile(model, on, f"{before}speculative{{{options}}}" if options else before[:-1])


# --- layers without some of their blocks

#: One model of each way in which layers differ, with its attention and feed-forward blocks.
FAMILIES = [
    ("llama-2-7b", 32, 32),
    ("opt-1.3b", 24, 24),
    ("gemma-2-2b", 26, 26),
    ("gemma-3-27b-text", 62, 62),
    ("deepseek-v3", 61, 61),
    ("mixtral-8x7b", 32, 32),
    ("jamba-v0.1", 32, 32),
    ("qwen3-next-80b-a3b", 48, 48),
    ("granite-4.0-h-micro", 40, 40),
    ("recurrentgemma-2b", 26, 26),
    ("gpt-neox-20b", 44, 44),
    ("llava-1.5-7b", 32, 32),
    ("lfm2-1.2b", 16, 16),
    ("t5-base", 12, 12),
]


def matrices(program, layers_only=False):
    """Elements of weights of two dimensions or more, of the draft's step."""
    graph = program.phase("draft").graph
    found = list(graph.weights())
    if layers_only:
        outer = {t.name for t in graph.sources}
        found = [(t, n) for t, n in found if t.name not in outer]
    return sum(int(t.numel * n) for t, n in found if len(t.shape) > 1)


@pytest.mark.parametrize(("model", "attention", "mlp"), FAMILIES)
def test_blocks_left_out_add_up_to_the_layers(model, attention, mlp):
    """Weights without all attention and those without all feed-forward are the layers'."""

    def left(a, m):
        made = compiled(model, f"draft=skip,gamma=1,skip-attention={a},skip-mlp={m}", before="")
        return matrices(made.program, layers_only=True)

    whole = left(0, 0)
    assert left(attention, 0) + left(0, mlp) == whole
    assert 0 < left(attention // 2, 0) < whole
    with pytest.raises(PipelineError, match=f"{attention + 1} blocks; the model has {attention}"):
        left(attention + 1, 0)
    with pytest.raises(PipelineError, match="nothing of the layers is left"):
        left(attention, mlp)


@pytest.mark.parametrize("model", [m for m, *_ in FAMILIES])
def test_a_draft_without_nothing_is_the_target(model):
    plain = compiled(model)
    made = compiled(model, "draft=skip,gamma=1,alpha=1,skip-attention=0,skip-mlp=0")
    assert at(made.time("draft")) == pytest.approx(at(plain.time("decode")), rel=1e-12)
    draft, step = made.program.phase("draft").graph, plain.program.phase("decode").graph
    assert draft.cost.total_flops - step.cost.total_flops == 0


@pytest.mark.parametrize("text", ["10", "l0-9", "l3|5|8-15"])
def test_in_layers_that_are_alike_only_the_number_counts(text):
    made = compiled("llama-2-7b", f"draft=skip,gamma=2,skip-attention={text},skip-mlp=16")
    d, ffn, vocab = 4096, 11008, 32000
    assert matrices(made.program) == 22 * 4 * d * d + 16 * 3 * d * ffn + 2 * d * vocab
    plain = compiled("llama-2-7b")
    assert at(made.memory) < at(plain.memory) * 1.01  # weights and caches are the target's
    held = [t for t, _ in made.program.phase("draft").graph.weights()]
    assert {t.name for t in held} <= {t.name for t, _ in plain.program.graph.weights()}


def test_a_list_of_layers_means_those_layers():
    made = compiled("deepseek-v3", "draft=skip,gamma=1,skip-mlp=l0-2", before="")
    names = {t.name for t, _ in made.program.phase("draft").graph.weights()}
    assert "expert_up.weight" in names
    assert not any(n.startswith(("up_proj", "gate_proj")) for n in names)


def test_numbers_of_blocks_are_spread_over_the_layers():
    skipped = parse_skipped("mlp", "3")
    assert skipped.layers(range(9)) == {1, 4, 7}
    assert parse_skipped("mlp", "").layers(range(9)) == set()
    assert parse_skipped("mlp", "9").layers(range(9)) == set(range(9))


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        ("llama-2-7b", "draft=skip,skip-mlp=x", "neither a number of blocks nor layers such as l3"),
        ("llama-2-7b", "draft=skip,skip-mlp=l5-3", "ends before it starts"),
        ("llama-2-7b", "draft=skip,skip-mlp=l99", "layer 99 has no such block"),
        ("llama-2-7b", "draft=skip,skip-mlp=3,layers=3", "exclude one another"),
        ("llama-2-7b", "draft=heads,skip-mlp=3", "only a 'skip' draft leaves out blocks"),
        ("mamba-130m", "draft=skip,skip-mlp=1", "1 blocks; the model has 0"),
        ("llama-2-7b", "draft=heads,share=vocabulary", "only a draft that is a model of its own"),
        ("llama-2-7b", "draft=opt-125m,share=encoder", "vocabularies"),
        ("llama-2-13b", "draft=llama-2-7b,share=encoder", "do not both decode behind an encoder"),
        ("llama-2-13b", "draft=llama-2-7b,share=vocabulary", "are not like those of llama-2-13b"),
        ("llama-2-13b", "draft=llama-2-7b,share=layers", "'layers' is no part"),
        ("whisper-large-v3", "draft=whisper-tiny,share=encoder", "attends states of 384"),
        ("llama-2-7b", "draft=phrases", "phrases says how many"),
        ("llama-2-7b", "draft=phrases,phrases=9,alpha=1/2", "alpha says nothing about"),
        ("llama-2-7b", "draft=heads,phrases=3", "only draft=phrases has an index"),
        ("llama-2-7b", "draft=lookahead,hit=1/2", "hit says nothing about draft=lookahead"),
        ("llama-2-7b", "draft=eagle,schedule=pearl", "waits for it"),
        ("llama-2-7b", "draft=eagle:no-such-file", "no-such-file"),
        ("llama-2-7b", "draft=copy,target-at=ssd", "no memory level 'ssd'"),
    ],
)
def test_what_means_nothing_is_refused(model, options, words):
    with pytest.raises(InputError, match=words):
        _ = compiled(model, options).tpot


def test_half_the_layers_of_kinds_are_the_first_ones():
    """Half of Qwen3-Next is the first half, in which three of four layers have a state."""
    made = compiled("qwen3-next-80b-a3b", "draft=skip,gamma=1,alpha=9/10", before="")
    counts = [n.op.count for n in made.program.phase("draft").graph.nodes if n.op.kind == "repeat"]
    assert counts == [3, 1] * 6


# --- heads

#: Drafts that hold weights beside the target, which none of its phases may forget.
BESIDE = [
    ("llama-2-7b", "eagle"), ("llama-3.1-8b", "eagle3"), ("deepseek-v3", "mtp"),
    ("qwen3.5-27b", "mtp"), ("llama-2-7b", "heads"), ("llama-2-7b", "blockwise"),
    ("llava-1.5-7b", "eagle"), ("t5-base", "eagle3"), ("gemma-2b", "eagle"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "kind"), BESIDE)
def test_every_phase_holds_target_and_head_once(model, kind):
    plain = compiled(model).program
    made = compiled(model, f"draft={kind},gamma=3").program
    head = made.phase("draft").graph
    borrowed = {"embed.weight", "lm_head.weight"} & {t.name for t, _ in plain.weights()}
    own = [(t, n) for t, n in head.weights() if t.name not in borrowed]
    wanted = sum(number(t.footprint * n) for t, n in (*plain.weights(), *own))
    for phase in made.phases:
        held = sum(number(t.footprint * n) for t, n in phase.weights())
        assert held == wanted, phase.name


def number(expr):
    values = {B: 2, q: 1, T: 9, S: 9, G: 4, N: 3}
    return int(expr.xreplace({s: Integer(v) for s, v in values.items()}))


def test_a_head_reads_the_prompt_before_the_first_token():
    plain, made = compiled("deepseek-v3"), compiled("deepseek-v3", "draft=mtp,gamma=1")
    own = at(made.time("draft-prefill"))
    assert 0 < own < at(plain.ttft) / 20
    assert at(made.ttft) == pytest.approx(at(plain.ttft) + own)
    assert any("reads the prompt" in a for a in made.assumptions)


def test_medusa_and_blockwise_heads_hold_what_the_papers_say():
    d, vocab = 4096, 32000
    heads = compiled("llama-2-7b", "draft=heads,gamma=5").program.phase("draft").graph
    assert parameters(heads) == 5 * (d * d + d + d * vocab)
    assert round(int(parameters(heads)) / 1e6) == 739
    blocks = compiled("llama-2-7b", "draft=blockwise,gamma=4").program.phase("draft").graph
    assert parameters(blocks) == 4 * (8 * d * d + 5 * d) + d * vocab


@pytest.mark.parametrize("gamma", [1, 4])
def test_states_of_the_target_are_fused_once_a_round(gamma):
    made = compiled("llama-3.1-8b", f"draft=eagle3,gamma={gamma}", before="").program
    graph = made.phase("draft").graph
    (node,) = [n for n in graph.nodes if n.name == FUSING]
    once = node.op.body.cost.total_flops
    shares = (n.op.cost(graph.operands(n), n.outputs).total_flops for n in graph.nodes)
    assert once / gamma in shares


def test_a_tree_of_an_eagle3_head_fuses_in_its_first_step():
    made = compiled("llama-3.1-8b", "draft=eagle3,tree=t4|2|2", before="").program
    runs = [
        next(n.op.presence.runs for n in p.graph.nodes if n.name == FUSING)
        for p in made.phases
        if p.name.startswith("draft") and p.span is not None
    ]
    assert runs == [1, 0, 0]


@pytest.mark.parametrize("kind", ["eagle", "eagle3", "heads", "blockwise", "skip,skip-mlp=9"])
def test_heads_go_through_the_passes_of_the_target(kind):
    before = "fuse,page-kv,quantize{preset=w4a16},parallel{tp=8},"
    made = compiled("llama-3.1-8b", f"draft={kind},gamma=3", "8xh200", before)
    alone = compiled("llama-3.1-8b", f"draft={kind},gamma=3", "8xh200")
    assert at(made.tpot) < at(alone.tpot)
    assert at(made.memory) < at(alone.memory)


def test_modules_go_through_the_passes_of_the_target():
    made = compiled("deepseek-v3", "draft=mtp,gamma=1", "8xh200", "fuse,parallel{tp=8},")
    alone = compiled("deepseek-v3", "", "8xh200", "fuse,parallel{tp=8},")
    assert at(alone.memory) < at(made.memory) < 1.03 * at(alone.memory)


# --- heads from files


def head_file(folder: Path, **change) -> Path:
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
        "intermediate_size": 11008, "num_attention_heads": 32, "num_key_value_heads": 32,
        "num_hidden_layers": 1, "vocab_size": 32000, "hidden_act": "silu",
    }  # fmt: skip
    path = folder / "head of mine" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(config | change))
    return path


def test_a_path_to_a_head_is_recognised(tmp_path):
    path = head_file(tmp_path, draft_vocab_size=32000)
    named, bare = (
        compiled("llama-2-7b", f"draft='{word}{path}',gamma=3") for word in ("eagle3:", "")
    )
    usual = compiled("llama-2-7b", "draft=eagle3,gamma=3")
    assert at(named.tpot) == at(bare.tpot) == at(usual.tpot)
    with pytest.raises(PipelineError, match="not of the kind 'eagle'"):
        compiled("llama-2-7b", f"draft='eagle:{path}'")


def test_a_file_that_does_not_say_what_it_is_of_is_named(tmp_path):
    """Published EAGLE heads look like models of one layer."""
    path = head_file(tmp_path)
    head = compiled("llama-2-7b", f"draft='eagle:{path}',gamma=3")
    assert at(head.tpot) == at(compiled("llama-2-7b", "draft=eagle,gamma=3").tpot)
    with pytest.raises(PipelineError, match="eagle:PATH"):  # the class is its target's
        compiled("llama-2-7b", f"draft='{path}',gamma=3")
    config = json.loads(path.read_text())
    del config["architectures"]
    path.write_text(json.dumps(config))
    model = compiled("llama-2-7b", f"draft='{path}',gamma=3")
    assert any("eagle:PATH" in a for a in model.assumptions)


# --- look-ahead tokens, copies


def test_look_ahead_tokens_take_a_pass_of_the_target_and_emit_one_token():
    plain = compiled("llama-2-7b")
    made = compiled("llama-2-7b", "draft=pass,gamma=4,alpha=1/2")
    draft, verify = (at(made.time(p), B=1) for p in ("draft", "verify"))
    expected = 1 + sum(0.5**i for i in range(5))
    assert at(made.tpot, B=1) == pytest.approx((draft + verify) / expected)
    more = parameters(made.program.phase("draft").graph) - parameters(plain.program.graph)
    assert more == 4 * 4096  # O(d) for each
    assert at(made.tpot, B=1) < at(plain.tpot, B=1) < at(made.tpot, B=4096)


def test_a_tied_table_makes_no_logits_for_look_ahead_tokens():
    made, plain = compiled("gemma-2b", "draft=pass,gamma=4"), compiled("gemma-2b")
    assert parameters(made.program.phase("draft").graph) == parameters(plain.program.graph)
    assert at(made.memory) == pytest.approx(at(plain.memory), rel=0.01)


@pytest.mark.parametrize(("hit", "alpha"), [("1/2", "4/5"), ("9/10", "3/10"), ("1", "1")])
def test_copies_cost_nothing_and_come_when_something_matches(hit, alpha):
    made = compiled("llama-2-7b", f"draft=copy,gamma=6,hit={hit},alpha={alpha}")
    h, a = (float(Integer(1) * eval_fraction(x)) for x in (hit, alpha))
    tokens = 1 + h * sum(a**i for i in range(1, 7))
    long = at(made.time("verify"))
    short = at(compiled("llama-2-7b").time("decode"))
    assert at(made.tpot) == pytest.approx((h * long + (1 - h) * short) / tokens, rel=1e-9)
    assert at(made.memory) == pytest.approx(at(compiled("llama-2-7b").memory), rel=0.01)


def eval_fraction(text):
    top, _, bottom = text.partition("/")
    return Integer(top) / Integer(bottom or 1)


def test_expected_tokens_with_a_trigger_match_a_simulation():
    rng, rounds, total = random.Random(5), 100_000, 0
    for _ in range(rounds):
        run = 0
        if rng.random() < 0.6:
            while run < 5 and rng.random() < 0.7:
                run += 1
        total += run + 1
    made = compiled("opt-125m", "draft=copy,gamma=5,hit=3/5,alpha=7/10")
    (verify, plain) = [p for p in made.program.phases if p.span is not None]
    assert verify.weight + plain.weight == 1 / verify.tokens
    assert abs(total / rounds - float(verify.tokens)) < 6 * 2.5 / rounds**0.5


def test_nothing_to_copy_is_plain_decoding():
    plain = compiled("opt-125m")
    for options in ("draft=copy,gamma=5,hit=0", "draft=copy,gamma=0", "draft=copy,hit=0,tree=t4|2"):
        assert at(compiled("opt-125m", options).tpot) == pytest.approx(at(plain.tpot))
    all_right = compiled("opt-125m", "draft=copy,gamma=3,alpha=1")
    assert at(all_right.tpot) == pytest.approx(at(all_right.time("verify")) / 4)


def test_a_store_gives_trees():
    """REST's trie: one pass over all nodes, and a plain step where nothing is found."""
    made = compiled("llama-2-7b", "draft=copy,tree=t4|2|1,hit=1/2,alpha=1/2")
    assert made.program.phase("verify").query == 1 + 4 + 8 + 8
    assert made.program.phase("verify-2").query == 1


@pytest.mark.parametrize("before", ["", "fuse,"])
def test_an_index_of_phrases_is_scored_in_every_step(before):
    """``2·N·d`` FLOP a sequence, logits for the last position alone; what is chosen stands."""
    plain = compiled("opt-125m", "", before=before or "fuse,")
    options = "draft=phrases,phrases=1000000,gamma=3,hit=1/4"
    made = compiled("opt-125m", options, before=before)
    long, _ = (p for p in made.program.phases if p.span is not None)
    assert long.tokens == 1 + Integer(3) / 4
    held = parameters(long.graph) - parameters(plain.program.graph)
    assert held == 10**6 * 768
    (scores,) = [n for n in long.graph.nodes if n.name == "phrase_scores"]
    work = scores.op.cost(long.graph.operands(scores), scores.outputs).total_flops
    assert work == 2 * 10**6 * 768 * B
    assert any("nothing verifies it" in a for a in made.assumptions)


# --- what is shared, and where it lies


@pytest.fixture
def distilled(tmp_path):
    config = json.loads((CONFIGS / "whisper-large-v3.json").read_text())
    path = tmp_path / "distil-large-v3.json"
    path.write_text(json.dumps(config | {"decoder_layers": 2}))
    return path


def test_a_distilled_decoder_shares_the_encoder(distilled):
    assert round(int(parameters(cg.load_model(distilled))) / 1e6) == 756  # as published
    plain = compiled("whisper-large-v3")
    apart, shared, both = (
        compiled("whisper-large-v3", f"draft='{distilled}'{more}")
        for more in ("", ",share=encoder", ",share=encoder|vocabulary")
    )
    assert at(apart.tpot) == at(shared.tpot) == at(both.tpot) < at(plain.tpot)
    assert at(plain.ttft) < at(shared.ttft) < 1.1 * at(plain.ttft) < at(apart.ttft)
    assert at(plain.memory) < at(both.memory) < at(shared.memory) < at(apart.memory)
    held = [sum(number(t.footprint * n) for t, n in p.weights()) for p in both.program.phases]
    assert len(set(held)) == 1
    vocabulary = 2 * 51866 * 1280
    alone = [sum(number(t.footprint * n) for t, n in p.weights()) for p in shared.program.phases]
    assert {a - h for a, h in zip(alone, held, strict=True)} == {vocabulary}


def test_weights_in_farther_memory_are_read_over_the_link():
    """LLMCad: the small model is resident, the large one is read anew for each verification."""
    near, far = (
        compiled("llama-2-13b", f"draft=llama-2-7b,gamma=8{more}", "h100", "")
        for more in ("", ",target-at=ddr")
    )
    plain = compiled("llama-2-13b", "", "h100")
    assert at(far.time("draft")) == at(near.time("draft"))
    slow = at(far.time("verify"), B=1)
    assert slow > 10 * at(near.time("verify"), B=1)
    moved = sum(int(t.bytes * n) for t, n in plain.program.graph.weights())
    moved -= 32000 * 5120 * 2  # rows of the embedding table are looked up
    assert slow == pytest.approx(moved / 64e9, rel=0.01)  # PCIe 5.0 ×16, a direction
    assert at(far.memory) < at(near.memory) - 0.9 * moved
    # A round emits several tokens for one such pass.
    assert at(far.tpot, B=1) < slow / 2.5


def test_a_head_beside_far_weights_has_a_projection_of_its_own():
    near, far = (
        compiled("llama-2-7b", f"draft=eagle,gamma=3{more}", "h100", "").program
        for more in ("", ",target-at=ddr")
    )
    vocabulary, d, layer = 32000, 4096, 4 * 4096**2 + 3 * 4096 * 11008
    wanted = 2 * vocabulary * d + layer + 2 * d * d
    held = [t.numel * n for t, n in far.phase("verify").weights() if t.level == MEMORY]
    # The target's table of embeddings is looked up, and stays; the head has a norm and a bias.
    assert sum(map(int, held)) == wanted + 2 * d
    assert far.phase("draft").graph == near.phase("draft").graph


@pytest.mark.parametrize("draft", ["opt-125m", "eagle", "skip,skip-mlp=2"])
def test_a_draft_of_a_far_target_gets_the_passes_of_the_target(draft):
    passes = "fuse,quantize{preset=w8a8},"
    near, far = (
        compiled("opt-13b", f"draft={draft},gamma=3{more}", "h100", passes).program
        for more in ("", ",target-at=ddr")
    )
    kernels = [[n.op.kind for n in p.phase("draft").graph.nodes] for p in (near, far)]
    assert kernels[0] == kernels[1]
    if draft == "opt-125m":  # nothing of it is the target's
        assert far.phase("draft").graph == near.phase("draft").graph


def test_states_are_fused_once_in_each_round_that_has_a_draft():
    made = compiled("llama-2-7b", "draft=eagle3,gamma=4,hit=1/8,alpha=1/2", "h100", "").program
    draft, verify = made.phase("draft"), made.phase("verify")
    (fusing,) = (n.op for n in draft.graph.nodes if n.name == FUSING)
    rounds = verify.weight / Rational(1, 8)
    assert fusing.presence.runs * draft.weight / rounds == Rational(1, 8)


@pytest.mark.parametrize("model", ["whisper-large-v3", "t5-base", "llava-1.5-7b", "qwen2.5-vl-7b"])
@pytest.mark.parametrize("kind", ["eagle", "pass", "copy", "skip,skip-mlp=2", "heads"])
def test_measured_lengths_work_behind_encoders_and_images(model, kind):
    made = compiled(model, f"draft={kind},gamma=4,accepted=3.2")
    steps = [p for p in made.program.phases if p.span is not None]
    total = sum(p.weight * p.tokens for p in steps)
    assert float(total) == pytest.approx(1)
    if not kind.startswith("skip"):
        assert at(made.tpot, B=1) < at(compiled(model).tpot, B=1)
    assert at(made.ttft) >= at(compiled(model).ttft)


@pytest.mark.parametrize(
    ("model", "kind"), [("opt-125m", "eagle"), ("opt-125m", "pass"), ("qwen3.5-27b", "mtp")]
)
def test_lengths_are_searched_for_every_source(model, kind):
    made = compiled(model, f"draft={kind},gamma=optimal,alpha=1/2", before="")
    assert any("gamma = " in a for a in made.assumptions)


@pytest.mark.parametrize("draft", ["heads", "blockwise", "pass", "copy"])
@pytest.mark.parametrize("ending", ["stop", "fallback"])
def test_drafts_that_do_not_write_token_by_token_do_not_end_themselves(draft, ending):
    with pytest.raises(PipelineError, match=f"{ending}: needs a draft that writes token by token"):
        cg.compile("opt-125m", "h100", f"speculative{{draft={draft},{ending}=0.2}}")


@pytest.mark.parametrize("kind", ["eagle", "eagle3"])
def test_heads_of_other_models_are_asked_for_as_the_option_lists_them(kind):
    from costgraph.passes import PASSES

    with pytest.raises(CostgraphError, match=f"draft={kind}:PATH"):
        cg.compile("mixtral-8x7b", "h100", f"speculative{{draft={kind}}}")
    assert f"{kind}:PATH" in PASSES["speculative"].options()["draft"].help


@pytest.mark.parametrize(
    ("model", "draft"), [("llava-1.5-7b", "llama-2-7b"), ("qwen2-vl-7b", "qwen2.5-0.5b")]
)
def test_vocabularies_that_differ_by_padding_are_one_and_said(model, draft):
    made = cg.compile(model, "h100", f"speculative{{draft={draft}}}")
    assert any("rows differ by padding alone" in s for s in made.assumptions)
    with pytest.raises(CostgraphError, match=r"share=vocabulary: .* are not like"):
        cg.compile(model, "h100", f"speculative{{draft={draft},share=vocabulary}}")
