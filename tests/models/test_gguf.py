"""GGUF files: sizes that llama.cpp publishes, families, and what headers may do."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import costgraph as cg
from costgraph.errors import ModelError
from costgraph.models import load_model
from costgraph.models.checkpoint.gguf import read_header
from costgraph.models.checkpoint.gguf_types import TYPES
from tests.models.gguf_file import header, llama

LLAMA_3 = (4096, 14336, 32, 32, 8, 128256)
Mix = Mapping[str, Any]


def written(path: Path, made: Any) -> Path:
    """A file of this header alone."""
    metadata, tensors = made
    path.write_bytes(header(metadata, tensors))
    return path


def totals(spec: Any) -> tuple[int, int]:
    weights = list(load_model(spec).weights())
    return (
        int(sum(t.bytes * count for t, count in weights)),
        int(sum(t.numel * count for t, count in weights)),
    )


def more(layer: int) -> bool:
    """Layers in which llama.cpp's mixtures take more bits (``use_more_bits``), of 32."""
    return layer < 4 or layer >= 28 or (layer - 4) % 3 == 2


def better(high: str, low: str, where: Callable[[int], bool]) -> Callable[[int], str]:
    return lambda layer: high if where(layer) else low


def first(layer: int) -> bool:
    return layer < 4


#: llama.cpp's mixtures, and the bits per weight of Llama-3.1-8B in its tools/quantize/README.
MIXTURES: list[tuple[float, Mix]] = [
    (16.0005, {"usual": "F16", "output": "F16"}),
    (8.5008, {"usual": "Q8_0", "output": "Q8_0"}),
    (6.5633, {"usual": "Q6_K"}),
    (5.7036, {"usual": "Q5_K", "attn_v": better("Q6_K", "Q5_K", more),
              "ffn_down": better("Q6_K", "Q5_K", more)}),
    (5.5704, {"usual": "Q5_K"}),
    (4.8944, {"usual": "Q4_K", "attn_v": better("Q6_K", "Q4_K", more),
              "ffn_down": better("Q6_K", "Q4_K", more)}),
    (4.6672, {"usual": "Q4_K", "attn_v": better("Q5_K", "Q4_K", first),
              "ffn_down": better("Q5_K", "Q4_K", first)}),
    (4.6818, {"usual": "IQ4_NL", "attn_v": "Q5_K", "ffn_down": better("Q5_K", "IQ4_NL", first)}),
    (4.4597, {"usual": "IQ4_XS", "attn_v": "Q5_K", "ffn_down": better("Q5_K", "IQ4_XS", first)}),
    (4.2979, {"usual": "Q3_K", "attn_v": "Q5_K", "ffn_down": "Q5_K", "attn_output": "Q5_K"}),
    (3.6429, {"usual": "Q3_K"}),
    (3.1593, {"usual": "Q2_K", "attn_v": "Q4_K", "ffn_down": "Q3_K", "attn_output": "Q3_K"}),
    (2.9697, {"usual": "Q2_K", "attn_v": "Q4_K", "ffn_down": better("Q4_K", "Q2_K", first)}),
]  # fmt: skip


@pytest.mark.parametrize(("published", "mix"), MIXTURES, ids=lambda v: str(v)[:7])
def test_bits_per_weight_are_those_that_are_published(
    published: float, mix: Mix, tmp_path: Path
) -> None:
    path = written(tmp_path / "llama.gguf", llama(*LLAMA_3, mix))
    size, count = totals(path)
    assert round(8 * size / count, 4) == published
    found = read_header(path)
    assert size == sum(t.bytes for t in found.tensors.values())
    # What stands in front of the weights, in this file with two tokens.
    assert found.size - size == found.start == path.stat().st_size


#: Files of gpt4all's list of models (metadata/models3.json): layers and vocabulary, bytes.
Q4_0 = [
    (LLAMA_3, 4661724384),
    ((4096, 14336, 32, 32, 8, 32000), 4108916384),
    ((4096, 14336, 32, 32, 8, 32002), 4108928128),
    ((4096, 11008, 32, 32, 32, 32003), 3825824192),
    ((5120, 13824, 40, 40, 40, 32000), 7365834624),
    ((5120, 13824, 40, 40, 40, 32003), 7365856064),
    ((5120, 13824, 40, 40, 40, 32032), 7366062080),
]


@pytest.mark.parametrize(("dims", "published"), Q4_0)
def test_sizes_of_published_files(dims: tuple[int, ...], published: int, tmp_path: Path) -> None:
    """The difference is the header: the vocabulary, its scores or merges."""
    size, _ = totals(written(tmp_path / "m.gguf", llama(*dims, {"usual": "Q4_0"})))
    each = (published - size) / dims[-1]
    # Text, score and kind of a token; with its merges in a vocabulary of byte pairs.
    assert (22 < each < 25) if dims[-1] < 100_000 else (60 < each < 70)


def test_every_block_takes_its_bytes() -> None:
    for kind in TYPES.values():
        assert kind.format.bits_per_element * kind.block == 8 * kind.size, kind.name


