"""What families share: how a configuration is read into a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from sympy import Expr, Integer, Symbol

from costgraph.errors import ModelError, clip, nearest
from costgraph.formula.terms import Limit
from costgraph.ir.graph import Graph
from costgraph.ir.program import Program
from costgraph.models.ahead import Ahead
from costgraph.models.blocks import Ends, Style
from costgraph.models.blocks.stack import Repeatable
from costgraph.models.decoder import Decoder, Kind
from costgraph.models.fields import Fields, divided

#: Names of activation functions in configurations, and ours.
ACTIVATION_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "silu": "silu",
        "swish": "silu",
        "swiglu": "silu",
        "relu": "relu",
        "relu2": "relu2",
        "gelu": "gelu",
        "gelu_new": "gelu_tanh",
        "gelu_fast": "gelu_tanh",
        "gelu_python": "gelu",
        "gelu_pytorch_tanh": "gelu_tanh",
        "quick_gelu": "quick_gelu",
        "xielu": "xielu",
    }
)


class Model(Protocol):
    """What a family reads a configuration into: it makes the step graph."""

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Bounds on the symbols of its graph."""

    def graph(self, name: str, style: Style) -> Graph:
        """The step graph over ``B``, ``q`` and ``T``."""

    def symbolic(self) -> tuple[Model, dict[Symbol, Expr]]:
        """The model over symbols for its dimensions, and their values.

        Raises:
            InputError: this model keeps no symbolic dimensions.
        """


@runtime_checkable
class Programmed(Protocol):
    """A model with phases of its own: an encoder, or an encoder with a decoder."""

    def program(self, name: str, style: Style) -> Program:
        """The program of the model."""


@dataclass(frozen=True)
class Reading:
    """What a family read: the model, and how a request runs through it.

    ``phases`` is ``autoregressive``, ``denoising`` for models that fill in a whole
    sequence in steps, or ``forward`` for those that only read one. ``assumptions`` are
    sentences that its counts rest on.
    ``scans``: the model scans over matrix states, in chunks for a prompt and token
    by token after it. ``ahead``: the module of the file that predicts tokens further
    ahead, which is no part of the model.
    """

    model: Model
    phases: str = "autoregressive"
    assumptions: tuple[str, ...] = ()
    scans: bool = False
    ahead: Ahead | None = None


Family = Callable[[Fields], Reading]


def class_of(values: Mapping[str, Any]) -> str | None:
    """The class that a configuration names first; None where it names none."""
    classes = values.get("architectures") or [values.get("_class_name")]
    first = classes[0] if isinstance(classes, list) and classes else None
    return first if isinstance(first, str) else None


def unnamed(values: Mapping[str, Any]) -> str | None:
    """The family of a file that names no type and no class: Mamba's own code writes such ones."""
    inner = values.get("ssm_cfg")
    if "model_type" in values or not isinstance(inner, Mapping) or "d_model" not in values:
        return None
    return "mamba2" if inner.get("layer") == "Mamba2" else "mamba"


def tied_as_whole(fields: Fields, text: Fields, default: bool | None = None) -> Fields:
    """The language model's part of a file; the whole file says whether its logits are tied.

    Where it does not say so, the class's ``default`` does, or where that is not known the
    part's own key. Of a part that says something else, or alone, the program tells: classes of
    transformers 5 read that of the whole file, which then has their default.
    """
    tied = fields.values.get("tie_word_embeddings")
    inner = text.values.get("tie_word_embeddings")
    if tied is None and default is not None:
        if isinstance(inner, bool) and inner != default:
            fields.tell(
                f"'tie_word_embeddings' = {str(inner).lower()} of the language model's part is not "
                f"followed: the file says nothing of the whole model, and its class then takes "
                f"{str(default).lower()}"
            )
        tied = default
    elif tied is None and isinstance(inner, bool):
        fields.tell(
            f"'tie_word_embeddings' = {str(inner).lower()} is read from the language model's "
            "part: the file says nothing of the whole model, whose key classes of transformers 5 "
            "read"
        )
    return text if tied is None else text.with_values(tie_word_embeddings=tied)


def labels_of(fields: Fields) -> int:
    """Labels of a classifier; the published code has two where nothing is said."""
    labels = fields.values.get("id2label")
    if isinstance(labels, Mapping) and labels:
        return len(labels)
    return fields.size("num_labels", "num_classes", default=2)


