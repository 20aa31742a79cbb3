"""Dense decoders of their own: Muse Glimmer, HRM's two stacks that run in cycles, Doge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import ModelError
from costgraph.ir.graph import Graph
from costgraph.ir.regions import Repeat
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import Attention, Ends, Layer, Maker, Norm, Segment, Style
from costgraph.models.blocks.dynamic import DynamicAttention, WeighedLayer
from costgraph.models.blocks.stack import Uneven, close, embed, run
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.dense import swa_layers
from costgraph.models.families.experts import (
    attention_of,
    ends_of,
    feed_forward_of,
    stacked,
    uniform,
)
from costgraph.models.fields import Fields
from costgraph.ops import Add
from costgraph.ops.pattern import sliding
from costgraph.ops.views import Expand
from costgraph.symbols import B, q

ONE = Integer(1)
PLAIN = Norm(weight=False)


def glimmer_mixers(fields: Fields) -> tuple[Fields, list[tuple[str, Attention]], Ends]:
    """Attention of each layer with a name of its kind, and what stands around the layers.

    Windows, and layers that see everything and do not rotate; the file with both lists is given
    back.
    """
    count = fields.size("num_hidden_layers")
    last = [(count - 1 - i) % 4 == 0 for i in range(count)]
    named = fields.with_defaults(
        layer_types=["full_attention" if whole else "sliding_attention" for whole in last],
        layer_rope_theta=[0 if whole else 1 for whole in last],
    )
    attention = attention_of(fields, qk_norm=PLAIN, query_scale=True, gate="each")
    bias = fields.flag("attention_bias", False)
    attention = replace(attention, qkv_bias=bias, out_bias=bias)
    window = Integer(fields.size("sliding_window", default=2048))
    mixers = []
    for name, slide, turn in swa_layers(named):
        mixer = replace(attention, pattern=sliding(window if slide else None))
        mixers.append((name, mixer if turn else replace(mixer, rotary=None)))
    for key in ("qk_scale_factor", "post_norm_eps"):
        fields.values.get(key)
    ends = ends_of(
        fields,
        embed_norm=PLAIN,
        logit_scale=fields.number("output_multiplier", 1.0) != 1,
        logit_cap=True,
    )
    fields.number("final_logit_softcapping", 20.0)
    return named, mixers, ends


def _glimmer(fields: Fields) -> Reading:
    """Muse Glimmer's language model."""
    fields = fields.with_defaults(
        head_dim=128, num_key_value_heads=2, output_multiplier=0.19611613513818404
    ).renamed(hidden_act="hidden_activation")
    _, mixers, ends = glimmer_mixers(fields)
    feed = feed_forward_of(fields, fields.size("intermediate_size"))
    layers = {name: Layer(ends.d, mixer, feed, post_norms=True) for name, mixer in mixers}
    return Reading(stacked(ends, [name for name, _ in mixers], layers))


@dataclass(frozen=True)
class Cycles(Uneven):
    """Two stacks of layers whose weights every cycle shares, each pass with caches of its own.

    A fast state passes the low stack ``low`` times, together with the slow state, which then
    passes the high stack together with it; all of that ``high`` times. Both stacks end in a norm.
    Source: hierarchical reasoning models, arXiv 2506.21734.

    Attributes:
        layer, layers: of each stack, and how many.
        high, low: cycles, and passes of the low stack in each.
        norm: behind both stacks.
    """

    layer: Layer
    layers: Expr
    high: Expr
    low: Expr
    norm: Norm

    def graph(self, name: str, style: Style) -> Graph:
        """The step graph over ``B``, ``q`` and ``T``."""
        m = Maker(name, style)
        slow, table = embed(m, self.ends)
        start = m.vector("low_start", ONE, ONE, self.ends.d)
        fast = m.add("low_rows", Expand((B, q, self.ends.d)), start)
        shared = [m.source(t) for t in self.layer.operands(style)]
        cycle = Repeat(self._cycle(style), self.high, 2, shared_weights=ONE, rounds="other")
        slow, _ = m.add_many("cycles", cycle, slow, fast, *shared)
        return m.build(close(m, replace(self.ends, norm=None), slow, table))

    def _state(self, m: Maker, name: str) -> str:
        return m.source(Tensor(name, (B, q, self.ends.d), m.style.acts))

    def _cycle(self, style: Style) -> Graph:
        m = Maker("cycle", style)
        slow, fast = self._state(m, "slow"), self._state(m, "fast")
        shared = [m.source(t) for t in self.layer.operands(style)]
        passes = Repeat(self._pass(style), self.low, shared_weights=ONE, rounds="other")
        fast = m.add("low_passes", passes, fast, slow, *shared)
        slow = self._through(m, "high", slow, fast)
        return m.build(slow, fast)

    def _pass(self, style: Style) -> Graph:
        m = Maker("pass", style)
        fast, slow = self._state(m, "fast"), self._state(m, "slow")
        for tensor in self.layer.operands(style):
            m.source(tensor)
        return m.build(self._through(m, "low", fast, slow))

    def _through(self, m: Maker, name: str, state: str, other: str) -> str:
        """Adds both states, a stack and its norm."""
        x = m.add(f"{name}_sum", Add(), state, other)
        given = {t.name: t.name for t in self.layer.operands(m.style)}
        x = run(m, (Segment(f"{name}_layers", self.layer, self.layers),), x, **given)
        return m.norm(f"{name}_norm", x, self.ends.d, self.norm)


