"""How a model counts positions beyond those it was trained on: methods by their names.

Methods that change the angles of a rotary embedding cost nothing in a step: they are named
where the rotation is. What is put on scores is an operation of its own
(:class:`~costgraph.ops.attention.Alibi`, :class:`~costgraph.ops.bias.ScoreBias`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from costgraph.ir.graph import Graph
from costgraph.ir.op import Op
from costgraph.ir.program import Program
from costgraph.ir.regions import Region
from costgraph.models.fields import SECTION
from costgraph.models.known import PARTS
from costgraph.models.stored import NARROW_KEYS, SECTIONS
from costgraph.ops import Rope
from costgraph.ops.attending import pattern_of
from costgraph.ops.elementwise import NamedRope
from costgraph.ops.pattern import Chunks, Dense, Window
from costgraph.quoting import visible

#: Names in configurations, and those of the methods with their sources.
METHODS: Mapping[str, str] = MappingProxyType(
    {
        "linear": "position interpolation (arXiv 2306.15595)",
        "dynamic": "dynamic NTK",
        "ntk": "NTK-aware",
        "yarn": "YaRN (arXiv 2309.00071)",
        "longrope": "LongRoPE (arXiv 2402.13753)",
        "su": "LongRoPE (arXiv 2402.13753)",
        "llama3": "Llama 3's frequencies",
        "mrope": "sections of time, height and width (arXiv 2409.12191)",
        "proportional": "proportional",
        "xpos": "xPos (arXiv 2212.10554)",
    }
)
#: Types that change nothing.
PLAIN = frozenset({"", "default", "none"})

#: The section of an encoder, which may count frames before they are made fewer.
ENCODER = "encoder_config"
#: Keys under which configurations state the longest context, in order of preference.
_CONTEXT = (
    "max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "seq_length",
    "max_seq_length", "model_max_length", "context_length", "n_ctx",
)  # fmt: skip


def context_of(config: Mapping[str, Any]) -> int | None:
    """The longest context that a configuration states of its language model, in tokens."""
    for source in _parts(config):
        for key in _CONTEXT:
            value = source.get(key)
            if type(value) is int and 0 < value < 10**9:
                return value
    return None


def named(program: Program, config: Mapping[str, Any]) -> Program:
    """The program with the methods that its configuration names, where it rotates."""
    full, near = methods_of(config)
    if not full and not near:
        return program

    def new(graph: Graph) -> Graph:
        return _graph(graph, full, near)

    return program.rewritten(new)


def methods_of(config: Mapping[str, Any]) -> tuple[str, str]:
    """The methods of layers that see all and of those that see what is near; empty for none."""
    for values in _parts(config):
        found = values.get("rope_parameters") or values.get("rope_scaling")
        if not isinstance(found, Mapping):
            continue
        if any(isinstance(v, Mapping) for v in found.values()):
            return _method(found.get("full_attention")), _method(found.get("sliding_attention"))
        method = _method(found)
        # With a base of their own, layers that slide are not stretched (Gemma 3).
        return method, "" if values.get("rope_local_base_freq") else method
    return "", ""


def _parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A configuration and its sections, however deep, but those of towers, encoders and formats."""
    yield config
    known = (key for key in SECTIONS if key in config)
    others = (k for k in config if k.endswith(SECTION) and k not in PARTS and k != ENCODER)
    for key in dict.fromkeys((*known, *others)):
        inner = config[key]
        if isinstance(inner, Mapping) and key not in NARROW_KEYS:
            yield from _parts(inner)


def _method(found: Any) -> str:
    """The method that one object names; a name that is not known stands as it is."""
    if not isinstance(found, Mapping):
        return ""
    kind = found.get("rope_type", found.get("type"))
    if not isinstance(kind, str) or kind in PLAIN:
        return METHODS["mrope"] if found.get("mrope_section") else ""
    return METHODS.get(kind, visible(kind))


def _graph(graph: Graph, full: str, near: str) -> Graph:
    patterns = [p for n in graph.nodes if (p := pattern_of(n.op)) is not None]
    plain = [p.of if isinstance(p, Dense) else p for p in patterns]
    # Encoders and towers see both ways: what the file says is the language model's.
    causal = any(p.causal for p in plain)
    method = near if any(isinstance(p, Window | Chunks) for p in plain) else full

    def op(old: Op) -> Op:
        if isinstance(old, Region):
            return old.with_graphs([_graph(g, full, near) for g in old.graphs])
        return NamedRope(method) if method and causal and type(old) is Rope else old

    return replace(graph, nodes=tuple(replace(n, op=op(n.op)) for n in graph.nodes))
