"""AIMv2 (Fini et al., arXiv 2411.14402): towers with gates and root mean squares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from sympy import Integer

from costgraph.models.blocks import Ends, FeedForward, Maker, Norm
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.tower import TokenPooling, TowerLayer
from costgraph.models.families.common import Family, Reading, activation_of
from costgraph.models.families.vision import patches_of, pixels, tower_of
from costgraph.models.fields import Fields
from costgraph.models.vision import ImageText, TextTower, Tower, VisionTransformer
from costgraph.ops.pattern import CAUSAL
from costgraph.symbols import B, S

RMS = Norm("rms")


@dataclass(frozen=True)
class BothProjected(ImageText):
    """CLIP whose tower pools all positions in front of the projection."""

    def _image(self, m: Maker) -> str:
        d, x, head = self.tower.at.d, self.tower.add(m), self.tower.head
        assert head is not None
        return self._joint(m, "image", head.add(m, m.norm("vision_norm", x, d, RMS)), d)


def _layer(fields: Fields) -> tuple[Heads, FeedForward]:
    act = activation_of(fields, "hidden_act", default="silu")
    bias = fields.flag("qkv_bias", False)
    at, feed = tower_of(fields.with_values(qkv_bias=bias), act)
    at = replace(at, out_bias=bias)
    return at, replace(feed, gated=True, bias=fields.flag("mlp_bias", False))


def _tower(seen: Fields) -> Tower:
    seen = seen.with_defaults(
        hidden_size=1024, intermediate_size=2816, num_hidden_layers=24, num_attention_heads=8,
        patch_size=14,
    )  # fmt: skip
    at, feed = _layer(seen)
    size, fixed = pixels(seen), seen.flag("is_native", False)
    patches = patches_of(seen, at.d, size, seen.size("patch_size"), first=0, placed=not fixed)
    return Tower(
        replace(patches, fixed=fixed, norm=RMS),
        at,
        feed,
        Integer(seen.size("num_hidden_layers")),
        size,
        back=RMS,
        norm=RMS,
        # What its token finds is projected with a bias either way.
        head=TokenPooling(replace(at, out_bias=True)) if seen.flag("use_head", True) else None,
    )


def _reader(read: Fields) -> TextTower:
    read = read.with_defaults(
        hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=6,
        vocab_size=49408, max_position_embeddings=77,
    )  # fmt: skip
    at, feed = _layer(read)
    longest = read.size("max_position_embeddings")
    return TextTower(
        text=Ends(at.d, Integer(read.size("vocab_size")), positions=Integer(longest)),
        layer=TowerLayer(B, S, at, feed, RMS, sees=CAUSAL),
        layers=Integer(read.size("num_hidden_layers")),
        longest=longest,
        norm=RMS,
    )


def _pair(fields: Fields) -> Reading:
    seen = fields.section("vision_config")
    seen.require("use_head", True)
    fields.values.get("max_logit_scale")  # a bound
    width = Integer(fields.size("projection_dim", default=512))
    return Reading(BothProjected(_tower(seen), _reader(fields.section("text_config")), width))


def _seen(fields: Fields) -> Reading:
    tower = _tower(fields)
    return Reading(VisionTransformer(tower, None, head=tower.head is not None))


def _read(fields: Fields) -> Reading:
    return Reading(_reader(fields))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"aimv2": _pair, "aimv2_vision_model": _seen, "aimv2_text_model": _read}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "Aimv2Model": "aimv2",
        "Aimv2VisionModel": "aimv2_vision_model",
        "Aimv2TextModel": "aimv2_text_model",
    }
)
