"""BERT's kindred that know more of a text than its words: languages, shapes and sounds of signs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip
from costgraph.ir.dtypes import INT64
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks import FeedForward, Layer, Maker
from costgraph.models.blocks.tongues import AGAIN, OWN, PLAIN, SpokenLayer
from costgraph.models.encoder import Encoder, RestingFront, TextFront
from costgraph.models.encoder_heads import MaskedHead, PooledHead, PretrainedHeads
from costgraph.models.families.common import Family, Reading
from costgraph.models.families.encoders import TASKS, classes_of, task_of
from costgraph.models.families.kindred import Kin, encoder_of, read_of
from costgraph.models.fields import Fields
from costgraph.ops import Add, Concat, Embedding
from costgraph.symbols import B, q

SPOKEN = (
    "all texts of a batch are of one language: adapters of the {0} others rest in memory, as "
    "published code that sorts positions by language runs one for each"
)


def _languages(fields: Fields) -> int:
    """How many languages there are; the class has one where the file says nothing."""
    found = fields.values.get("languages")
    if found is None:
        return 1
    if not isinstance(found, list) or not found or any(not isinstance(n, str) for n in found):
        raise ModelError(f"{fields.name}: 'languages' must be a list of names, not {clip(found)}")
    if len(set(found)) != len(found):
        raise ModelError(f"{fields.name}: 'languages' names one twice")
    return len(found)


def _spoken(fields: Fields, plain: Layer) -> SpokenLayer:
    """The layer with what the file says of its adapter."""
    factor, d = fields.size("adapter_reduction_factor", default=2), fields.size("hidden_size")
    if factor > d:
        raise ModelError(f"{fields.name}: 'adapter_reduction_factor' = {factor} of {d}")
    again = fields.flag("adapter_reuse_layer_norm", True)
    own = fields.flag("adapter_layer_norm", False)
    assert isinstance(plain.channel, FeedForward)
    return SpokenLayer(
        plain.d,
        plain.mixer,
        plain.channel,
        plain.norm,
        norm_first=plain.norm_first,
        narrow=Integer(d // factor),
        reads=OWN if own else AGAIN if again else PLAIN,
        normed=fields.flag("ln_before_adapter", True),
        function=plain.channel.activation,
    )


def _xmod(fields: Fields) -> Reading:
    """RoBERTa with adapters for languages, one of which each text passes."""
    kin = Kin(unused=2, masked="gelu", first=fields.flag("pre_norm", False))
    languages = _languages(fields)
    fields.values.get("default_language")  # the one that is read where a text says nothing
    reading = read_of(fields, kin)
    model = encoder_of(reading)
    (segment,) = model.segments
    assert isinstance(segment.layer, Layer)
    layer = _spoken(fields, segment.layer)
    model = replace(model, segments=(replace(segment, layer=layer),))
    if languages == 1:
        return replace(reading, model=model)
    others = (languages - 1) * segment.count
    resting = (
        ("tongues.weight", 2 * others * layer.d * layer.narrow),
        ("tongues.bias", others * (layer.d + layer.narrow)),
    )
    said = (*reading.assumptions, SPOKEN.format(languages - 1))
    model = replace(model, front=RestingFront(model.front, resting))
    return replace(reading, model=model, assumptions=said)


@dataclass(frozen=True)
class SignFront:
    """Embeddings of a sign, of its shape and of its sound side by side, through one product.

    Attributes:
        front: of words, with what is added behind the product.
        parts: further tables that stand beside words: a name, rows, width.
    """

    front: TextFront
    parts: tuple[tuple[str, Expr, Expr], ...]

    def add(self, m: Maker) -> tuple[str, str]:
        """Adds them: (hidden state, embedding table)."""
        ends = self.front.ends
        d, made = ends.d, []
        table = m.weight("embed.weight", ends.vocab, d)
        ids = m.source(Tensor("ids", (B, q), INT64))
        made.append(m.add("embed", Embedding(result=m.style.acts), ids, table))
        for name, rows, width in self.parts:
            ids = m.source(Tensor(f"{name}_ids", (B, q), INT64))
            learned = m.weight(f"{name}s.weight", rows, width)
            made.append(m.add(f"{name}_embed", Embedding(result=m.style.acts), ids, learned))
        wide = d + sum((width for _, _, width in self.parts), Integer(0))
        x = m.linear("embed_proj", m.add("signs", Concat(), *made), d, wide, True)
        assert ends.positions is not None
        assert ends.embed_norm is not None
        types = m.source(Tensor("type_ids", (B, q), INT64))
        rows = m.weight("types.weight", Integer(self.front.types), d)
        x = m.add("type_add", Add(), x, m.add("type_embed", _looked(m), types, rows))
        places = m.source(Tensor("position_ids", (q,), INT64))
        rows = m.weight("positions.weight", ends.positions, d)
        x = m.add("position_add", Add(), x, m.add("position_embed", _looked(m), places, rows))
        return m.norm("embed_norm", x, d, ends.embed_norm), table


def _looked(m: Maker) -> Embedding:
    return Embedding(result=m.style.acts)


def _roc_bert(fields: Fields) -> Reading:
    """BERT that reads shapes and sounds of Chinese signs beside words."""
    for key in ("concat_input", "enable_shape", "enable_pronunciation"):
        fields.require(key, True)
    if task_of(fields) == "ForPreTraining":
        # Its class has the pooler, whose result is compared with that of other texts.
        masked = fields.with_values(architectures=["RoCBertForMaskedLM"])
        reading = read_of(masked, Kin())
        model = encoder_of(reading)
        assert isinstance(model.head, MaskedHead)
        head = PretrainedHeads(model.head, PooledHead(model.d))
        return replace(reading, model=_signs(fields, replace(model, head=head)))
    reading = read_of(fields, Kin())
    return replace(reading, model=_signs(fields, encoder_of(reading)))


def _signs(fields: Fields, model: Encoder) -> Encoder:
    """The model behind embeddings of signs."""
    assert isinstance(model.front, TextFront)
    if not model.front.types:
        raise ModelError(f"{fields.name}: 'type_vocab_size' must be one or more in this family")
    parts = (
        ("shape", fields.size("shape_vocab_size"), fields.size("shape_embed_dim")),
        ("sound", fields.size("pronunciation_vocab_size"), fields.size("pronunciation_embed_dim")),
    )
    sized = tuple((name, Integer(rows), Integer(width)) for name, rows, width in parts)
    return replace(model, front=SignFront(model.front, sized))


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"xmod": _xmod, "roc_bert": _roc_bert})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        **classes_of({"Xmod": "xmod", "RoCBert": "roc_bert"}, TASKS),
        "RoCBertForPreTraining": "roc_bert",
    }
)