def next_token(ends: Ends, layer: Repeatable, count: int) -> Ahead | None:
    """``count`` modules for multi-token prediction, each with a ``layer`` of the model."""
    return Ahead(ends.d, ends.vocab, layer, ends.d, ends.tied, count=count) if count else None


def plain_decoder(fields: Fields, d: int, heads: int, ffn: int, **rest: Any) -> Decoder:
    """Layer norms with bias and two matrices: what BLOOM, Falcon, GPT, MPT and OPT share.

    ``rest`` overrides or adds attributes of :class:`Decoder`.
    """
    shared: dict[str, Any] = {
        "d": Integer(d),
        "heads": Integer(heads),
        "kv_heads": Integer(heads),
        "head_dim": divided(fields, d, heads, "hidden size over heads"),
        "ffn": Integer(ffn),
        "vocab": Integer(fields.size("vocab_size")),
        "gated": False,
        "norm": "layer",
        "norm_bias": True,
    }
    return Decoder(**{**shared, **rest})


def biases(flag: bool) -> dict[str, Any]:
    """All projections of a layer with biases, or none."""
    return {"qkv_bias": flag, "out_bias": flag, "mlp_bias": flag}


def activation_of(fields: Fields, *keys: str, default: str | None = None) -> str:
    name = fields.word(*keys, default=default)
    if name not in ACTIVATION_NAMES:
        raise ModelError(
            f"{fields.name}: unknown activation {clip(name)}{nearest(name, ACTIVATION_NAMES)}"
        )
    return ACTIVATION_NAMES[name]


#: Key heads to the types whose class has as many where the file has no such key at all; others
#: then have as many as queries have.
_KEY_HEADS = {
    2: (
        "ernie4_5 gemma3n_text glm glm4 glm4v_text glm_image_text paddleocr_vl_text "
        "qwen3_5_moe_text internlm3 qwen3_next qwen4_exp_text starcoder2"
    ),
    4: (
        "ernie4_5_moe ernie4_5_vl_moe_text flint gemma2 gemma3_text gemma4_text "
        "gemma4_unified_text granite_docling_text granite_swa kolibri1 lara_mini lfm3 mellum "
        "mimo_v2_flash "
        "minimax_m3_vl_text qwen2_5_omni_text qwen3_5_text qwen3_moe qwen3_omni_moe_text "
        "sarvam_moe smollm3 t5_gemma_module vaultgemma"
    ),
    5: ("bitnet"),
    8: (
        "bamba beam cosmos3_edge_text cwm falcon_h1 glm4_moe glm4v_moe_text "
        "glm_ocr_text gpt_oss hy_v3 iquestcoder jamba laguna lfm2 lfm2_moe llama4_text minimax "
        "minimax_m2 ministral mllama_text_model ministral3 mistral mixtral nemotron_h phimoe "
        "qwen2_5_vl_text qwen2_vl_text seed_oss solar_open"
    ),
    16: ("gemma qwen2_moe qwen3_vl_moe_text"),
    20: ("helium"),
    32: ("chameleon dots1 exaone4 exaone4_5_text exaone_moe qwen2 qwen3 qwen3_vl_text stablelm"),
}
KEY_HEADS: Mapping[str, int] = MappingProxyType(
    {kind: count for count, kinds in _KEY_HEADS.items() for kind in kinds.split()}
)


def key_heads(fields: Fields, heads: int) -> int:
    """KV heads: null stands for those of queries, an absent key for what the class has."""
    key = "num_key_value_heads"
    usual = KEY_HEADS.get(str(fields.peek("model_type")), heads)
    silent = fields.values.get(key, usual) is not None
    return fields.size(key, default=usual if silent else heads)


def heads_of(fields: Fields, d: int) -> tuple[int, int, Expr]:
    """(query heads, KV heads, head size); the head size may be given apart."""
    heads = fields.size("num_attention_heads")
    kv_heads = key_heads(fields, heads)
    if heads % kv_heads:
        raise ModelError(
            f"{fields.name}: 'num_attention_heads' = {heads} is not a multiple of "
            f"'num_key_value_heads' = {kv_heads}"
        )
    if fields.values.get("head_dim") is not None:
        return heads, kv_heads, Integer(fields.size("head_dim"))
    return heads, kv_heads, divided(fields, d, heads, "hidden size over heads")


