"""Names of modules in checkpoints, and the lists of patterns that name them.

Checkpoints say ``model.layers.3.self_attn.q_proj`` where graphs say ``q_proj`` of the layer
3. A matrix has every name that model classes give it; a pattern means it if it means one
of them. Prefixes that only say which class wraps the layers are left out of both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from types import MappingProxyType

from costgraph.errors import ModelError, clip
from costgraph.models.checkpoint.wildcards import NotRead, Wildcards, expression, glob

#: Patterns that a list may hold, characters of one, and patterns with wildcards.
MOST_PATTERNS, LONGEST, MOST_WILD = 200_000, 200, 256

_ATTENTION = ("self_attn", "attn", "attention", "self_attention", "mixer", "temporal_block")
_CROSS = ("encoder_attn", "EncDecAttention", "cross_attn", "crossattention.self")
_MLP = ("mlp", "feed_forward", "block_sparse_moe", "ffn", "channel_block", "mixer")


def _under(parents: Sequence[str], *leaves: str) -> tuple[str, ...]:
    return tuple(f"{parent}.{leaf}" for parent in parents for leaf in leaves)


def _experts(*leaves: str) -> tuple[str, ...]:
    return _under(_MLP, *_among(*leaves))


def _among(*leaves: str) -> tuple[str, ...]:
    # One expert stands for all: a checkpoint that tells them apart is refused.
    return _under(("experts.0", "experts"), *leaves)


def _indexer(*leaves: str) -> tuple[str, ...]:
    return _under(("indexer", "compressor.indexer"), *leaves)


def _shared(*leaves: str) -> tuple[str, ...]:
    places = ("shared_experts", "shared_expert", "shared_mlp", "share_expert")
    return (*_under(_MLP, *(f"{p}.{leaf}" for p in places for leaf in leaves)),)


_HALVES = ("gate_proj", "up_proj", "w1", "w3")
#: What a layer's matrices are called in a layer of a checkpoint.
LEAVES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "q_proj": _under(_ATTENTION, "q_proj", "wq", "query", "q_proj.linear"),
        "k_proj": _under(_ATTENTION, "k_proj", "wk", "key", "k_proj.linear"),
        "v_proj": _under(_ATTENTION, "v_proj", "wv", "value", "v_proj.linear"),
        "qkv_proj": _under(
            _ATTENTION, "qkv_proj", "qkv", "c_attn", "query_key_value", "Wqkv", "W_pack", "wqkv"
        ),
        "o_proj": _under(
            _ATTENTION, "o_proj", "out_proj", "dense", "c_proj", "wo", "proj", "out",
            "o_proj.linear",
        ),
        "q_a_proj": _under(_ATTENTION, "q_a_proj", "wq_a"),
        "q_b_proj": _under(_ATTENTION, "q_b_proj", "wq_b"),
        "kv_a_proj": _under(_ATTENTION, "kv_a_proj_with_mqa"),
        "k_up": _under(_ATTENTION, "kv_b_proj"),
        "v_up": _under(_ATTENTION, "kv_b_proj"),
        # DeepSeek-V4: keys that are values, outputs of low rank, pools of rows.
        "kv_proj": _under(_ATTENTION, "kv_proj", "wkv"),
        "o_a_proj": _under(_ATTENTION, "o_a_proj", "wo_a"),
        "o_b_proj": _under(_ATTENTION, "o_b_proj", "wo_b"),
        "pool_kv_proj": _under(_ATTENTION, "compressor.wkv", "compressor.kv_proj"),
        "pool_gate_proj": _under(_ATTENTION, "compressor.wgate", "compressor.gate_proj"),
        "index_pool_kv_proj": _under(_ATTENTION, *_indexer("compressor.wkv", "kv_proj")),
        "index_pool_gate_proj": _under(_ATTENTION, *_indexer("compressor.wgate", "gate_proj")),
        # Indexers: DeepSeek's, and MiniMax-M3's beside the projections of attention.
        "index_q_proj": _under(
            _ATTENTION, *_indexer("wq_b", "q_b_proj", "q_proj"), "index_q_proj"
        ),
        "index_k_proj": _under(_ATTENTION, *_indexer("wk", "k_proj"), "index_k_proj"),
        # GLM-5's lists write the name without the first ".weight" in it.
        "index_weights_proj": _under(_ATTENTION, *_indexer("weights_proj"), "indexers_proj"),
        # Gemma 3n and 4: inputs of a layer's own; streams, and additions of low rank.
        "own_gate": ("per_layer_input_gate",),
        "own_proj": ("per_layer_projection",),
        "laurel_left": ("laurel.linear_left",),
        "laurel_right": ("laurel.linear_right",),
        "prediction_coefs": ("altup.prediction_coefs",),
        "correction_coefs": ("altup.correction_coefs",),
        # Decoders that read an encoder, or pictures.
        **{
            f"cross_{mine}_proj": (
                *_under(_CROSS, f"{mine}_proj", mine, word),
                *(("encoder_attn.out_proj",) if mine == "o" else ()),
            )
            for mine, word in (("q", "query"), ("k", "key"), ("v", "value"), ("o", "out"))
        },
        # Gates of attention, and of Kimi's delta rule.
        "attn_gate_proj": _under(_ATTENTION, "g_proj", "gate_proj"),
        **{
            leaf: _under(_ATTENTION, leaf)
            for leaf in ("f_a_proj", "f_b_proj", "g_proj", "g_a_proj", "g_b_proj")
        },
        "gate_proj": _under(_MLP, "gate_proj", "w1", "gate_proj.linear"),
        "up_proj": (
            *_under(_MLP, "up_proj", "w3", "fc1", "c_fc", "dense_h_to_4h", "linear_fc1"),
            *_under(_MLP, "up_proj.linear"),
            "fc1",
        ),
        "down_proj": (
            *_under(_MLP, "down_proj", "w2", "fc2", "c_proj", "dense_4h_to_h", "linear_fc2"),
            *_under(_MLP, "down_proj.linear"),
            "fc2",
        ),
        # Graphs may join what files keep apart: the names of both halves mean the whole.
        "gate_up_proj": _under(
            _MLP, "gate_up_proj", "input_linear", "dense_h_to_4h", "Wi", *_HALVES
        ),
        "router": _under(_MLP, "gate", "router", "router.layer", "gate.wg", "router.linear"),
        "expert_gate": _experts("gate_proj", "w1"),
        "expert_up": _experts("up_proj", "w3"),
        "expert_down": _experts("down_proj", "w2"),
        "expert_gate_up": _experts("gate_up_proj", *_HALVES),
        "shared_gate_proj": _shared("gate_proj"),
        "shared_up_proj": _shared("up_proj"),
        "shared_down_proj": _shared("down_proj"),
        "shared_gate_up_proj": _shared("gate_up_proj", *_HALVES),
        # Experts of a narrower width: Nemotron-3, Kimi K3.
        "latent_down": _under(_MLP, "fc1_latent_proj", "routed_expert_down_proj"),
        "latent_up": _under(_MLP, "fc2_latent_proj", "routed_expert_up_proj"),
        "shared_gate": _under(_MLP, "shared_expert_gate"),
        "in_proj": ("mamba.in_proj", "mixer.in_proj", "conv.in_proj"),
        "out_proj": (
            "mamba.out_proj", "mixer.out_proj", "conv.out_proj", "linear_attn.out_proj",
        ),
        "x_proj": ("mamba.x_proj", "mixer.x_proj", "temporal_block.linear_x"),
        "dt_proj": ("mamba.dt_proj", "mixer.dt_proj"),
        "y_proj": ("temporal_block.linear_y",),
        "qkvz_proj": ("linear_attn.in_proj_qkvz",),
        "ba_proj": ("linear_attn.in_proj_ba",),
        "z_proj": ("linear_attn.in_proj_z",),
        "a_proj": ("linear_attn.in_proj_a",),
        "b_proj": ("linear_attn.in_proj_b", "self_attn.b_proj"),
    }
)  # fmt: skip
#: Mixers whose projections share a leaf's name with attention.
_LINEAR_ATTENTION = {"qkv_proj": ("linear_attn.in_proj_qkv",)}
#: What experts are called where they stand beside a dense feed-forward (Gemma 4).
_BESIDE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "router": ("router.proj", "router"),
        "expert_gate": _among("gate_proj"),
        "expert_up": _among("up_proj"),
        "expert_down": _among("down_proj"),
        "expert_gate_up": _among("gate_up_proj", *_HALVES),
    }
)
#: What stands around the layers.
ENDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "lm_head": ("lm_head", "output_layer", "embed_out", "output", "head"),
        "embed": (
            "embed_tokens",
            "wte",
            "word_embeddings",
            "embed_in",
            "tok_embeddings",
            "embeddings",
        ),
        "positions": ("wpe", "embed_positions", "pos_embed"),
        "own_embed": ("embed_tokens_per_layer",),
        "own_inputs_proj": ("per_layer_model_projection",),
        **{
            f"{mine}stream_{i}_proj": (f"{theirs}.{i - 1}",)
            for i in (1, 2, 3)
            for mine, theirs in (("", "altup_projections"), ("last_", "altup_unembed_projections"))
        },
        "patch_embed": (
            "patch_embed.proj",
            "embeddings.patch_embedding",
            "patch_embedder.input_proj",
        ),
        "merger_fc1": ("merger.mlp.0", "merger.linear_fc1"),
        "merger_fc2": ("merger.mlp.2", "merger.linear_fc2"),
        # Of towers for images of any size: LFM2-VL, Mistral 3, Kimi K2.5, Gemma 4.
        "merger_merge": ("multi_modal_projector.patch_merger.merging_layer",),
        "merger_1": (
            "multi_modal_projector.linear_1",
            "mm_projector.proj.0",
            "embed_vision.embedding_projection",
        ),
        "merger_2": ("multi_modal_projector.linear_2", "mm_projector.proj.2"),
        # Of others: PaliGemma and Qwen2-Audio, Gemma 3, Idefics 3, InternVL's own code, Llama 4.
        "projector_1": (
            "multi_modal_projector.linear_1",
            "multi_modal_projector.linear",
            "multi_modal_projector.mm_input_projection",
            "connector.modality_projection.proj",
            "mlp1.1",
        ),
        "projector_2": ("multi_modal_projector.linear_2", "mlp1.3"),
        "projector_fc1": ("vision_adapter.mlp.fc1",),
        "projector_fc2": ("vision_adapter.mlp.fc2",),
        **{
            f"deep{i}_fc{j}": (f"deepstack_merger_list.{i - 1}.linear_fc{j}",)
            for i in (1, 2, 3)
            for j in (1, 2)
        },
    }
)
#: Names that only say which class wraps what follows.
_WRAPPERS = frozenset(
    ("model", "language_model", "transformer", "base_model", "decoder", "backbone", "gpt_neox",
     "text_model", "llm", "encoder")
)  # fmt: skip
#: Names that say that what follows sees or hears.
_EYES = frozenset(
    ("visual", "vision_tower", "vision_model", "vision_encoder", "multi_modal_projector",
     "mm_projector", "vit", "vision", "audio_tower", "img_projection", "embed_vision",
     "embed_audio", "connector", "mlp1")
)  # fmt: skip
#: Wrappers of what reads text alone.
_TEXT = frozenset(("language_model", "decoder", "backbone", "gpt_neox", "text_model", "llm"))
#: Prefixes of whole names, for regular expressions and wildcards.
_TEXT_PREFIXES = ("model.", "model.language_model.", "language_model.model.", "transformer.", "")
_EYES_PREFIXES = (
    "visual.", "model.visual.", "vision_tower.vision_model.encoder.", "vision_tower.encoder.",
    "model.vision_tower.vision_model.encoder.", "model.vision_tower.encoder.",
    "audio_tower.", "model.audio_tower.",
)  # fmt: skip
#: Ends of names that are of no matrix of a product: norms, biases, buffers, look-ups.
_NO_MATRIX = re.compile(
    r"(norm\d?|layernorm|ln_\w+|bias|e_score_correction_bias|rotary_emb|inv_freq|"
    r"kv_scale|k_scale|v_scale|\w*_norm|conv1d|A_log|dt_bias|D|sinks|pos_embed)\Z"
)

#: The number of a layer in a name, as far as it has no wildcards.
_IN_LAYER = re.compile(r"\b(?:layers|blocks|h)\.(\d{1,6})\.")
#: What names of tensors have behind those of modules.
_WEIGHT = ".weight"


@dataclass(frozen=True)
class Module:
    """A matrix of a graph as checkpoints name it.

    Attributes:
        leaf: its name in the graph, without ``.weight``.
        eyes: it belongs to a vision tower.
        layered: it stands in layers.
        beside: its layer has a dense feed-forward beside its experts.
    """

    leaf: str
    eyes: bool = False
    layered: bool = True
    beside: bool = False

    @property
    def known(self) -> bool:
        """Names that checkpoints give it are known."""
        return self.leaf in (LEAVES if self.layered else ENDS)

    def paths(self, layer: int | None) -> tuple[str, ...]:
        """Its names without wrapping prefixes, in a layer."""
        return _paths(self, layer)

    def full(self, layer: int | None, shortest: bool = False) -> str:
        """Its names as checkpoints write them, line by line, prefixes included; with one of
        these only.
        """
        return _full(self, layer, shortest)


@lru_cache(maxsize=100_000)
def _paths(module: Module, layer: int | None) -> tuple[str, ...]:
    leaves = LEAVES if module.layered else ENDS
    if module.beside:
        leaves = {**leaves, **_BESIDE}
    names = (*leaves.get(module.leaf, ()), module.leaf)
    if module.layered:
        if not module.eyes:
            names = (*names, *_LINEAR_ATTENTION.get(module.leaf, ()))
        stacks = ("layers", "blocks") if module.eyes else ("layers", "h")
        return tuple(f"{s}.{layer}.{name}" for s in stacks for name in names)
    return names


@lru_cache(maxsize=100_000)
def _full(module: Module, layer: int | None, shortest: bool) -> str:
    prefixes = _EYES_PREFIXES if module.eyes else _TEXT_PREFIXES
    among = prefixes[:1] if shortest and not module.eyes else prefixes
    return "\n".join(prefix + path for prefix in among for path in _paths(module, layer))


@dataclass(frozen=True)
class Pattern:
    """One entry of a list of module names.

    Attributes:
        text: as it stands in the list.
        plain: the parts of its name without wrapping prefixes; empty for a tower or a
            language model as a whole, None for what has wildcards.
        wild: what it matches, where it has wildcards.
        tower: it says that it means what sees.
        text_only: it says that it means what reads text.
        expert: the number of the one expert that it means.
    """

    text: str
    plain: tuple[str, ...] | None = None
    wild: Wildcards | None = None
    tower: bool = False
    text_only: bool = False
    expert: int | None = None

    @property
    def no_matrix(self) -> bool:
        """It names a norm, a bias or a buffer."""
        return _NO_MATRIX.search(self.text.removesuffix(_WEIGHT)) is not None

    @property
    def layer(self) -> int | None:
        """The one layer in which names can be that it matches; None where that is not said."""
        if self.wild is None or self.text.startswith("re:"):
            return None
        found = _IN_LAYER.search(re.split(r"[*?[]", self.text, maxsplit=1)[0])
        return None if found is None else int(found[1])

    def beyond(self, layers: int) -> bool:
        """It is of a layer behind the last one: of a head that predicts further tokens."""
        parts = self.plain or ()
        return any(
            a in ("layers", "h") and b.isdecimal() and len(b) < 7 and int(b) >= layers
            for a, b in pairwise(parts)
        )


def patterns_of(given: object, where: str) -> tuple[Pattern, ...]:
    """The patterns of a list of names, with wildcards or as ``re:`` expressions.

    Raises:
        ModelError: it is no list of texts, or holds an expression that is not read.
    """
    if given is None:
        return ()
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, (list, tuple)) or any(not isinstance(t, str) for t in texts):
        raise ModelError(f"{where} must be a list of names, not {clip(given)}")
    if len(texts) > MOST_PATTERNS:
        raise ModelError(f"{where}: more than {MOST_PATTERNS} names")
    found = tuple(pattern_of(t, where) for t in dict.fromkeys(texts) if t)
    if sum(p.wild is not None for p in found) > MOST_WILD:
        raise ModelError(f"{where}: more than {MOST_WILD} names with wildcards")
    return found


def pattern_of(text: str, where: str) -> Pattern:
    """One pattern; errors as for :func:`patterns_of`."""
    if len(text) > LONGEST:
        raise ModelError(f"{where}: the name {clip(text)} is longer than {LONGEST} characters")
    try:
        if text.startswith("re:"):
            return Pattern(text, wild=expression(text[3:]))
        if any(c in text for c in "*?["):
            return Pattern(text, wild=glob(text))
    except NotRead as problem:
        raise ModelError(
            f"{where}: {clip(text)} is not read ({problem}): names with *, or expressions of "
            "names, .*, [..] and (a|b), would be; quantization='ignore' counts the original"
        ) from None
    parts = [p for p in text.removesuffix(_WEIGHT).split(".") if p]
    tower = any(p in _EYES for p in parts)
    front = 0
    while front < len(parts) and (parts[front] in _WRAPPERS or parts[front] in _EYES):
        front += 1
    wraps, parts = parts[:front], parts[front:]
    # "model.layers" are the layers that read text: those that see say so.
    stack = wraps == ["model"] and parts[:1] in (["layers"], ["h"])
    reads = not tower and bool(parts) and (stack or any(p in _TEXT for p in wraps))
    expert = None
    for at in range(1, len(parts)):
        if parts[at - 1] == "experts" and parts[at].isdecimal() and len(parts[at]) < 7:
            expert, parts[at] = int(parts[at]), "0"
    return Pattern(text, tuple(parts), tower=tower, text_only=reads, expert=expert)


class Names:
    """A list of patterns, quick to ask."""

    def __init__(self, patterns: Iterable[Pattern] = ()) -> None:
        self.patterns = tuple(patterns)
        self._plain: dict[tuple[str, ...], list[int]] = {}
        self._wild: dict[int | None, list[int]] = {}
        self._matched: dict[tuple[int, Module, int | None], bool] = {}
        for index, pattern in enumerate(self.patterns):
            if pattern.plain is None:
                self._wild.setdefault(pattern.layer, []).append(index)
            else:
                self._plain.setdefault(pattern.plain, []).append(index)
        self._lengths = sorted({len(parts) for parts in self._plain})

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def naming(self, module: Module, layer: int | None) -> set[int]:
        """Which of the patterns mean a matrix: their places in the list."""
        patterns = self.patterns
        found = {i for i in self._plain.get((), ()) if patterns[i].tower == module.eyes}
        for path in module.paths(layer) if self._plain else ():
            parts = tuple(path.split("."))
            for start in range(len(parts)):
                for length in self._lengths:
                    for index in self._plain.get(parts[start : start + length], ()):
                        one = patterns[index]
                        if not (one.text_only if module.eyes else one.tower):
                            found.add(index)
        for at in {None, layer}:
            found |= {i for i in self._wild.get(at, ()) if self._fits(i, module, layer)}
        return found

    def _fits(self, index: int, module: Module, layer: int | None) -> bool:
        wild = self.patterns[index].wild
        assert wild is not None
        # Without digits of its own a pattern means every layer, or none.
        at = layer if layer is None or wild.tells_numbers else 0
        key = (index, module, at)
        if key not in self._matched:
            names = module.full(at, shortest=wild.open_start)
            self._matched[key] = wild.may_match_in(names) and any(
                wild.matches(name) for name in names.splitlines()
            )
        return self._matched[key]

    def experts(self, index: int) -> int | None:
        """Of how many experts the list says the same as its entry does; None: of all."""
        pattern = self.patterns[index]
        if pattern.expert is None or pattern.plain is None:
            return None
        same = self._plain[pattern.plain]
        return len({self.patterns[i].expert for i in same})
