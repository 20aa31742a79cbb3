"""BERT's kindred as data: narrow embeddings, norms in front, shared weights, further tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from sympy import Expr, Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Ends, FeedForward, Layer, Segment
from costgraph.models.blocks.encoder import Bidirectional, Heads
from costgraph.models.encoder import Encoder, Front, TextFront, TurnedRows, Widened
from costgraph.models.encoder_heads import (
    Head,
    LabelHead,
    MaskedHead,
    PooledHead,
    PretrainedHeads,
    ProjectedHead,
    Resting,
)
from costgraph.models.families.common import Family, Reading, activation_of, class_of
from costgraph.models.families.encoders import (
    BARE,
    FEW,
    LAYER_NORM,
    POOLER,
    SENTENCES,
    TASKS,
    classes_of,
    heads_by_task,
    require_tied,
    task_of,
    types_of,
)
from costgraph.models.fields import Fields, divided

ONE = Integer(1)


@dataclass(frozen=True)
class Kin:
    """In what a relative differs from BERT.

    Attributes:
        rows: of the table of positions, where the file does not say.
        unused: rows of that table that stand for none.
        extra: rows of that table beyond those that the file states.
        positions: there is such a table; else positions are rotated.
        first: norms stand in front of blocks, and one behind all layers.
        embed_norm: a norm behind the embeddings.
        narrow: the key of the width of embeddings that a product widens, or empty; ``narrowed``:
            that width where the file does not say, or 0 for that of the layers; ``always``: there
            is a product also where they are as wide as the layers.
        pools: what acts on the first position where a sequence is labelled.
        pooler: the bare model has one.
        masked: the activation of the class of masked tokens; empty for that of the layers.
        also: classes of masked tokens and of labelled ones compute the pooler, too, without use.
        tables: further tables of embeddings: a name, the key of their rows, look-ups.
        off: keys that change the model where they are set: refused.
        activation: where the file names none.
    """

    rows: int = 512
    unused: int = 0
    extra: int = 0
    positions: bool = True
    first: bool = False
    embed_norm: bool = True
    narrow: str = ""
    narrowed: int = 0
    always: bool = False
    pools: str = "tanh"
    pooler: bool = True
    masked: str = ""
    also: bool = False
    tables: tuple[tuple[str, str, int], ...] = ()
    off: tuple[str, ...] = ()
    activation: str = "gelu"


#: Keys that make any of them a decoder.
_DECODES = ("is_decoder", "add_cross_attention")


def _kin(kin: Kin) -> Family:
    def read(fields: Fields) -> Reading:
        return read_of(fields, kin)

    return read


def _act(fields: Fields, kin: Kin) -> str:
    return activation_of(fields, "hidden_act", default=kin.activation)


def _pools(fields: Fields, kin: Kin) -> str:
    """The function of the pooled position; an empty name is that of the layers."""
    return kin.pools or _act(fields, kin)


def _width(fields: Fields, kin: Kin) -> Expr:
    """The width of embeddings."""
    d = fields.size("hidden_size")
    return Integer(fields.size(kin.narrow or "hidden_size", default=kin.narrowed or d))


def heads_for(fields: Fields, kin: Kin) -> Heads:
    """Heads with all biases, rotated where there is no table of positions."""
    d, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    width = divided(fields, d, heads, "hidden size over heads")
    rotary = None if kin.positions else width
    return Heads(Integer(d), Integer(heads), width, True, True, True, rotary=rotary)


def _layer(fields: Fields, kin: Kin, at: Heads) -> Layer:
    feed = FeedForward(
        at.d, Integer(fields.size("intermediate_size")), _act(fields, kin), gated=False, bias=True
    )
    return Layer(at.d, Bidirectional(at), feed, LAYER_NORM, norm_first=kin.first)


def _front(fields: Fields, kin: Kin) -> tuple[Front, int | None]:
    """Embeddings, and the most positions that there are."""
    width, rows = _width(fields, kin), None
    if kin.positions:
        rows = fields.size("max_position_embeddings", default=kin.rows)
    norm = LAYER_NORM if kin.embed_norm else None
    ends = Ends(
        width,
        Integer(fields.size("vocab_size")),
        positions=None if rows is None else Integer(rows + kin.extra),
        embed_norm=norm,
    )
    tables = tuple((name, Integer(fields.size(key)), times) for name, key, times in kin.tables)
    front = TextFront(ends, types_of(fields), tables)
    d = Integer(fields.size("hidden_size"))
    longest = None if rows is None else rows + kin.extra - kin.unused
    return (Widened(front, d) if kin.always or width != d else front), longest


def _masked(fields: Fields, kin: Kin) -> MaskedHead:
    require_tied(fields)
    act = kin.masked or _act(fields, kin)
    return MaskedHead(_width(fields, kin), Integer(fields.size("vocab_size")), act, LAYER_NORM)


def _head(fields: Fields, kin: Kin, masked: MaskedHead) -> Head | PretrainedHeads | None:
    d = Integer(fields.size("hidden_size"))
    if task_of(fields) == "ForPreTraining":  # of the classes that SENTENCES names
        return PretrainedHeads(masked, PooledHead(d, Integer(2)))
    head = heads_by_task(fields, d, masked, _pools(fields, kin), kin.pooler)
    if kin.also and isinstance(head, MaskedHead | LabelHead):
        return PretrainedHeads(head, PooledHead(d))
    return head


def said_of(fields: Fields, head: object, pooler: bool) -> tuple[str, ...]:
    """What to say of a class without a head, or with a pooler alone."""
    if head is None:
        return (BARE,)
    return (POOLER,) if task_of(fields) == "Model" and pooler else ()


def read_of(fields: Fields, kin: Kin) -> Reading:
    """A relative of BERT.

    Raises:
        ModelError: a key makes it something that its family does not know.
    """
    for key in (*_DECODES, *kin.off):
        fields.refuse(key, "not understood in this family")
    places = fields.word("position_embedding_type", default="absolute")
    if places != "absolute":
        raise ModelError(f"{fields.name}: 'position_embedding_type' = {places!r} is not supported")
    layer = _layer(fields, kin, heads_for(fields, kin))
    front, longest = _front(fields, kin)
    head = _head(fields, kin, _masked(fields, kin))
    model = Encoder(
        front=front,
        segments=(Segment("layers", layer, Integer(fields.size("num_hidden_layers"))),),
        d=layer.d,
        norm=LAYER_NORM if kin.first else None,
        head=head,
        longest=longest,
    )
    return Reading(model, assumptions=said_of(fields, head, kin.pooler))


def encoder_of(reading: Reading) -> Encoder:
    """The encoder that was read."""
    assert isinstance(reading.model, Encoder)
    return reading.model


#: XLM-RoBERTa with rotated positions.
ROTATED = Kin(positions=False, masked="gelu")
ELECTRA = Kin(narrow="embedding_size", narrowed=128, pools="gelu", pooler=False, masked="gelu")


def _electra(fields: Fields) -> Reading:
    """BERT with narrow embeddings; its discriminator labels every position with one number."""
    if task_of(fields) != "ForPreTraining":
        return read_of(fields, ELECTRA)
    fields.values.get("tie_word_embeddings")  # the discriminator has no logits of words
    reading = read_of(fields.with_values(tie_word_embeddings=True), ELECTRA)
    model = encoder_of(reading)
    head = LabelHead(model.d, ONE, _act(fields, ELECTRA))
    return Reading(replace(model, head=head))


def _albert(fields: Fields) -> Reading:
    """BERT with narrow embeddings whose layers all have the same weights."""
    for key in ("num_hidden_groups", "inner_group_num"):
        fields.require(key, 1)
    for key in ("down_scale_factor", "gap_size", "net_structure_type", "num_memory_blocks"):
        fields.values.get(key)  # of the first code, which the published files set to nothing
    kin = Kin(narrow="embedding_size", narrowed=128, always=True, activation="gelu_new")
    reading = read_of(fields, kin)
    model = encoder_of(reading)
    (segment,) = model.segments
    return replace(reading, model=replace(model, segments=(replace(segment, sets=ONE),)))


def _rembert(fields: Fields) -> Reading:
    """Narrow embeddings, and a projection of masked tokens of its own, from another width."""
    kin = Kin(narrow="input_embedding_size", narrowed=256, always=True)
    tied = fields.flag("tie_word_embeddings", False)
    reading = read_of(fields.with_values(tie_word_embeddings=True), kin)
    if task_of(fields) != "ForMaskedLM":
        return reading
    if tied:
        raise ModelError(f"{fields.name}: 'tie_word_embeddings' is not supported in this family")
    model = encoder_of(reading)
    assert isinstance(model.head, MaskedHead)
    width = Integer(fields.size("output_embedding_size"))
    return replace(reading, model=replace(model, head=replace(model.head, d=width, tied=False)))


def _roformer(fields: Fields) -> Reading:
    """Positions are rotated by a table of weights."""
    fields.refuse("rotary_value", "rotated values are not known in this family")
    kin = Kin(positions=False, narrow="embedding_size", pools="", pooler=False)
    reading = read_of(fields, kin)
    rows = fields.size("max_position_embeddings")
    table = TurnedRows(Integer(rows), heads_for(fields, kin).head_dim)
    model = replace(encoder_of(reading), buckets=table, longest=rows)
    return replace(reading, model=model)


def _dpr(fields: Fields) -> Reading:
    """BERT whose first position is the embedding, as it is or projected."""
    if class_of(fields.values) not in (None, "DPRQuestionEncoder", "DPRContextEncoder"):
        raise ModelError(f"{fields.name}: only DPR's encoders are read, not its reader")
    reading = read_of(fields, Kin(pooler=False))
    out = fields.values.get("projection_dim") or 0
    if out:
        raise ModelError(f"{fields.name}: 'projection_dim' = {clip(out)}: only 0 is supported")
    return reading


def _tapas(fields: Fields) -> Reading:
    """BERT with seven tables of types."""
    key = "type_vocab_sizes"
    sizes = fields.values.get(key)
    if not isinstance(sizes, list) or any(type(n) is not int or n < 1 for n in sizes):
        raise ModelError(f"{fields.name}: {key!r} must be a list of sizes, not {clip(sizes)}")
    reading = read_of(fields.with_values(type_vocab_size=0), Kin(rows=1024))
    model = encoder_of(reading)
    assert isinstance(model.front, TextFront)
    tables = tuple((f"type{i}", Integer(n), 1) for i, n in enumerate(sizes))
    return replace(reading, model=replace(model, front=replace(model.front, tables=tables)))


def _xlm(fields: Fields) -> Reading:
    """Norms behind the residuals, logits from the embeddings, one table for all languages."""
    named = fields.renamed(
        hidden_size="emb_dim",
        num_hidden_layers="n_layers",
        num_attention_heads="n_heads",
        vocab_size="n_words",
    ).with_values(type_vocab_size=0)
    words = fields.size("n_words", "vocab_size")
    if fields.size("vocab_size", default=words) != words:
        raise ModelError(f"{fields.name}: 'vocab_size' is not 'n_words'")
    fields.refuse("asm", "an adaptive softmax is not known in this family")
    fields.refuse("causal", "attention in one direction is not known in this family")
    fields.require("is_encoder", True)
    fields.refuse("pre_norm", "norms in front are not known in this family")
    fields.values.get("sinusoidal_embeddings")  # the values of a table that is there either way
    d = named.size("hidden_size")
    act = "gelu" if fields.flag("gelu_activation", True) else "relu"
    named = named.with_values(intermediate_size=4 * d, hidden_act=act)
    task = task_of(fields)
    if task not in ("Model", ""):
        raise ModelError(f"{fields.name}: only the bare model and that with logits are read")
    kin = Kin(pooler=False)
    reading = read_of(named, kin)
    model = encoder_of(reading)
    languages = fields.size("n_langs", default=1)
    if languages > 1 and fields.flag("use_lang_emb", True):
        assert isinstance(model.front, TextFront)
        tables = (("language", Integer(languages), 1),)
        model = replace(model, front=replace(model.front, tables=tables))
    name = class_of(fields.values) or ""
    if not name.endswith("WithLMHeadModel"):
        return replace(reading, model=model)
    tied = fields.flag("tie_word_embeddings", True)
    head = ProjectedHead(Integer(d), Integer(named.size("vocab_size")), tied, True)
    return Reading(replace(model, head=head))


def _generation(fields: Fields) -> Reading:
    """BERT without types; the decoder's class is read as it is by default, in both directions."""
    reading = read_of(fields.with_values(type_vocab_size=0), Kin(pooler=False))
    if class_of(fields.values) != "BertGenerationDecoder":
        return reading
    model = encoder_of(reading)
    tied = fields.flag("tie_word_embeddings", True)
    head = ProjectedHead(model.d, Integer(fields.size("vocab_size")), tied, True)
    return Reading(replace(model, head=head))