def rotary_of(fields: Fields, dh: Expr, default: float, key: str = "partial_rotary_factor") -> Expr:
    nested = fields.values.get("rope_parameters")
    if fields.values.get(key) is None and isinstance(nested, Mapping) and nested.get(key):
        fields = fields.section("rope_parameters")
    share = fields.fraction(key, default)
    width = int(int(dh) * share)
    if width < 2 or width % 2:
        raise ModelError(f"{fields.name}: {key!r} = {share} of a head of {dh} is not an even width")
    return Integer(width)


def window_of(fields: Fields, default: int | None = None) -> Expr | None:
    """The sliding window in tokens under ``sliding_window``, or None.

    ``default`` stands where the key is absent; an explicit null is no window.
    """
    if "sliding_window" not in fields.values:
        return None if default is None else Integer(default)
    if fields.values["sliding_window"] is None:
        return None
    return Integer(fields.size("sliding_window"))


SLIDING, FULL = "sliding", "full"
#: No real model is near this; more layers would only take long to list.
MOST_LAYERS = 10_000
#: Names in ``layer_types``, and ours.
LAYER_TYPES: Mapping[str, str] = MappingProxyType(
    {"sliding_attention": SLIDING, "full_attention": FULL}
)


def layer_count(fields: Fields, key: str = "num_hidden_layers") -> int:
    """The number of layers, where each of them is looked at."""
    count = fields.size(key)
    if count > MOST_LAYERS:
        raise ModelError(
            f"{fields.name}: {key!r} = {count} is beyond {MOST_LAYERS}, the most "
            "for a model whose layers differ"
        )
    return count


def layer_types(fields: Fields, default: Callable[[int], bool] | None = None) -> tuple[str, ...]:
    """``sliding`` or ``full`` per layer, from ``layer_types`` or by number.

    Args:
        fields: the configuration.
        default: True for the layers, counted from zero, that slide where the
            configuration has no list; none slides without it.

    Raises:
        ModelError: the list has another length than layers, or an unknown kind.
    """
    count = layer_count(fields)
    found = fields.values.get("layer_types")
    if found is None:
        return tuple(SLIDING if default is not None and default(i) else FULL for i in range(count))
    if not isinstance(found, list) or len(found) != count:
        raise ModelError(f"{fields.name}: 'layer_types' must be a list of {count} names")
    for kind in found:
        if not isinstance(kind, str) or kind not in LAYER_TYPES:
            raise ModelError(f"{fields.name}: 'layer_types': unknown kind {clip(kind)}")
    return tuple(LAYER_TYPES[kind] for kind in found)


def kind_sizes(
    fields: Fields, kinds: Sequence[str], allowed: Mapping[str, Sequence[str]]
) -> Mapping[str, Mapping[str, int]]:
    """Sizes that kinds of layers have of their own: ``per_layer_config``, as transformers 5 saves.

    Args:
        fields: the configuration.
        kinds: the kind of each layer.
        allowed: the keys that a kind may set; kinds that are not named may set none.

    Raises:
        ModelError: a layer sets another key, or layers of one kind differ.
    """
    key = "per_layer_config"
    found = fields.values.get(key) or {}
    if not isinstance(found, Mapping):
        raise ModelError(f"{fields.name}: {key!r} must be an object, not {clip(found)}")
    by = {int(n): v for n, v in found.items() if str(n).isdecimal() and isinstance(v, Mapping)}
    if len(by) != len(found) or any(n >= len(kinds) for n in by):
        raise ModelError(f"{fields.name}: {key!r} must hold an object for numbers of layers")
    own: dict[str, Mapping[str, int]] = {}
    for index, kind in enumerate(kinds):
        inner = Fields(f"{fields.name}: {key!r} of layer {index}", by.get(index, {}))
        for name in inner.values:
            if name not in allowed.get(kind, ()):
                raise ModelError(f"{inner.name}: {clip(name)} is not understood here")
        sizes = {name: inner.size(name) for name in inner.values}
        if own.setdefault(kind, sizes) != sizes:
            raise ModelError(f"{fields.name}: {key!r}: layers of the kind {kind!r} differ")
    return own


def alternating(
    model: Decoder, kinds: tuple[str, ...], window: Expr | None, **full: object
) -> Decoder:
    """``model`` with the sliding window on the layers that ``kinds`` says.

    ``full`` are further changes of the layers without a window.
    """
    if window is None or SLIDING not in kinds:
        return replace(model, **full) if FULL in kinds else model  # type: ignore[arg-type]
    if FULL not in kinds:
        return replace(model, window=window)
    changes = (("window", None), *full.items())
    return replace(model, window=window, kinds=(Kind(SLIDING), Kind(FULL, changes)), pattern=kinds)
