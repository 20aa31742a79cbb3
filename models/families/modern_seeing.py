"""ModernVBERT (arXiv 2510.01149): ModernBERT behind a tower, and its vectors for retrieval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError
from costgraph.formula.terms import Limit
from costgraph.ir.graph import Graph
from costgraph.models.answering import ShownFront
from costgraph.models.blocks import Norm, Style
from costgraph.models.blocks.eyes import FixedTower
from costgraph.models.blocks.projector import Product, Steps
from costgraph.models.blocks.stack import Transform
from costgraph.models.encoder import Encoder, TextFront
from costgraph.models.encoder_heads import Head, MaskedHead, TransformedHead, VectorHead
from costgraph.models.families.common import (
    Family,
    Reading,
    activation_of,
    class_of,
    labels_of,
    tied_as_whole,
)
from costgraph.models.families.modern import FAMILIES as READERS
from costgraph.models.families.retrieving import VECTORS
from costgraph.models.families.seeing import siglip_tower, squares_beside
from costgraph.models.fields import Fields
from costgraph.models.multimodal import Seeing

_STEM = "ModernVBert"
PLAIN = "the class has no head: one pass whose result are hidden states"


@dataclass(frozen=True)
class ShownEncoder:
    """An encoder of text, some of whose embeddings are rows of a tower where images are shown."""

    text: Encoder

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Those of the encoder."""
        return self.text.limits

    def graph(self, name: str, style: Style, images: bool = False) -> Graph:
        """Its graph over ``B`` and ``q``."""
        front = self.text.front
        assert isinstance(front, TextFront)
        text = replace(self.text, front=ShownFront(front)) if images else self.text
        return text.graph(name, style)


def _head(fields: Fields, text: Fields, encoder: Encoder) -> Head | None:
    """The head of the class: a product, an activation and a norm before words or labels."""
    task = (class_of(fields.values) or f"{_STEM}Model").removeprefix(_STEM)
    tied = text.flag("tie_word_embeddings", False)
    if task == "Model":
        return None
    d, norm = encoder.d, Norm("layer")
    act = activation_of(text, "classifier_activation", default="gelu")
    if task == "ForMaskedLM":
        return MaskedHead(d, Integer(text.size("vocab_size")), act, norm, bias=False, tied=tied)
    pools = fields.word("classifier_pooling", default="cls")
    if pools not in ("cls", "mean"):
        raise ModelError(f"{fields.name}: 'classifier_pooling' must be cls or mean")
    pools = "" if task == "ForTokenClassification" else pools
    return TransformedHead(d, Integer(labels_of(fields)), Transform(act, norm), pools)


def _modernvbert(fields: Fields) -> Reading:
    text = tied_as_whole(fields, fields.section("text_config"), False)
    text.require("model_type", "modernbert")
    read = READERS["modernbert"](text.with_values(architectures=["ModernBertModel"]))
    encoder = read.model
    assert isinstance(encoder, Encoder)
    fields.refuse("classifier_bias", "biases are not supported in this family")
    seen = fields.section("vision_config")
    seen.require("model_type", "siglip_vision_model")
    tower = siglip_tower(seen)
    beside = squares_beside(fields.with_defaults(pixel_shuffle_factor=4), tower,
                            "pixel_shuffle_factor")  # fmt: skip
    steps: Steps = (beside, Product("1", encoder.d, False))
    eyes = FixedTower(tower, steps, encoder.d, normed=True).whole
    head = _head(fields, text, encoder)
    model = Seeing(eyes, ShownEncoder(replace(encoder, head=head)), once=True)
    return Reading(model, assumptions=() if head else (PLAIN,))


def _colmodernvbert(fields: Fields) -> Reading:
    part = fields.section("vlm_config")
    part.require("model_type", "modernvbert")
    reading = _modernvbert(part.with_values(architectures=[f"{_STEM}Model"]))
    model = reading.model
    assert isinstance(model, Seeing)
    assert isinstance(model.text, ShownEncoder)
    encoder, width = model.text.text, fields.size("embedding_dim", default=128)
    head = VectorHead(encoder.d, Integer(width))
    model = replace(model, text=ShownEncoder(replace(encoder, head=head)))
    return Reading(model, assumptions=(VECTORS.format(width=width),))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"modernvbert": _modernvbert, "colmodernvbert": _colmodernvbert}
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        "ModernVBertModel": "modernvbert",
        "ModernVBertForMaskedLM": "modernvbert",
        "ModernVBertForSequenceClassification": "modernvbert",
        "ModernVBertForTokenClassification": "modernvbert",
        "ColModernVBertForRetrieval": "colmodernvbert",
    }
)