def _esm(fields: Fields) -> Reading:
    """Norms in front; a head for contacts of residues rests beside the layers."""
    places = fields.word("position_embedding_type", default="absolute")
    if places not in ("absolute", "rotary"):
        raise ModelError(f"{fields.name}: 'position_embedding_type' = {places!r} is not supported")
    fields.refuse("is_folding_model", "folding is not known in this family")
    fields.values.get("token_dropout")  # scales embeddings; counted with the embedding
    for key in ("esmfold_config", "vocab_list"):
        fields.values.get(key)  # of the folding model, and words
    absolute = places == "absolute"
    # Positions start behind the padding index.
    kin = Kin(
        rows=1026,
        unused=2,
        positions=absolute,
        first=True,
        embed_norm=fields.flag("emb_layer_norm_before", False),
        masked="gelu",
        pooler=True,
    )
    reading = read_of(
        fields.with_values(position_embedding_type="absolute", type_vocab_size=0), kin
    )
    model = encoder_of(reading)
    pairs = fields.size("num_hidden_layers") * fields.size("num_attention_heads")
    resting = (("contacts.weight", Integer(pairs)), ("contacts.bias", ONE))
    head = model.head
    assert head is None or not isinstance(head, PretrainedHeads)
    longest = (
        model.longest if absolute else fields.size("max_position_embeddings", default=kin.rows)
    )
    changed = replace(model, head=Resting(resting, head), longest=longest)
    return replace(reading, model=changed)


