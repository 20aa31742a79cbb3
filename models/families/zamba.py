"""Zamba 1 and 2: Mamba layers, some of them behind transformer blocks that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sympy import Integer, Rational

from costgraph.errors import ModelError
from costgraph.ir.graph import Graph
from costgraph.models.blocks import Layer, Maker, Segment, Style
from costgraph.models.blocks.pattern import gathered
from costgraph.models.blocks.scan import Mamba, Mamba2
from costgraph.models.blocks.shared import SharedBlock
from costgraph.models.blocks.stack import Repeatable, Uneven, close, embed, run
from costgraph.models.families.common import Family, Reading, activation_of, layer_count
from costgraph.models.families.hybrid import GATHERED, words
from costgraph.models.families.state_space import ends_of, require_silu, step_rank
from costgraph.models.fields import Fields, divided

#: Kinds of layers as files name them.
_KINDS: Mapping[str, str] = MappingProxyType(
    {"mamba": "mamba", "linear_attention": "mamba", "hybrid": "hybrid"}
)


@dataclass(frozen=True)
class Zamba(Uneven):
    """Mamba layers, some of them fed by shared transformer blocks (arXiv:2411.15242)."""

    segments: tuple[Segment, ...]

    def graph(self, name: str, style: Style) -> Graph:
        """The step graph over ``B``, ``q`` and ``T``."""
        m = Maker(name, style)
        first, table = embed(m, self.ends)
        # The embeddings are an operand of every hybrid layer, beside the hidden state.
        hidden = run(m, self.segments, first, embeddings=first)
        return m.build(close(m, self.ends, hidden, table))


def _zamba(fields: Fields) -> Reading:
    """Mamba 1 in heads, and one transformer block that some layers share."""
    d = fields.size("hidden_size")
    require_silu(fields, "hidden_mamba_act")
    kinds = _zamba_kinds(fields, layer_count(fields))
    inner = fields.size("mamba_expand", default=2) * d
    parts = fields.size("n_mamba_heads", default=2)
    divided(fields, inner, parts, "Mamba's inner width over heads")
    mixer = Mamba(
        d=Integer(d),
        inner=Integer(inner),
        states=Integer(fields.size("mamba_d_state", default=16)),
        rank=step_rank(fields, "mamba_dt_rank", d),
        conv=Integer(fields.size("mamba_d_conv", default=4)),
        bias=fields.flag("mamba_proj_bias", False),
        conv_bias=fields.flag("mamba_conv_bias", True),
        heads=parts,
    )
    heads = _query_heads(fields)
    hybrid = SharedBlock(
        d=Integer(d),
        wide=Integer(fields.size("attention_hidden_size", default=2 * d)),
        heads=Integer(heads),
        head_dim=Integer(fields.size("attention_head_dim", default=2 * d // heads)),
        rotary=None,
        width=Integer(fields.size("intermediate_size")),
        activation=activation_of(fields, "hidden_act", default="gelu"),
        rank=None,
        sets=Rational(1, kinds.count("hybrid")),
        mixer=mixer,
    )
    return Reading(_model(fields, hybrid, kinds), assumptions=(GATHERED,))


def _query_heads(fields: Fields) -> int:
    """Query heads, and as many key heads."""
    heads = fields.size("num_attention_heads")
    if fields.size("num_key_value_heads", default=heads) != heads:
        raise ModelError(f"{fields.name}: 'num_key_value_heads' must equal 'num_attention_heads'")
    return heads


def _model(fields: Fields, hybrid: SharedBlock, kinds: list[str]) -> Zamba:
    """The model whose layers are of those kinds; its logits are tied to embeddings."""
    if not fields.flag("tie_word_embeddings", True):
        raise ModelError(
            f"{fields.name}: 'tie_word_embeddings' = False: the published class then unties the "
            "shared blocks as well, which is not supported"
        )
    layers: dict[str, Repeatable] = {
        "mamba": Layer(hybrid.d, hybrid.mixer, None),
        "hybrid": hybrid,
    }
    segments = gathered((kind, layers[kind]) for kind in kinds)
    return Zamba(ends_of(fields, int(hybrid.d), tied=True), segments)


def _zamba_kinds(fields: Fields, count: int) -> list[str]:
    """The kind of each layer; the published rule where the file has no list."""
    if fields.values.get("layers_block_type") is not None:
        kinds = words(fields, "layers_block_type", _KINDS)
    else:
        period = fields.size("attn_layer_period", default=6)
        offset = fields.values.get("attn_layer_offset", 4)
        if type(offset) is not int or not 0 <= offset < period:
            raise ModelError(f"{fields.name}: 'attn_layer_offset' must be from 0 to {period - 1}")
        rest = ["hybrid" if i % period == offset else "mamba" for i in range(count)]
        kinds = ["mamba", "mamba", "hybrid", *rest][:count]
    if "hybrid" not in kinds or len(kinds) != count:
        raise ModelError(
            f"{fields.name}: 'layers_block_type' must name {count} layers, one of them hybrid"
        )
    return kinds


def _zamba2(fields: Fields) -> Reading:
    d = fields.size("hidden_size")
    fields.refuse("add_bias_linear", "biases are not supported in this family")
    fields.values.get("use_shared_mlp_adapter")  # which the class has, whatever this says
    fields.refuse("use_long_context", "scaled rotary tables are not supported")
    kinds = words(fields, "layers_block_type", _KINDS)
    places = kinds.count("hybrid")
    listed = [i for i, kind in enumerate(kinds) if kind == "hybrid"]
    if fields.values.get("hybrid_layer_ids") not in (None, listed):
        raise ModelError(
            f"{fields.name}: 'hybrid_layer_ids' is not what 'layers_block_type' says: {listed[:9]}"
        )
    if not places:
        raise ModelError(f"{fields.name}: 'layers_block_type' has no hybrid layer")
    heads = fields.size("n_mamba_heads", default=8)
    inner = fields.size("mamba_expand", default=2) * d
    wide = divided(fields, inner, heads, "Mamba's inner width over heads")
    if fields.size("mamba_headdim", default=int(wide)) != wide:
        raise ModelError(
            f"{fields.name}: 'mamba_headdim' is not {wide}, {inner} over {heads} heads"
        )
    mixer = Mamba2(
        d=Integer(d),
        heads=Integer(heads),
        head_dim=wide,
        states=Integer(fields.size("mamba_d_state", default=64)),
        groups=Integer(fields.size("mamba_ngroups", default=1)),
        conv=Integer(fields.size("mamba_d_conv", default=4)),
        conv_bias=fields.flag("use_conv_bias", True),
        chunk=Integer(fields.size("chunk_size", default=256)),
        norm_groups=Integer(fields.size("mamba_ngroups", default=1)),
    )
    query_heads = _query_heads(fields)
    double = fields.size("attention_hidden_size", default=2 * d)
    head_dim = fields.size(
        "attention_head_dim",
        default=int(divided(fields, double, query_heads, "attention width over heads")),
    )
    hybrid = SharedBlock(
        d=Integer(d),
        wide=Integer(double),
        heads=Integer(query_heads),
        head_dim=Integer(head_dim),
        rotary=Integer(head_dim) if fields.flag("use_mem_rope", False) else None,
        width=Integer(fields.size("intermediate_size", default=4 * d)),
        activation=activation_of(fields, "hidden_act", default="gelu"),
        rank=Integer(fields.size("adapter_rank", default=128)),
        sets=Rational(min(fields.size("num_mem_blocks", default=1), places), places),
        mixer=mixer,
        adapted=fields.flag("use_shared_attention_adapter", False),
    )
    return Reading(_model(fields, hybrid, kinds), scans=True, assumptions=(GATHERED,))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"zamba": _zamba, "zamba2": _zamba2})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"ZambaForCausalLM": "zamba", "Zamba2ForCausalLM": "zamba2"}
)
