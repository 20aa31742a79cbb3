"""Language models behind towers of their own: BLIP-2, Idefics 2, MiniCPM-V, GOT-OCR 2."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import FeedForward
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.eyes import WHOLE, Eyes, FixedTower
from costgraph.models.blocks.halving import HalvingTower
from costgraph.models.blocks.projector import Product, Steps
from costgraph.models.blocks.resampler import Asking, Instructed, Perceiving, Widened
from costgraph.models.blocks.sam import SamEyes
from costgraph.models.families.answering import answers
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.encoders import pair_of, t5
from costgraph.models.families.language import before, language
from costgraph.models.families.seeing import siglip_tower
from costgraph.models.families.segmenting import sam_encoder
from costgraph.models.families.vision import grid_of, patches_of, pixels, tower_of
from costgraph.models.fields import Fields, divided
from costgraph.models.vision import Tower


def _tower(seen: Fields) -> Tower:
    """BLIP-2's ViT: one product makes queries, keys and values."""
    seen = seen.with_defaults(
        hidden_size=1408,
        intermediate_size=6144,
        num_hidden_layers=39,
        num_attention_heads=16,
        patch_size=14,
    )
    at, feed = tower_of(seen, activation_of(seen, "hidden_act", default="gelu"))
    size, patch = pixels(seen), seen.size("patch_size")
    patches = patches_of(seen, at.d, size, patch)
    layers = Integer(seen.size("num_hidden_layers"))
    return Tower(patches, replace(at, fused=True), feed, layers, size)


def _asking(fields: Fields, tower: Tower, instructed: bool = False) -> Asking:
    asked = fields.section("qformer_config").with_defaults(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        encoder_hidden_size=1408,
    )
    asked.refuse("use_qformer_text_input", "queries beside text are not supported")
    if Integer(asked.size("encoder_hidden_size")) != tower.at.d:
        raise ModelError(f"{asked.name}: 'encoder_hidden_size' must be the tower's {tower.at.d}")
    d, heads = asked.size("hidden_size"), asked.size("num_attention_heads")
    width = divided(asked, d, heads, "hidden size over heads")
    act = activation_of(asked, "hidden_act", default="gelu")
    # Its tables of words stand in the files of other classes.
    for key in ("vocab_size", "max_position_embeddings", "position_embedding_type"):
        asked.values.get(key)
    kind: Any = Asking
    if instructed:
        words = Integer(asked.size("vocab_size", default=30522))
        places = Integer(asked.size("max_position_embeddings", default=512))
        kind = partial(Instructed, vocab=words, places=places)
    found: Asking = kind(
        queries=Integer(fields.size("num_query_tokens", default=32)),
        positions=tower.patches.count(tower.size),
        at=Heads(Integer(d), Integer(heads), width, True, True, True),
        feed=FeedForward(
            Integer(d), Integer(asked.size("intermediate_size")), act, gated=False, bias=True
        ),
        layers=asked.size("num_hidden_layers"),
        every=asked.size("cross_attention_frequency", default=2),
    )
    return found


#: What is said of the words that queries see.
ONE_IMAGE = (
    f"{WHOLE}, one of them a prompt; queries of the image also see the prompt's other S - G tokens"
)
FRAMES = (
    f"{WHOLE}, the frames of one video; queries of each also see the prompt's other S - G tokens"
)


#: What configurations of T5 leave out.
_T5: Mapping[str, int] = MappingProxyType(
    {
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 6,
        "num_heads": 8,
    }
)


def _asked(fields: Fields, tied: bool | None, instructed: str = "") -> Reading:
    """The queries in front of a decoder, or of T5, which answers.

    The part is a class of its own, which ties, or does not, by its own key. Where queries are
    ``instructed``, that is what the program says.
    """
    for key in ("tie_word_embeddings", "use_decoder_only_language_model"):
        fields.values.get(key)
    tower = _tower(fields.section("vision_config"))
    asking, said = _asking(fields, tower, bool(instructed)), instructed or WHOLE

    def eyes(d: Expr) -> Eyes:
        steps: Steps = (asking, Product("1", d))
        return FixedTower(tower, steps, d, normed=True, classed=True, said=said).whole

    text = fields.section("text_config")
    if text.word("model_type", default="opt") == "t5":
        reading = t5(text.with_defaults(**_T5))
        model = pair_of(text, reading)
        return answers(eyes(model.ends.d), model, reading)
    inner = text.values.get("tie_word_embeddings", tied)
    stack, reading = language(fields.with_values(tie_word_embeddings=inner), "opt")
    return before(stack, reading, eyes(stack.ends.d))


def _blip2(fields: Fields) -> Reading:
    # What a class for retrieval has in place of a language model.
    fields.values.get("image_text_hidden_size")
    return _asked(fields, True)


def _instructblip(fields: Fields) -> Reading:
    """BLIP-2 whose queries read the instruction as well."""
    return _asked(fields, None, ONE_IMAGE)


def _instructblipvideo(fields: Fields) -> Reading:
    """InstructBLIP over frames of a video, each of them an image."""
    return _asked(fields, None, FRAMES)


