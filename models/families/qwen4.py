"""Qwen4-Exp: gated streams, delta nets, attention to chosen blocks, tables of n-grams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer, nextprime

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Block
from costgraph.models.blocks.delta import IndexedGatedAttention
from costgraph.models.blocks.gatedstreams import GatedStreams
from costgraph.models.blocks.hyper import HyperLayer
from costgraph.models.blocks.ngrams import NGrams
from costgraph.models.blocks.pattern import gathered
from costgraph.models.families.absent import part_of
from costgraph.models.families.common import Family, Reading, heads_of, rotary_of
from costgraph.models.families.deltas import net_of
from costgraph.models.families.experts import ends_of, experts_of, feed_forward_of, numbers_of
from costgraph.models.families.hybrid import GATHERED, words
from costgraph.models.families.multimodal import fitting, qwen3_tower
from costgraph.models.families.pooled import Streamed
from costgraph.models.families.state_space import require_silu
from costgraph.models.fields import Fields
from costgraph.models.multimodal import Seeing
from costgraph.ops import Route

_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "linear_attention": "delta",
        "indexed_attention": "attention",
        "full_attention": "attention",
    }
)
CHOSEN = (
    "each query attends the {rows} rows of the blocks that an index scores highest, and those of "
    "the block that is not over; keys of the index are kept whole and averaged in each step, as "
    "the published class does"
)
#: Hashes are small integers; a table larger than this is no model.
MOST_ROWS = 10**12


def _ngrams(fields: Fields, streams: Integer, layers: int) -> dict[int, NGrams]:
    """Tables of n-grams by the place of their layer, from 0 on."""
    at = sorted(set(numbers_of(fields, "ple_layer_ids")))
    d = fields.size("hidden_size")
    size, heads = fields.size("ngram_size", default=3), fields.size("heads_per_ngram", default=8)
    width = fields.size("ple_embed_dim", default=d)
    base = fields.size("ngram_vocab_size_base", default=20_000_000)
    step = fields.size("make_ngram_vocab_size_divisible_by", default=128)
    conv = fields.size("ple_conv_kernel_size", default=4)
    for key in ("seed", "split_ngram_parts"):
        fields.size(key, default=1)  # of the hashes, and of files: they count nothing
    fields.values.get("eos_token_id")  # where n-grams end
    if not at:
        return {}
    if not 1 <= at[0] <= at[-1] <= layers:
        raise ModelError(f"{fields.name}: 'ple_layer_ids' = {clip(at)}: from 1 to {layers}")
    hashes = (size - 1) * heads
    if size < 2 or width % hashes or conv < 2:
        raise ModelError(
            f"{fields.name}: 'ple_embed_dim' = {width} is shared by {hashes} hashes of n-grams "
            f"up to 'ngram_size' = {size}; 'ple_conv_kernel_size' = {conv} is at least 2"
        )
    if base > MOST_ROWS or hashes * len(at) > 4096:
        raise ModelError(f"{fields.name}: 'ngram_vocab_size_base' = {base}, {hashes} hashes")
    found, prime = {}, base - 1
    for place in at:
        rows = 0
        for _ in range(hashes):  # each hash has a prime of its own, of all layers together
            prime = int(nextprime(prime))
            rows += prime
        found[place - 1] = NGrams(
            d=Integer(d),
            streams=streams,
            size=Integer(size),
            heads=Integer(heads),
            width=Integer(width),
            rows=Integer(-(-rows // step) * step),
            conv=Integer(conv),
        )
    return found


def _attention(fields: Fields) -> IndexedGatedAttention:
    heads, kv_heads, head_dim = heads_of(
        fields.with_defaults(head_dim=256), fields.size("hidden_size")
    )
    fields.require("indexer_kv_heads", 1)
    block, budget = fields.size("indexer_compress_ratio"), fields.size("indexer_budget")
    if budget % block:
        raise ModelError(
            f"{fields.name}: 'indexer_budget' = {budget} is no multiple of "
            f"'indexer_compress_ratio' = {block}"
        )
    shares = fields.section("rope_parameters") if fields.values.get("rope_parameters") else fields
    rotary = rotary_of(shares, head_dim, 1.0)
    width = Integer(fields.size("indexer_head_dim"))
    if rotary > width:
        raise ModelError(f"{fields.name}: 'indexer_head_dim' = {width} is less than is rotated")
    return IndexedGatedAttention(
        d=Integer(fields.size("hidden_size")),
        heads=Integer(heads),
        kv_heads=Integer(kv_heads),
        head_dim=head_dim,
        rotary=rotary,
        bias=fields.flag("attention_bias", False),
        index_heads=Integer(fields.size("indexer_n_heads")),
        index_dim=width,
        block=Integer(block),
        most=Integer(budget // block),
    )


def _text(fields: Fields) -> Reading:
    require_silu(fields, "hidden_act")
    gate = fields.word("output_gate_type", default="silu")
    if gate not in ("silu", "sigmoid"):
        raise ModelError(f"{fields.name}: 'output_gate_type' = {clip(gate)}: silu or sigmoid")
    d, count = Integer(fields.size("hidden_size")), fields.size("hc_count", default=4)
    hyper = GatedStreams(d, Integer(count), Integer(fields.size("hc_lowrank", default=320)))
    if fields.values.get("layer_types") is None:
        every = fields.size("full_attention_interval", default=4)
        layers = fields.size("num_hidden_layers")
        kinds = ["delta" if (i + 1) % every else "attention" for i in range(layers)]
    else:
        kinds = words(fields, "layer_types", _KINDS)
    mixers: dict[str, Block] = {"delta": replace(net_of(fields), gate=gate)}
    said = [GATHERED]
    if "attention" in kinds:
        attention = _attention(fields)
        mixers["attention"] = attention
        said.append(CHOSEN.format(rows=attention.most * attention.block))
    tables = _ngrams(fields, hyper.count, len(kinds))
    if any(kinds[place] != "delta" for place in tables):
        raise ModelError(f"{fields.name}: 'ple_layer_ids': n-grams stand in layers of delta nets")
    route = Route(normalise=fields.flag("norm_topk_prob", True))
    shared = feed_forward_of(fields, fields.size("shared_expert_intermediate_size"))
    width = fields.size("moe_intermediate_size")
    experts = experts_of(fields, width, route, "num_experts", shared=shared, shared_gate=True)

    def layer(place: int, kind: str) -> tuple[str, HyperLayer]:
        front = tables.get(place)
        name = kind if front is None else f"{kind}_ngrams{place + 1}"
        return name, HyperLayer(hyper, mixers[kind], experts, front=front)

    segments = gathered(layer(place, kind) for place, kind in enumerate(kinds))
    model = Streamed(ends_of(fields, norm=None), segments, hyper)
    return Reading(model, scans=True, assumptions=tuple(said))


def _seeing(fields: Fields) -> Reading:
    """Qwen3-VL's tower in front of it, whose rows go to the embeddings alone."""
    if fields.values.get("text_config") is None:
        return _text(fields)
    reading = _text(part_of(fields, "qwen4_exp_text", tied=False))
    if fields.values.get("vision_config") is None:
        return reading
    seen = fields.section("vision_config").with_defaults(deepstack_visual_indexes=[])
    model = reading.model
    assert isinstance(model, Streamed)
    eyes = fitting(fields, qwen3_tower(seen), model.ends.d)
    return Reading(Seeing(eyes, model, True), scans=True, assumptions=reading.assumptions)


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"qwen4_exp": _seeing, "qwen4_exp_text": _text})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "Qwen4ExpForConditionalGeneration": "qwen4_exp",
        "Qwen4ExpForCausalLM": "qwen4_exp_text",
    }
)