#: Of the file's boxes: left and right, upper and lower edges, heights and widths.
_BOXES = (
    ("x", "max_2d_position_embeddings", 2),
    ("y", "max_2d_position_embeddings", 2),
    ("h", "max_2d_position_embeddings", 1),
    ("w", "max_2d_position_embeddings", 1),
)

#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "electra": _electra,
        "albert": _albert,
        "rembert": _rembert,
        "roformer": _roformer,
        "dpr": _dpr,
        "tapas": _tapas,
        "xlm": _xlm,
        "flaubert": _xlm,
        "bert-generation": _generation,
        "esm": _esm,
        "megatron-bert": _kin(Kin(first=True, embed_norm=False)),
        "roberta-prelayernorm": _kin(Kin(unused=2, first=True)),
        "xlm-roberta-xl": _kin(
            Kin(rows=514, unused=2, first=True, embed_norm=False, masked="gelu")
        ),
        "ibert": _kin(Kin(unused=2, masked="gelu", off=("quant_mode",))),
        "jina_embeddings_v3": _kin(ROTATED),
        "splinter": _kin(Kin(pooler=False)),
        "layoutlm": _kin(Kin(also=True, tables=_BOXES)),
    }
)

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        **classes_of(
            {
                "Electra": "electra",
                "Albert": "albert",
                "RemBert": "rembert",
                "MegatronBert": "megatron-bert",
                "RobertaPreLayerNorm": "roberta-prelayernorm",
                "XLMRobertaXL": "xlm-roberta-xl",
                "IBert": "ibert",
            }
        ),
        **classes_of(
            {"JinaEmbeddingsV3": "jina_embeddings_v3", "RoFormer": "roformer"}, TASKS[:-1]
        ),
        **classes_of({"Esm": "esm", "LayoutLM": "layoutlm"}, FEW),
        **classes_of({"Tapas": "tapas"}, ("ForMaskedLM", "Model")),
        "LayoutLMForQuestionAnswering": "layoutlm",
        **classes_of({"MegatronBert": "megatron-bert"}, SENTENCES),
        "ElectraForPreTraining": "electra",
        "SplinterModel": "splinter",
        "DPRQuestionEncoder": "dpr",
        "DPRContextEncoder": "dpr",
        "XLMModel": "xlm",
        "XLMWithLMHeadModel": "xlm",
        "FlaubertModel": "flaubert",
        "FlaubertWithLMHeadModel": "flaubert",
        "BertGenerationEncoder": "bert-generation",
        "BertGenerationDecoder": "bert-generation",
    }
)