def _idefics2(fields: Fields) -> Reading:
    stack, reading = language(fields, "mistral", tied=False)
    text = fields.section("text_config")
    seen = fields.section("vision_config").with_values(vision_use_head=False)
    tower = siglip_tower(seen, patch_size=32)
    asked = fields.section("perceiver_config").with_defaults(hidden_size=4096)
    d = stack.ends.d
    if Integer(asked.size("hidden_size")) != d:
        raise ModelError(f"{asked.name}: 'hidden_size' must be the language model's {d}")
    heads = asked.size("resampler_n_heads", default=16)
    few = asked.size("num_key_value_heads", default=4)
    if heads % few:
        raise ModelError(f"{asked.name}: {heads} heads are no multiple of {few}")
    width = Integer(asked.size("resampler_head_dim", default=96))
    act = activation_of(asked, "hidden_act", default="silu")
    inner = Integer(text.size("intermediate_size", default=14336))
    steps: Steps = (
        Widened(inner, d, activation_of(text, "hidden_act", default="silu")),
        Perceiving(
            queries=Integer(asked.size("resampler_n_latents", default=64)),
            positions=tower.patches.count(tower.size),
            at=Heads(d, Integer(heads), width, kv_heads=Integer(few)),
            feed=FeedForward(d, 4 * d, act),
            layers=asked.size("resampler_depth", default=3),
        ),
    )
    said = f"{WHOLE} of the tower's largest size; smaller pictures have fewer patches"
    return before(stack, reading, FixedTower(tower, steps, d, normed=True, said=said))


def _minicpmv(fields: Fields, mode: str = "16x", tied: bool = False) -> Reading:
    """MiniCPM-V 4.6: a tower that halves its grid between two layers, in front of Qwen3.5."""
    stack, reading = language(fields, "qwen3_5_text", tied=tied)
    mode = fields.word("downsample_mode", default=mode)
    if mode not in ("16x", "4x"):
        raise ModelError(f"{fields.name}: 'downsample_mode' = {clip(mode)}: 16x or 4x")
    fields.require("merge_kernel_size", [2, 2])
    fields.require("merger_times", 1)
    fields.refuse("drop_vision_last_layer", "a tower without its last layer is not supported")
    seen = fields.section("vision_config").with_defaults(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        patch_size=16,
    )
    seen.require("window_kernel_size", [2, 2])
    # The whole model repeats what its tower has.
    for key in ("image_size", "patch_size"):
        fields.values.get(key)
    at, feed = tower_of(seen, activation_of(seen, "hidden_act", default="gelu_pytorch_tanh"))
    behind = seen.values.get("insert_layer_id", 6)
    fields.require("insert_layer_id", behind)
    layers = seen.size("num_hidden_layers")
    if type(behind) is not int or not 0 <= behind < layers:
        raise ModelError(f"{seen.name}: 'insert_layer_id' must be a layer, not {clip(behind)}")
    patch = seen.size("patch_size")
    eyes = HalvingTower(
        at=at,
        feed=feed,
        first=behind + 1,
        layers=layers,
        channels=Integer(seen.size("num_channels", default=3)),
        patch=Integer(patch),
        rows=Integer(grid_of(seen, pixels(seen, 224), patch)),
        inner=4 * feed.width,
        out=stack.ends.d,
        halves=mode == "16x",
    )
    return before(stack, reading, eyes)


def _minicpm_ocr(fields: Fields) -> Reading:
    """The same for documents, whose grids are not halved."""
    return _minicpmv(fields, "4x", tied=True)


def _got_ocr2(fields: Fields) -> Reading:
    """GOT-OCR 2 (arXiv 2409.01704): SAM's encoder, two convolutions and a product."""
    stack, reading = language(fields, "qwen2", tied=True)
    encoder = sam_encoder(fields.section("vision_config").with_defaults(mlp_dim=3072))
    fields.values.get("image_seq_length")
    return before(stack, reading, SamEyes(encoder, stack.ends.d))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "blip-2": _blip2,
        "instructblip": _instructblip,
        "instructblipvideo": _instructblipvideo,
        "idefics2": _idefics2,
        "minicpmv4_6": _minicpmv,
        "minicpmv4_7": _minicpmv,
        "minicpm_ocr": _minicpm_ocr,
        "got_ocr2": _got_ocr2,
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "Blip2ForConditionalGeneration": "blip-2",
        "Blip2Model": "blip-2",  # with the whole language model in it, logits too
        "InstructBlipForConditionalGeneration": "instructblip",
        "InstructBlipVideoForConditionalGeneration": "instructblipvideo",
        "MiniCPMV4_6ForConditionalGeneration": "minicpmv4_6",
        "MiniCPMV4_7ForConditionalGeneration": "minicpmv4_7",
        "MiniCPMOcrForConditionalGeneration": "minicpm_ocr",
        "GotOcr2ForConditionalGeneration": "got_ocr2",
        "Idefics2ForConditionalGeneration": "idefics2",
    }
)