#: What is said of prompts whose first part sees itself in both directions.
PREFIX = (
    "prompts are counted as in a causal model; where token types mark a prefix, its tokens see one "
    "another in both directions: their later pairs are not counted"
)


def _hrm(fields: Fields) -> Reading:
    """HRM-Text: a file that was saved by the class names its passes beside its layers."""
    high, low = fields.size("H_cycles", default=2), fields.size("L_cycles", default=3)
    total = fields.size("num_hidden_layers")
    layers = fields.size("num_layers_per_stack", default=total)
    if fields.has("num_layers_per_stack") and total not in (layers, layers * high * (low + 1)):
        raise ModelError(
            f"{fields.name}: 'num_hidden_layers' = {total} is not 'num_layers_per_stack' times "
            f"'H_cycles' times 'L_cycles' + 1 = {layers * high * (low + 1)}"
        )
    fields.refuse("attention_bias", "biases of gates are not known in this family")
    heads = fields.size("num_attention_heads")
    attention = attention_of(
        fields.with_defaults(head_dim=128).with_values(num_key_value_heads=heads), gate="each"
    )
    feed = replace(
        feed_forward_of(fields, fields.size("intermediate_size")),
        bias=fields.flag("mlp_bias", False),
    )
    for key in ("L_bp_cycles", "embedding_scale"):
        fields.values.get(key)  # of training, and a number
    said = (PREFIX,) if fields.flag("prefix_lm", True) else ()
    model = Cycles(
        ends_of(fields, embed_scale=True),
        layer=Layer(attention.d, attention, feed, PLAIN),
        layers=Integer(layers),
        high=Integer(high),
        low=Integer(low),
        norm=PLAIN,
    )
    return Reading(model, assumptions=said)


def _doge(fields: Fields) -> Reading:
    """Doge: a mask made of values, vectors on what goes past the blocks."""
    fields.refuse("is_moe", "experts that product keys find are not known in this family")
    fields.refuse("sliding_window", "windows are not known in this family")
    for key in ("num_experts", "num_experts_per_tok", "norm_topk_prob"):
        fields.values.get(key)  # of the experts that there are not
    bias = fields.flag("attention_bias", False)
    plain = attention_of(fields, qk_norm=Norm(), qkv_bias=bias, out_bias=bias)
    attention = DynamicAttention(**vars(plain))
    feed = replace(
        feed_forward_of(fields, fields.size("intermediate_size")),
        bias=fields.flag("mlp_bias", False),
    )
    layer = WeighedLayer(attention.d, attention, feed)
    most = fields.size("keep_window_size", default=2048)
    said = (
        f"with more than {most} positions the class masks all but the {most} that its values name; "
        "all are counted"
    )
    model = uniform(ends_of(fields), layer, fields.size("num_hidden_layers"))
    return Reading(model, assumptions=(said,))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"muse_glimmer_text": _glimmer, "hrm_text": _hrm, "doge": _doge}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {"HrmTextForCausalLM": "hrm_text", "DogeForCausalLM": "doge"}
)
