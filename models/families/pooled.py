"""DeepSeek-V4: rows of blocks in place of most keys, streams of hidden states, told experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip
from costgraph.ir.graph import Graph
from costgraph.models.blocks import FeedForward, Maker, Segment, Style
from costgraph.models.blocks.hyper import Connections, Hyper, HyperLayer
from costgraph.models.blocks.pattern import gathered
from costgraph.models.blocks.pooled import Index, PooledAttention
from costgraph.models.blocks.stack import Uneven, close, embed, run
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.experts import ends_of, experts_of, layers_of
from costgraph.models.families.hybrid import GATHERED
from costgraph.models.fields import Fields
from costgraph.models.multimodal import with_images
from costgraph.ops import Route

NEAR, CHOSEN, ALL = "near", "chosen", "all"
#: Kinds of layers as transformers names them, and as the published files do: by positions of a row.
_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "sliding_attention": NEAR,
        "compressed_sparse_attention": CHOSEN,
        "heavily_compressed_attention": ALL,
    }
)
_RATIOS: Mapping[int, str] = MappingProxyType({0: NEAR, 4: CHOSEN, 128: ALL})
CLAMPED = "activations of experts are clamped, which is counted as nothing"
TOLD = "in layers whose experts a table names for every word, the table itself is not counted"


@dataclass(frozen=True)
class Streamed(Uneven):
    """A decoder whose hidden state has several streams."""

    segments: tuple[Segment, ...]
    hyper: Connections

    def graph(self, name: str, style: Style, images: bool = False) -> Graph:
        """The step graph over ``B``, ``q`` and ``T``; of a prompt with images where asked."""
        m = Maker(name, style)
        hidden, table = embed(m, self.ends)
        hidden = with_images(m, hidden) if images else hidden
        streams = run(m, self.segments, self.hyper.opened(m, hidden))
        return m.build(close(m, self.ends, self.hyper.closed(m, streams), table))


def _kinds(fields: Fields, count: int) -> list[str]:
    """The attention of each layer; behind those of the model may stand modules' for later tokens.

    Raises:
        ModelError: a kind is not known, or the list is too short.
    """
    listed = fields.values.get("layer_types")
    known: Mapping[Any, str] = _KINDS
    if listed is None:
        listed, known = fields.values.get("compress_ratios"), _RATIOS
    if listed is None:
        rest = [CHOSEN if i % 2 else ALL for i in range(max(count - 2, 0))]
        return [ALL] * min(count, 2) + rest
    valid = isinstance(listed, list) and all(
        isinstance(k, str | int) and k in known for k in listed
    )
    if not valid or len(listed) < count:
        raise ModelError(f"{fields.name}: kinds of layers {clip(listed)} are not understood")
    return [known[k] for k in listed[:count]]


def _told(fields: Fields, count: int) -> list[bool]:
    """Whether a table names the experts of each layer."""
    listed = fields.values.get("mlp_layer_types")
    if listed is None:
        first = fields.values.get("num_hash_layers", 3)
        if type(first) is not int or not 0 <= first <= count:
            raise ModelError(f"{fields.name}: 'num_hash_layers' must be from 0 to {count}")
        return [i < first for i in range(count)]
    valid = isinstance(listed, list) and all(k in ("hash_moe", "moe") for k in listed)
    if not valid or len(listed) < count:
        raise ModelError(f"{fields.name}: 'mlp_layer_types' must be {count} times hash_moe or moe")
    return [kind == "hash_moe" for kind in listed[:count]]


def _rates(fields: Fields) -> dict[str, Expr]:
    """Positions of a row by kind of layer."""
    found = fields.values.get("compress_rates")
    inner = Fields(f"{fields.name}: compress_rates", found if isinstance(found, Mapping) else {})
    names = {CHOSEN: ("compressed_sparse_attention", 4), ALL: ("heavily_compressed_attention", 128)}
    return {k: Integer(inner.size(name, default=usual)) for k, (name, usual) in names.items()}


def _rotary(fields: Fields, width: int) -> Expr:
    share = fields.number("partial_rotary_factor", 64 / 512)
    found = fields.size("qk_rope_head_dim", default=max(int(width * share), 1))
    if found > width or found % 2:
        raise ModelError(f"{fields.name}: 'qk_rope_head_dim' = {found} of a head of {width}")
    return Integer(found)


def _deepseek_v4(fields: Fields) -> Reading:
    for key, usual in (("num_key_value_heads", 1), ("n_shared_experts", 1),
                       ("scoring_func", "sqrtsoftplus"), ("norm_topk_prob", True)):  # fmt: skip
        fields.require(key, usual)
    for key in ("attention_bias", "mlp_bias"):
        fields.refuse(key, "biases are not known in this family")
    for key in ("hc_eps", "compress_rope_theta", "rope_parameters"):
        fields.values.get(key)
    count, d = layers_of(fields), Integer(fields.size("hidden_size"))
    heads, width = fields.size("num_attention_heads"), fields.size("head_dim", default=512)
    groups = fields.size("o_groups", default=8)
    if heads * width % groups:
        raise ModelError(f"{fields.name}: 'o_groups' = {groups} of {heads} heads of {width}")
    rates = _rates(fields)
    index = Index(
        Integer(fields.size("index_n_heads", default=64)),
        Integer(fields.size("index_head_dim", default=128)),
        Integer(fields.size("index_topk", default=512)),
    )
    mixers = {
        kind: PooledAttention(
            d=d,
            heads=Integer(heads),
            head_dim=Integer(width),
            rank=Integer(fields.size("q_lora_rank", default=1024)),
            rotary=_rotary(fields, width),
            window=Integer(fields.size("sliding_window", default=128)),
            groups=Integer(groups),
            low=Integer(fields.size("o_lora_rank", default=1024)),
            rate=rates.get(kind),
            index=index if kind == CHOSEN else None,
        )
        for kind in (NEAR, CHOSEN, ALL)
    }
    inner = fields.size("moe_intermediate_size")
    shared = FeedForward(d, Integer(inner), activation_of(fields, "hidden_act", default="silu"))
    scaled = fields.number("routed_scaling_factor", 1.5) != 1
    route = Route(score="sqrtsoftplus", normalise=True, scale=scaled, correction=True)
    chosen = experts_of(fields, inner, route, "n_routed_experts", shared=shared, packed=True)
    named = replace(chosen, route=replace(route, correction=False, tabled=True))
    channels = {False: chosen, True: named}
    hyper = Hyper(
        d,
        Integer(fields.size("hc_mult", default=4)),
        Integer(fields.size("hc_sinkhorn_iters", default=20)),
    )
    listed = list(zip(_kinds(fields, count), _told(fields, count), strict=True))
    segments = gathered(
        (f"{kind}_told" if told else kind, HyperLayer(hyper, mixers[kind], channels[told]))
        for kind, told in listed
    )
    said = [GATHERED, CLAMPED, *([TOLD] if any(told for _, told in listed) else [])]
    return Reading(Streamed(ends_of(fields), segments, hyper), assumptions=tuple(said))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"deepseek_v4": _deepseek_v4})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType({"DeepseekV4ForCausalLM": "deepseek_v4"})
