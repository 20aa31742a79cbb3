"""BERT and XLM-RoBERTa, and Jina's embedding models, whose files name those types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from sympy import Integer

from costgraph.errors import ModelError, clip
from costgraph.models.blocks import Attention, Ends, FeedForward, Layer, Segment
from costgraph.models.encoder import Encoder, TextFront
from costgraph.models.encoder_heads import MaskedHead, PretrainedHeads, Resting
from costgraph.models.families.common import Family, Reading, activation_of, class_of
from costgraph.models.families.encoders import (
    BARE,
    COLBERT,
    LAYER_NORM,
    POOLER,
    SENTENCES,
    TASKS,
    bert,
    classes_of,
    heads_by_task,
    require_tied,
    roberta,
    task_of,
    types_of,
)
from costgraph.models.families.kindred import ROTATED, read_of
from costgraph.models.fields import Fields, divided
from costgraph.ops.pattern import FULL

#: Names of gated feed-forward blocks in files of JinaBERT, and their activations.
_GATES: Mapping[str, str] = MappingProxyType({"geglu": "gelu", "reglu": "relu"})
_ADAPTED = (
    "adapters of {tasks} tasks of rank {rank} rest in memory: a request that names a task adds "
    "their products to the weights, which is not counted"
)


def _bert(fields: Fields) -> Reading:
    if (class_of(fields.values) or "").startswith("JinaBert"):
        return _jina_bert(fields)
    return bert(fields)


def _jina_bert(fields: Fields) -> Reading:
    """BERT with linear biases of distances and gates (arXiv 2310.19923).

    Raises:
        ModelError: positions or blocks are others; files that point to the code with norms of
            queries and keys are another model.
    """
    fields.require("position_embedding_type", "alibi")
    kind = fields.word("feed_forward_type", default="original")
    if kind not in _GATES:
        raise ModelError(
            f"{fields.name}: 'feed_forward_type' = {clip(kind)}: only "
            f"{' or '.join(_GATES)} is known"
        )
    code = fields.values.get("auto_map")
    if isinstance(code, Mapping) and "qk-post-norm" in str(code.get("AutoConfig")):
        raise ModelError(
            f"{fields.name}: 'auto_map' points to JinaBERT with norms of queries and keys, whose "
            "layers are not known here"
        )
    for key in ("is_decoder", "add_cross_attention"):
        fields.refuse(key, "only the encoder is supported in this family")
    fields.values.get("emb_pooler")  # how states are averaged, behind the model
    d, heads = fields.size("hidden_size"), fields.size("num_attention_heads")
    wide, vocab = Integer(d), Integer(fields.size("vocab_size"))
    width = divided(fields, d, heads, "hidden size over heads")
    at = Attention(
        wide, Integer(heads), Integer(heads), width,
        qkv_bias=True, out_bias=True, alibi=True, causal=False, pattern=FULL,
    )  # fmt: skip
    feed = FeedForward(
        wide,
        Integer(fields.size("intermediate_size")),
        _GATES[kind],
        fused_gate_up=True,
        down_bias=True,
    )
    require_tied(fields)
    act = activation_of(fields, "hidden_act", default="gelu")
    head = heads_by_task(fields, wide, MaskedHead(wide, vocab, act, LAYER_NORM))
    layer = Layer(wide, at, feed, LAYER_NORM, norm_first=False)
    model = Encoder(
        front=TextFront(Ends(wide, vocab, embed_norm=LAYER_NORM), types=types_of(fields)),
        segments=(Segment("layers", layer, Integer(fields.size("num_hidden_layers"))),),
        d=wide,
        head=head,
        longest=fields.size("max_position_embeddings"),
    )
    said = POOLER if task_of(fields) == "Model" else "" if head else BARE
    return Reading(model, assumptions=(said,) if said else ())


def _xlm_roberta(fields: Fields) -> Reading:
    if fields.peek("position_embedding_type") != "rotary":
        return roberta(fields)
    return _adapted(fields)


def _adapted(fields: Fields) -> Reading:
    """XLM-RoBERTa with rotated positions, and adapters for tasks (arXiv 2409.10173)."""
    fields.values.get("position_embedding_type")
    for key in ("matryoshka_dimensions", "task_instructions", "truncate_dim", "lora_alpha",
                "load_trained_adapters", "lora_main_params_trainable", "use_flash_attn",
                "use_reentrant", "emb_pooler"):  # fmt: skip
        fields.values.get(key)  # of training, kernels, and what is made of the result
    plain = fields.with_values(position_embedding_type="absolute")
    reading = read_of(plain, ROTATED)
    tasks = fields.values.get("lora_adaptations") or []
    if not isinstance(tasks, list):
        raise ModelError(f"{fields.name}: 'lora_adaptations' must be a list of tasks")
    if not tasks:
        return reading
    model = reading.model
    assert isinstance(model, Encoder)
    if task_of(fields) not in ("Model", ""):
        raise ModelError(f"{fields.name}: adapters are known for the bare model alone")
    rank, d = fields.size("lora_rank"), fields.size("hidden_size")
    inner, types = fields.size("intermediate_size"), types_of(fields)
    # Rows and columns of each adapted matrix; queries, keys and values are one.
    layer = (d + 3 * d) + (d + d) + 2 * (d + inner)
    sides = fields.size("num_hidden_layers") * layer + fields.size("vocab_size") + d
    sides += types + d if types else 0
    sides += 2 * d if model.head is not None else 0
    size = Integer(len(tasks) * rank * sides)
    assert not isinstance(model.head, PretrainedHeads)
    head = Resting((("adapters.weight", size),), model.head)
    said = _ADAPTED.format(tasks=len(tasks), rank=rank)
    return replace(
        reading, model=replace(model, head=head), assumptions=(*reading.assumptions, said)
    )


#: ``model_type`` to the function that reads it.
FAMILIES: Mapping[str, Family] = MappingProxyType({"bert": _bert, "xlm-roberta": _xlm_roberta})

#: Class names in ``architectures``, for configurations without ``model_type``.
ARCHITECTURES: Mapping[str, str] = MappingProxyType(
    {
        **classes_of({"Bert": "bert", "XLMRoberta": "xlm-roberta"}),
        **classes_of({"Bert": "bert"}, SENTENCES),
        COLBERT: "bert",
        **classes_of({"JinaBert": "bert"}, TASKS[:-1]),
    }
)
