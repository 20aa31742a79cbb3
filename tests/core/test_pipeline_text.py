"""The text of pipelines: what can be written, that it reads back, and where it is wrong."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import costgraph as cg
from costgraph.cli import main
from costgraph.errors import PipelineError
from costgraph.passes import PASSES
from costgraph.passes.decoding.speculative import Speculative
from costgraph.rewriting.grammar import LONGEST, LONGEST_VALUE, quoted, read
from costgraph.rewriting.pipeline import parse, text_of

#: Any text a value can hold: printable, so no line breaks and no control characters.
TEXTS = st.text(st.characters(blacklist_categories=("C", "Z")) | st.just(" "), max_size=30)


@given(TEXTS)
def test_every_printable_value_reads_back(value):
    (item,) = read(f"pass{{a={quoted(value)},b={quoted('x,y}')}}}")
    assert [(g.name, g.value) for g in item.options] == [("a", value), ("b", "x,y}")]


@given(TEXTS.filter(bool), st.sampled_from(["fuse", "quantize{preset=w4a16,keep=a|b:0-3}", ""]))
def test_paths_and_pipelines_are_values_and_round_trip(path, passes):
    made = Speculative(draft=path, draft_passes=passes)
    text = text_of((made,))
    assert parse(text, PASSES) == (made,)
    assert text_of(parse(text, PASSES)) == text


def test_pipelines_nest_in_either_kind_of_quotes():
    inner = "quantize{keep='down_proj|lm_head',preset=w4a16},fuse"
    for text in (
        f'speculative{{draft=./d.json,draft-passes="{inner}"}}',
        "speculative{draft='./d.json',draft-passes='" + inner.replace("'", "\\'") + "'}",
    ):
        (made,) = parse(text, PASSES)
        assert made.draft == "./d.json"
        # Kept as their canonical text.
        assert made.draft_passes == "quantize{preset=w4a16,keep=down_proj|lm_head},fuse"
        assert parse(text_of((made,)), PASSES) == (made,)


def test_white_space_between_things_does_not_matter():
    tight = "fuse,quantize{preset=w4a16,keep=none}"
    loose = " fuse , quantize { preset = w4a16 , keep = 'none' } "
    assert parse(loose, PASSES) == parse(tight, PASSES)
    assert text_of(parse(loose, PASSES)) == tight
    assert parse("  ", PASSES) == ()


@pytest.mark.parametrize(
    ("text", "position", "words"),
    [
        ("fuse,", 6, "a pass after ','"),
        ("fuse quantize", 6, "',' and a pass after 'fuse'"),
        ("fuse,,page-kv", 6, "a pass name"),
        ("fuse{attention=}", 16, "a value of fuse: attention"),
        ("fuse{attention}", 15, "needs a value"),
        ("fuse{attention=none", 20, "the text ends"),
        ("fuse{attention=none siblings=true}", 21, "',' or '}'"),
        ("fuse{,}", 6, "empty option"),
        ("fuse{siblings=true,}", 20, "an option of 'fuse'"),
        ("quantize{keep='a", 15, "closing '"),
        ("fuse,quantise{weights=int4}", 6, "did you mean 'quantize'"),
        ("fuse,quantize{weight=int4}", 15, "did you mean 'weights'"),
        ("fuse{siblings=true,siblings=true}", 20, "given twice"),
        ("quantize{weights=int7}", 10, "weights: unknown 'int7'"),
        ("speculative{draft-passes='fuse,quantise'}", 13, "character 6: unknown pass"),
    ],
)
def test_errors_say_where(text, position, words):
    with pytest.raises(PipelineError) as caught:
        parse(text, PASSES)
    assert str(caught.value).startswith(f"pipeline, character {position}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lengths_are_said_with_their_limits():
    fits = "|".join(["a" * 9] * (LONGEST_VALUE // 10))
    assert parse(f"quantize{{weights=int4,keep={fits}}}", PASSES)
    with pytest.raises(PipelineError, match=f"of {LONGEST_VALUE + 1} characters .*{LONGEST_VALUE}"):
        parse(f"quantize{{keep={'a' * (LONGEST_VALUE + 1)}}}", PASSES)
    with pytest.raises(PipelineError, match=f"{LONGEST} at most"):
        parse("fuse," * LONGEST, PASSES)
    with pytest.raises(PipelineError, match="a pipeline is a text"):
        parse(["fuse"], PASSES)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["quantize{keep='a\nb'}", "speculative{draft='\x1b[31m'}"])
def test_control_characters_are_no_values(text):
    with pytest.raises(PipelineError, match="printable"):
        parse(text, PASSES)


def test_a_long_keep_list_from_the_command_line(capsys):
    """llama-3.1-8b as Q4_K_M: value and down projections of half the layers in six bits.

    4,912,365,568 byte of weights follow from the format's own block sizes.
    """
    places = (0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31)
    keep = "|".join(["lm_head", *(f"{n}:{i}" for n in ("v_proj", "down_proj") for i in places)])
    assert len(keep) > 300
    passes = (
        f"quantize{{weights=int4,group=32,scale-bits=6,zero-bits=6,outer-group=8,outer-bits=32,"
        f"keep={keep}}},quantize{{weights=int6,group=16,scale-bits=8,zero-bits=0,outer-group=16,"
        "outer-bits=16,keep=none}"
    )
    main(["analyze", "llama-3.1-8b", "--on", "rtx-4090", "--context", "128", "--json",
          "--passes", passes])  # fmt: skip
    assert json.loads(capsys.readouterr().out)["totals"]["weight_bytes"] == 4_912_365_568


@pytest.mark.parametrize("written", ["draft.json", "./draft.json", "'sub dir/draft.json'"])
def test_a_draft_of_ones_own(tmp_path, monkeypatch, written):
    config = {
        "model_type": "llama", "hidden_size": 256, "intermediate_size": 512,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
        "vocab_size": 32000, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "max_position_embeddings": 4096,
    }  # fmt: skip
    (tmp_path / "sub dir").mkdir()
    for place in ("draft.json", "sub dir/draft.json"):
        (tmp_path / place).write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    made = cg.compile("llama-2-7b", "h100", f"fuse,speculative{{draft={written},gamma=3}}")
    named = cg.compile("llama-2-7b", "h100", "fuse,speculative{draft=draft.json,gamma=3}")
    assert made.program.phases == named.program.phases
    assert made.tpot.evaluate(B=1, T=100) < cg.compile("llama-2-7b", "h100", "fuse").tpot.evaluate(
        B=1, T=100
    )
    with pytest.raises(PipelineError, match="draft: no such file"):
        cg.compile("llama-2-7b", "h100", "speculative{draft=./none.json}")
