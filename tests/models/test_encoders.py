"""Encoders and encoder–decoders as programs: phases, metrics, memory, passes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sympy import Integer

import costgraph as cg
from costgraph.counting.count import parameters, rows
from costgraph.counting.footprint import cache_bytes, footprint, resting
from costgraph.errors import InputError, ModelError
from costgraph.ir.cost import Direction
from costgraph.ir.metrics import METRICS
from costgraph.ir.tensor import Role
from costgraph.ir.verify import verify_program
from costgraph.models import load_model, model_names
from costgraph.models.catalog import CONFIGS
from costgraph.ops.pattern import Band
from costgraph.symbols import B, N, S, T, q

COUNTED = Path(__file__).parent / "counted" / "configs"
FIRST = {name: load_model(name).phases[0].name for name in model_names()}
ENCODERS = [n for n, phase in FIRST.items() if phase == "forward"]
BOTH = [n for n, phase in FIRST.items() if phase == "encode"]
#: Parameters of transformers' BertModel without its pooler, over the small configuration below.
BERT_SMALL = 75_648


def test_there_are_encoders_of_both_kinds():
    assert {"bert-base", "modernbert-base"} <= set(ENCODERS)
    assert {"t5-small", "bart-large", "whisper-tiny"} <= set(BOTH)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_has_a_latency_and_no_tokens(name):
    compiled = cg.compile(name, "h100")
    one = compiled.latency.evaluate(B=2, S=64)
    assert one > 0
    assert compiled.memory.evaluate(B=2, S=64) > 2 * int(compiled.parameters)
    assert isinstance(compiled.flops.evaluate(B=2, S=64), int)
    sizes = {"B": 2, "S": 64} if S in compiled.latency.symbols else {"B": 2}
    step = compiled.breakdown("forward", **sizes)
    assert step.totals["seconds"] == pytest.approx(one, rel=1e-12)
    assert step.totals["kv_bytes"] == 0
    assert set(compiled.metrics) == {"latency", "memory", "flops", "bytes", "energy"}
    # The time between two passes is the time of one.
    assert compiled.interval.expr == compiled.latency.expr
    for metric in set(METRICS) - {"interval", *compiled.metrics}:
        with pytest.raises(InputError, match="generates no tokens"):
            getattr(compiled, metric)
    assert N not in compiled.latency.symbols


@pytest.mark.parametrize("name", BOTH)
def test_an_encoder_decoder_adds_up(name):
    compiled = cg.compile(name, "h100")
    verify_program(compiled.program)
    latency = compiled.latency.evaluate(B=2, S=100, N=10)
    loop = compiled.ttft.evaluate(B=2, S=100) + sum(
        compiled.tpot.evaluate(B=2, S=100, T=1 + i) for i in range(1, 10)
    )
    assert latency == pytest.approx(loop, rel=1e-12)
    encode = compiled.time("encode").evaluate(B=2, S=100)
    start = compiled.breakdown("prefill", B=2, S=100).totals["seconds"]
    assert compiled.ttft.evaluate(B=2, S=100) == pytest.approx(encode + start)
    assert compiled.tpot.evaluate(B=2, S=100, T=7) == pytest.approx(
        compiled.breakdown("decode", B=2, S=100, T=7).totals["seconds"]
    )
    # Both parts' weights stay in memory in every phase.
    assert compiled.memory.evaluate(B=1, S=10, N=2) > 2 * int(compiled.parameters)


@pytest.mark.parametrize("name", BOTH)
def test_cross_attention_reads_what_the_encoder_stored(name):
    program = load_model(name)
    encode, decode = program.phase("encode"), program.phase("decode")
    stored = encode.bind(cache_bytes(encode.graph))
    cached = cache_bytes(decode.graph)
    assert (cached.xreplace({T: Integer(0)}) - stored).expand() == 0
    written = sum(
        (r.count * r.cost.bytes_of(Role.KV, Direction.WRITE) for r in rows(encode.graph)),
        Integer(0),
    )
    assert (encode.bind(written) - stored).expand() == 0
    read = sum(
        (
            r.count * r.cost.bytes_of(Role.KV, Direction.READ)
            for r in rows(decode.graph)
            if r.name.startswith("cross_")
        ),
        Integer(0),
    )
    assert (read - stored).expand() == 0


@pytest.mark.parametrize("name", BOTH)
def test_what_rests_beside_a_phase_is_the_rest_of_the_weights(name):
    program = load_model(name)
    total = parameters(program)
    for phase in program.phases:
        assert phase.resident
        for beside in phase.resident:
            assert resting(beside).kv == 0
            # The very graph that runs in another phase: no pass can treat it otherwise.
            assert any(beside.graph is p.graph for p in program.phases if p is not phase)
        assert parameters(phase) == total


@pytest.mark.parametrize("name", ["t5-small", "whisper-tiny", "modernbert-base"])
def test_passes_keep_the_caches_and_save_memory(name):
    values = {"B": 4, "S": 200} | ({} if name in ENCODERS else {"N": 20})
    plain = cg.compile(name, "h100")
    fused = cg.compile(name, "h100", "fuse")
    small = cg.compile(name, "h100", "quantize{weights=int8}")
    assert fused.bytes.evaluate(**values) < plain.bytes.evaluate(**values)
    assert fused.flops.evaluate(**values) == plain.flops.evaluate(**values)
    assert small.parameters == plain.parameters
    for p in plain.program.phases:
        other = fused.program.phase(p.name)
        assert (cache_bytes(p.graph) - cache_bytes(other.graph)).expand() == 0
    if name in BOTH:
        halved = cg.compile(name, "h100", "quantize{kv=int8}").program
        encode, decode = halved.phase("encode"), halved.phase("decode")
        stored = encode.bind(cache_bytes(encode.graph))
        assert (cache_bytes(decode.graph).xreplace({T: Integer(0)}) - stored).expand() == 0
        # Weights that rest beside a phase are stored as where they run.
        encode, decode = small.program.phase("encode"), small.program.phase("decode")
        table = next(t for t in decode.graph.sources if t.name == "embed.weight")
        shared = table.bytes if name == "t5-small" else Integer(0)
        for running, beside in ((encode, decode), (decode, encode)):
            rests = resting(beside.resident[0]).weights
            assert rests + shared == footprint(running.graph).weights
            assert rests < resting(plain.program.phase(beside.name).resident[0]).weights


def test_tables_bound_the_positions():
    whisper = cg.compile("whisper-tiny", "h100")
    whisper.latency.evaluate(B=1, S=1500, N=448)
    with pytest.raises(InputError, match="1500"):
        whisper.latency.evaluate(B=1, S=1501, N=10)
    with pytest.raises(InputError, match="448"):
        whisper.latency.evaluate(B=1, S=1500, N=449)
    with pytest.raises(InputError, match="512"):
        cg.compile("bert-base", "h100").latency.evaluate(B=1, S=513)


def test_local_layers_compute_the_pairs_within_reach():
    for n in (1, 5, 64, 65, 66, 200):
        for reach in (1, 4, 64):
            pairs = sum(abs(i - j) <= reach for i in range(n) for j in range(n))
            assert Band(Integer(reach)).pairs(q, q).xreplace({q: Integer(n)}) == pairs
    graph = load_model("modernbert-base").graph
    scores = next(
        r for r in rows(graph) if r.kind == "qk-matmul" and isinstance(r.node.op.pattern, Band)
    )
    values = {B: Integer(1), q: Integer(300)}
    pairs = sum(abs(i - j) <= 64 for i in range(300) for j in range(300))
    assert scores.count == 14
    assert scores.cost.total_flops.xreplace(values) == 2 * 12 * 64 * pairs
    assert scores.cost.bytes_of(Role.ACTIVATION, Direction.WRITE).xreplace(values) == 24 * pairs


def test_bare_encoders_and_bad_configurations():
    config = {
        "model_type": "bert", "hidden_size": 64, "num_attention_heads": 4,
        "num_hidden_layers": 2, "intermediate_size": 128, "vocab_size": 100,
        "max_position_embeddings": 32, "type_vocab_size": 2,
    }  # fmt: skip
    bare = load_model(config)
    assert any("no head" in sentence for sentence in bare.assumptions)
    headed = load_model({**config, "architectures": ["BertForMaskedLM"]})
    extra = parameters(headed.graph) - parameters(bare.graph)
    assert extra == 64 * 64 + 64 + 2 * 64 + 100
    with pytest.raises(ModelError, match="relative"):
        load_model({**config, "position_embedding_type": "relative_key"})
    with pytest.raises(ModelError, match="divisible"):
        load_model({**config, "num_attention_heads": 5})
    symbolic = load_model(config, symbolic=True)
    assert parameters(bare.graph) == BERT_SMALL
    assert parameters(symbolic.graph).xreplace(dict(symbolic.dims)) == BERT_SMALL
    assert S in headed.phases[0].bind(T).free_symbols


def small(name):
    return json.loads((COUNTED / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("name", "kind", "changed"),
    [
        ("wavlm-speaker-small", "wavlm", {"adapter_attn_dim": 4}),
        ("mms-small", "data2vec-audio", {"architectures": ["Data2VecAudioForCTC"]}),
        ("mms-small", "hubert", {"architectures": ["HubertForCTC"], "add_adapter": True}),
    ],
)
def test_adapters_that_a_class_of_speech_lacks_are_refused(name, kind, changed):
    with pytest.raises(ModelError, match="classes of this family have none"):
        load_model({**small(name), "model_type": kind, **changed})


@pytest.mark.parametrize("changed", [{"add_adapter": True}, {"output_hidden_size": 48}])
def test_a_decoder_reads_speech_as_long_and_as_wide_as_its_encoder_makes_it(changed):
    config = small("speech-dec-small")
    with pytest.raises(ModelError, match=next(iter(changed))):
        load_model({**config, "encoder": {**config["encoder"], **changed}})


def test_queries_of_images_do_not_ask_an_encoder_alone():
    config = small("blip2-t5-small")
    text = {**config["text_config"], "architectures": ["T5EncoderModel"]}
    with pytest.raises(ModelError, match="the encoder alone is not read"):
        load_model({**config, "text_config": text})


def test_the_command_line_knows_the_phases(capsys):
    from costgraph.cli import main

    assert (
        main(["analyze", "bert-base", "--on", "h100", "--phase", "forward", "--prompt", "9"]) == 0
    )
    assert main(["analyze", "t5-small", "--on", "h100", "--phase", "encode", "--prompt", "9"]) == 0
    wanted = ["analyze", "t5-small", "--on", "h100", "--context", "5", "--prompt", "9", "--json"]
    capsys.readouterr()
    assert main(wanted) == 0
    assert json.loads(capsys.readouterr().out)["phase"] == "decode"
    assert main(["models", "t5-small", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 60_506_624
    with pytest.raises(SystemExit):
        main(["analyze", "bert-base", "--on", "h100", "--context", "9"])
    assert "forward does not depend on 'T'; it depends on" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["formula", "bert-base", "--on", "h100"])
    assert "generates no tokens" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["longformer-base-4096", "bigbird-roberta-base"])
def test_memory_holds_the_scores_that_exist(name):
    """Banded attention that nothing fuses needs memory that grows with the text, not its square."""
    memory = cg.compile(name, "h100").memory
    least, half, whole = (memory.evaluate(B=8, S=s) for s in (1024, 2048, 4096))
    assert whole - half == pytest.approx(2 * (half - least), rel=0.15)
    scores = 8 * 12 * 4096**2 * 2  # bytes of all pairs, which are never there
    assert whole - half < scores


def test_a_list_of_layers_says_which_see_all_of_a_text():
    """Files that transformers 5 saved have the list alone."""
    config = json.loads((CONFIGS / "modernbert-base.json").read_text())
    numbered = load_model(config).phases[0].graph
    every = config.pop("global_attn_every_n_layers")
    kinds = ["sliding_attention" if i % every else "full_attention" for i in range(22)]
    assert load_model({**config, "layer_types": kinds}).phases[0].graph == numbered
    whole = load_model({**config, "layer_types": ["full_attention"] * 22}).phases[0].graph
    assert whole != numbered
    with pytest.raises(ModelError, match="part the layers apart"):
        load_model({**config, "global_attn_every_n_layers": 2, "layer_types": kinds})
