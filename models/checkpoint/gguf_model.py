"""GGUF's architectures as configurations of families, and its tensors in their graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from costgraph.errors import ModelError, clip, nearest
from costgraph.ir.program import Program
from costgraph.models.checkpoint.apply import Given, Place, stored_as
from costgraph.models.checkpoint.gguf import GgufTensor, Header

#: Tensors that are tables of positions, made when a file is written: no weights.
_TABLES = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
#: What a layer's weights are called behind ``blk.N.``; of several names all that are there.
_LAYER: Mapping[str, tuple[tuple[str, ...], ...]] = MappingProxyType(
    {
        "attn_norm": (("attn_norm",),),
        "attn_post_norm": (("post_attention_norm",),),
        "mlp_norm": (("ffn_norm",), ("post_attention_norm",)),
        "mlp_post_norm": (("post_ffw_norm",),),
        "q_norm": (("attn_q_norm",),),
        "k_norm": (("attn_k_norm",),),
        "q_proj": (("attn_q",),),
        "k_proj": (("attn_k",),),
        "v_proj": (("attn_v",),),
        "qkv_proj": (("attn_qkv",),),
        "o_proj": (("attn_output",),),
        "gate_proj": (("ffn_gate",),),
        "up_proj": (("ffn_up",),),
        "down_proj": (("ffn_down",),),
        "gate_up_proj": (("ffn_up",),),
        "router": (("ffn_gate_inp",),),
        "expert_gate": (("ffn_gate_exps",),),
        "expert_up": (("ffn_up_exps",),),
        "expert_gate_up": (("ffn_gate_exps", "ffn_up_exps"),),
        "expert_down": (("ffn_down_exps",),),
        "shared_gate_proj": (("ffn_gate_shexp",),),
        "shared_up_proj": (("ffn_up_shexp",),),
        "shared_down_proj": (("ffn_down_shexp",),),
        "shared_gate": (("ffn_gate_inp_shexp",),),
        "sinks": (("attn_sinks",),),
    }
)
_ENDS: Mapping[str, str] = MappingProxyType(
    {"embed": "token_embd", "lm_head": "output", "final_norm": "output_norm",
     "positions": "position_embd"}
)  # fmt: skip


class Metadata:
    """The entries of one architecture, read by their name behind its prefix."""

    def __init__(self, header: Header) -> None:
        self.header = header
        name = header.metadata.get("general.architecture")
        if not isinstance(name, str) or not name:
            raise ModelError(f"{header.shown}: 'general.architecture' is missing")
        self.name = name

    def size(self, key: str, default: int | None = None) -> int:
        """A positive number, the same in all layers where a list gives one for each.

        Raises:
            ModelError: it is missing, none, or differs between layers.
        """
        value = self.header.metadata.get(f"{self.name}.{key}")
        if value is None:
            if default is None:
                raise ModelError(f"{self.header.shown}: '{self.name}.{key}' is missing")
            return default
        if isinstance(value, list) and len(set(value)) == 1:
            value = value[0]
        if type(value) is not int or value <= 0:
            raise ModelError(
                f"{self.header.shown}: '{self.name}.{key}' = {clip(value)}: one positive number "
                "for all layers would be understood"
            )
        return value

    def real(self, key: str) -> float | None:
        """A number, or None."""
        value = self.header.metadata.get(f"{self.name}.{key}")
        return float(value) if isinstance(value, (int, float)) else None

    @property
    def context(self) -> int | None:
        """The longest context that the file states; families are given a usual one without."""
        return self.size("context_length", 0) or None

    def has(self, tensor: str) -> bool:
        """Whether the file holds a tensor."""
        return tensor in self.header.tensors


def _usual(meta: Metadata) -> dict[str, Any]:
    """What every decoder states."""
    heads = meta.size("attention.head_count")
    embedding = meta.header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelError(f"{meta.header.shown}: the tensor 'token_embd.weight' is missing")
    found: dict[str, Any] = {
        "hidden_size": meta.size("embedding_length"),
        "num_hidden_layers": meta.size("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": meta.size("attention.head_count_kv", heads),
        "vocab_size": embedding.shape[1],
        "max_position_embeddings": meta.size("context_length", 2**17),
        "tie_word_embeddings": not meta.has("output.weight"),
        "torch_dtype": "float16",
        "hidden_act": "silu",
    }
    width = meta.header.metadata.get(f"{meta.name}.feed_forward_length")
    if width:
        found["intermediate_size"] = meta.size("feed_forward_length")
    if meta.header.metadata.get(f"{meta.name}.attention.key_length"):
        found["head_dim"] = meta.size("attention.key_length")
    return found


def _llama(meta: Metadata) -> dict[str, Any]:
    found = _usual(meta)
    if meta.header.metadata.get("llama.expert_count"):
        return {
            **found,
            "model_type": "mixtral",
            "num_local_experts": meta.size("expert_count"),
            "num_experts_per_tok": meta.size("expert_used_count"),
        }
    bias = meta.has("blk.0.attn_q.bias")
    return {**found, "model_type": "llama", "attention_bias": bias}


def _named(kind: str, **more: Any) -> Callable[[Metadata], dict[str, Any]]:
    return lambda meta: {**_usual(meta), "model_type": kind, **more}


def _windowed(kind: str, **more: Any) -> Callable[[Metadata], dict[str, Any]]:
    def made(meta: Metadata) -> dict[str, Any]:
        window = meta.size("attention.sliding_window", 4096)
        return {**_usual(meta), "model_type": kind, "sliding_window": window, **more}

    return made


def _gemma2(meta: Metadata) -> dict[str, Any]:
    caps = {
        "attn_logit_softcapping": meta.real("attn_logit_softcapping"),
        "final_logit_softcapping": meta.real("final_logit_softcapping"),
    }
    made = _windowed("gemma2", hidden_activation="gelu_pytorch_tanh")(meta)
    return {**made, **caps}


def _moe(kind: str) -> Callable[[Metadata], dict[str, Any]]:
    def made(meta: Metadata) -> dict[str, Any]:
        width = meta.size("expert_feed_forward_length", meta.size("feed_forward_length", 1))
        found = {
            **_usual(meta),
            "model_type": kind,
            "num_experts": meta.size("expert_count"),
            "num_experts_per_tok": meta.size("expert_used_count"),
            "moe_intermediate_size": width,
            "norm_topk_prob": kind == "qwen3_moe",
        }
        found.setdefault("intermediate_size", width)
        shared = meta.header.tensors.get("blk.0.ffn_up_shexp.weight")
        if shared is not None and len(shared.shape) == 2:
            found["shared_expert_intermediate_size"] = shared.shape[1]
        return found

    return made


def _gpt_oss(meta: Metadata) -> dict[str, Any]:
    return {
        **_usual(meta),
        "model_type": "gpt_oss",
        "intermediate_size": meta.size("expert_feed_forward_length"),
        "num_local_experts": meta.size("expert_count"),
        "num_experts_per_tok": meta.size("expert_used_count"),
        "sliding_window": meta.size("attention.sliding_window", 128),
        "attention_bias": True,
    }


#: ``general.architecture`` to a function that gives the configuration of its family.
ARCHITECTURES: Mapping[str, Callable[[Metadata], dict[str, Any]]] = MappingProxyType(
    {
        "llama": _llama,
        "qwen2": _named("qwen2"),
        "qwen3": _named("qwen3"),
        "qwen2moe": _moe("qwen2_moe"),
        "qwen3moe": _moe("qwen3_moe"),
        "gemma": _named("gemma", hidden_activation="gelu_pytorch_tanh"),
        "gemma2": _gemma2,
        "phi3": _named("phi3"),
        "granite": _named("granite"),
        "starcoder2": _named(
            "starcoder2", hidden_act="gelu_pytorch_tanh", use_bias=True, sliding_window=None
        ),
        "gpt-oss": _gpt_oss,
    }
)


def config_of(header: Header) -> dict[str, Any]:
    """The configuration that the metadata of a file stand for.

    Raises:
        ModelError: the architecture is unknown, or a value of it missing.
    """
    meta = Metadata(header)
    if meta.name not in ARCHITECTURES:
        raise ModelError(
            f"{header.shown}: GGUF architecture {clip(meta.name)} is not read"
            f"{nearest(meta.name, ARCHITECTURES)}: {', '.join(ARCHITECTURES)} would be; the "
            "config.json of the original counts it in 16 bit"
        )
    return ARCHITECTURES[meta.name](meta)


class Reader:
    """Answers with the types of a file's tensors, each of which must find its place."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.met: dict[str, None] = {}
        self._answers: dict[tuple[str, int | None, bool], Given] = {}

    def __call__(self, place: Place) -> Given:
        key = (place.tensor.name, place.layer, place.layered)
        if key not in self._answers:
            self._answers[key] = self._answer(place)
        return self._answers[key]

    def _answer(self, place: Place) -> Given:
        leaf, _, part = place.tensor.name.rpartition(".")
        found = self._tensors(place, leaf, part)
        count = sum(t.elements for t in found)
        if count != place.tensor.numel and place.tensor.numel.is_number:
            raise ModelError(
                f"{self.header.shown}: {found[0].name!r} holds {count} elements where the model "
                f"has {place.tensor.numel}: its metadata and its tensors do not agree"
            )
        types = {t.type for t in found}
        if len(types) > 1:
            shown = " and ".join(sorted(t.type.name for t in found))
            raise ModelError(
                f"{self.header.shown}: {found[0].name!r} and its twin are stored as {shown}; one "
                "type for both would be understood"
            )
        self.met.update((t.name, None) for t in found)
        return types.pop().format, None

    def _tensors(self, place: Place, leaf: str, part: str) -> list[GgufTensor]:
        """The tensors that are a weight of the graph."""
        if not place.layered:
            ways: tuple[tuple[str, ...], ...] = ((_ENDS.get(leaf, leaf),),)
            prefix = ""
        else:
            ways, prefix = _LAYER.get(leaf, ((leaf,),)), f"blk.{place.layer}."
        for names in ways:
            full = [f"{prefix}{name}.{part}" for name in names]
            if all(name in self.header.tensors for name in full):
                return [self.header.tensors[name] for name in full]
        wanted = f"{prefix}{ways[0][0]}.{part}"
        raise ModelError(
            f"{self.header.shown}: the tensor {wanted!r} is missing"
            f"{nearest(wanted, self.header.tensors)}"
        )

    @property
    def left(self) -> list[str]:
        """Tensors of the file that no weight of the graph is."""
        return [n for n in self.header.tensors if n not in self.met and n not in _TABLES]


def as_stored(program: Program, header: Header) -> Program:
    """The program with every weight in the type that its tensor has in the file.

    Raises:
        ModelError: a tensor is missing, of another size, or has no place in the graph.
    """
    reader = Reader(header)
    made = stored_as(program, reader)
    left = reader.left
    if left:
        raise ModelError(
            f"{header.shown}: {len(left)} tensors have no place in the family that the file "
            f"names, {clip(left[0])} first: the config.json of the original counts it in 16 bit"
        )
    kinds = dict.fromkeys(t.type.name for name, t in header.tensors.items() if name in reader.met)
    note = (
        f"counted as the GGUF file stores it: {', '.join(kinds)}; the file has {header.size} byte"
    )
    said = "weights of a GGUF file are multiplied in 16 bit, converted as they are loaded"
    return replace(made.assuming(said), notes=(*made.notes, note))