def test_every_tensor_has_its_own_format_and_it_is_said(tmp_path: Path) -> None:
    path = written(tmp_path / "m.gguf", llama(*LLAMA_3, MIXTURES[5][1]))
    made = cg.compile(path, "a6000")
    (note,) = [n for n in made.program.notes if "GGUF" in n]
    assert "Q4_K, F32, Q6_K" in note
    for region in (n.op for n in made.program.graph.nodes if n.op.kind == "repeat"):
        kinds = {t.name: t.dtype.name for t in region.body.sources}
        assert kinds["attn_norm.weight"] == "fp32"
        assert kinds["q_proj.weight"] == "q4_k"
        assert kinds["down_proj.weight"] in ("q4_k", "q6_k")
    wide = cg.compile(path, "a6000", quantization="ignore")
    assert wide.memory(B=1, S=9, N=2) > 3 * made.memory(B=1, S=9, N=2)
    assert any("16-bit model" in a for a in wide.assumptions)
    asked = cg.compile(path, "a6000", weights="int8")
    assert asked.memory(B=1, S=9, N=2) > made.memory(B=1, S=9, N=2)


SMALL = (512, 1024, 3, 8, 2, 1000)


def test_a_context_that_no_file_states_is_not_said(tmp_path: Path) -> None:
    metadata, tensors = llama(*SMALL, {"usual": "F16"})
    stated = written(tmp_path / "a.gguf", (metadata, tensors))
    assert load_model(stated).context == metadata.pop("llama.context_length") == 8192
    assert load_model(written(tmp_path / "b.gguf", (metadata, tensors))).context is None


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
def test_architectures_become_families(family: str, tmp_path: Path) -> None:
    extra: dict[str, Any] = {"general.architecture": family}
    metadata, tensors = llama(*SMALL, {"usual": "Q8_0"}, **extra)
    more_of_it: list[tuple[str, tuple[int, ...], str]] = []
    for i in range(3):
        if family == "qwen3":
            more_of_it += [(f"blk.{i}.attn_{n}_norm.weight", (64,), "F32") for n in "qk"]
        if family == "gemma2":
            more_of_it += [
                (f"blk.{i}.post_{n}.weight", (512,), "F32") for n in ("attention_norm", "ffw_norm")
            ]
    metadata[f"{family}.attention.key_length"] = 64
    if family == "gemma2":
        tensors = [t for t in tensors if t[0] != "output.weight"]
    program = load_model(written(tmp_path / "m.gguf", (metadata, [*tensors, *more_of_it])))
    size = sum(t.bytes * count for t, count in program.weights())
    assert size == sum(t.bytes for t in read_header(tmp_path / "m.gguf").tensors.values())


def test_a_model_in_parts(tmp_path: Path) -> None:
    metadata, tensors = llama(*SMALL, {"usual": "Q8_0"})
    whole = totals(written(tmp_path / "m.gguf", (metadata, tensors)))
    half = len(tensors) // 2
    for i, part in enumerate((tensors[:half], tensors[half:]), 1):
        own = {**metadata, "split.count": 2} if i == 1 else {"split.count": 2}
        written(tmp_path / f"p-{i:05}-of-00002.gguf", (own, part))
    assert totals(tmp_path / "p-00001-of-00002.gguf") == whole
    lost = tmp_path / "p-00002-of-00002.gguf"
    lost.rename(tmp_path / "other.gguf")
    with pytest.raises(ModelError, match="no such file"):
        load_model(tmp_path / "p-00001-of-00002.gguf")


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    metadata, tensors = llama(*SMALL, {"usual": "Q8_0"})
    path = tmp_path / "m.gguf"

    def refused(words: str, meta: Any = metadata, held: Any = tensors) -> None:
        with pytest.raises(ModelError, match=words) as error:
            load_model(written(path, (meta, held)))
        assert "\n" not in str(error.value)

    refused("is missing", held=tensors[:-2])
    refused("no place", held=[*tensors, ("blk.0.extra.weight", (512, 512), "F16")])
    refused("do not agree", meta={**metadata, "llama.feed_forward_length": 2048})
    refused("architecture 'lama' is not read", meta={**metadata, "general.architecture": "lama"})
    refused("no multiple of 256", held=[("token_embd.weight", (100, 10), "Q4_K")])
    refused("'llama.block_count' is missing",
            meta={k: v for k, v in metadata.items() if "block_count" not in k})  # fmt: skip


def test_hostile_headers_are_refused_quickly(tmp_path: Path) -> None:
    good = header(*llama(*SMALL, {"usual": "Q8_0"}))
    path = tmp_path / "m.gguf"
    huge = 2**63 - 1
    texts = [
        b"", b"GGUF", b"GGML" + good[4:], good[:100],
        b"GGUF" + struct.pack(">IQQ", 3, 1, 1), b"GGUF" + struct.pack("<IQQ", 9, 1, 1),
        b"GGUF" + struct.pack("<IQQ", 3, huge, 0), b"GGUF" + struct.pack("<IQQ", 3, 0, huge),
        b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, huge),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k"
        + struct.pack("<IIQ", 9, 8, 2**24),
    ]  # fmt: skip
    for text in texts:
        path.write_bytes(text)
        with pytest.raises(ModelError):
            load_model(path)
    draw = random.Random(5)
    for _ in range(150):
        changed = bytearray(good)
        for _ in range(draw.randint(1, 6)):
            changed[draw.randrange(4, len(changed))] = draw.randrange(256)
        path.write_bytes(bytes(changed[: draw.randint(8, len(changed))]))
        told = ""
        try:
            load_model(path)
        except ModelError as error:
            told = str(error)
        assert "\n" not in told
