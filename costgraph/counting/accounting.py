"""Counting conventions as tables of rules.

``exact`` asks each operation. Another accounting is a table from operation kind
to a rule that replaces the operation's own, so that a paper's numbers can be
reproduced without touching the exact rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from sympy import Add, Expr, Mul, ceiling

from costgraph.errors import InputError, MissingRuleError, clip, nearest
from costgraph.hardware.machine import Engine
from costgraph.ir.cost import ONE, ZERO, ByteKey, Cost, Direction, FlopKey
from costgraph.ir.tensor import MEMORY, Role, Tensor

if TYPE_CHECKING:
    from costgraph.ir.graph import Graph, Node


@dataclass(frozen=True)
class Facts:
    """Widest formats in a program, in bits; some conventions choose peaks by them."""

    weight_bits: int
    activation_bits: int
    kv_bits: int


@dataclass(frozen=True)
class Site:
    """Where an operation stands when a rule counts it."""

    node: Node
    graph: Graph
    in_region: bool
    single_query: bool
    facts: Facts

    @property
    def operands(self) -> tuple[Tensor, ...]:
        """Operand tensors."""
        return self.graph.operands(self.node)

    @property
    def result(self) -> Tensor:
        """The first result."""
        return self.node.outputs[0]

    @property
    def hidden(self) -> Expr:
        """Width of the hidden state that the surrounding region carries."""
        return self.graph.inputs[0].shape[-1]


Rule = Callable[[Site], Cost]


@dataclass(frozen=True)
class Accounting:
    """A named counting convention.

    Attributes:
        name: as written in options.
        title: one line for listings.
        source: where the convention is defined.
        rules: replacements by operation kind; empty means: ask the operation.
        footprint: ``liveness`` (peak of live tensors) or ``stores`` (all
            results of one region body, the survey tool's estimate).
        figures: name of the device files' table of figures, if not ``name``.
    """

    name: str
    title: str
    source: str
    rules: Mapping[str, Rule] = field(default_factory=dict)
    footprint: str = "liveness"
    figures: str = ""

    @property
    def device_figures(self) -> str:
        """Name of the table of device figures that the convention uses."""
        return self.figures or self.name

    def cost(self, site: Site) -> Cost:
        """Cost of one execution of the operation at ``site``.

        Raises:
            MissingRuleError: the table has no rule for the operation's kind.
        """
        if not self.rules:
            return site.node.op.cost(site.operands, site.node.outputs)
        rule = self.rules.get(site.node.op.kind)
        if rule is None:
            raise MissingRuleError(
                f"accounting {self.name!r} has no rule for {site.node.op.kind!r} operations"
            )
        return rule(site)


EXACT = Accounting(
    name="exact",
    title="every operation counted from its definition",
    source="first principles; conventions in the operations' docstrings",
)

# --- the survey's convention -------------------------------------------------


def _survey_engine(site: Site) -> FlopKey:
    """One peak for everything: INT8 if all three widths are at most 8 bits."""
    facts = site.facts
    narrow = max(facts.weight_bits, facts.activation_bits, facts.kv_bits) <= 8
    return Engine.TENSOR, "int8" if narrow else "fp16"


def _survey_cost(site: Site, flops: Expr, *moved: tuple[Role, Direction, Expr]) -> Cost:
    for tensor in site.graph.sources:
        if tensor.dtype.recent is not None:
            raise MissingRuleError(
                "accounting 'survey' knows no cache that keeps recent tokens wide "
                f"({tensor.name}): state kv-recent=0"
            )
    traffic: dict[ByteKey, Expr] = {}
    for role, direction, amount in moved:
        if amount != 0:
            key = (MEMORY, role, direction)
            traffic[key] = traffic.get(key, ZERO) + amount
    return Cost({_survey_engine(site): flops}, traffic, ONE)


def _cached_share(site: Site) -> Expr:
    """Elements of the result that end up in the cache (keys and values)."""
    graph = site.graph

    def reaches_cache(name: str) -> bool:
        for user in graph.consumers[name]:
            if user.op.kind == "kv-append":
                return True
            per_head = (
                user.op.kind in ("rope", "rms-norm", "layer-norm")
                and len(graph.tensors[name].shape) == 4
            )
            if per_head and user.inputs[0] == name and reaches_cache(user.outputs[0].name):
                return True
        return False

    share: Expr = ZERO
    for tensor in site.node.outputs:
        views = [tensor]
        for user in graph.consumers[tensor.name]:
            if user.op.kind == "split":
                views = list(user.outputs)
        share += sum((v.numel for v in views if reaches_cache(v.name)), ZERO)
    return share


def _cache_bytes_per_element(site: Site) -> Expr:
    caches = [t for t in site.graph.sources if t.role is Role.KV]
    return caches[0].dtype.bytes_per_element if caches else ZERO


def _survey_linear(site: Site) -> Cost:
    x, w = site.operands[:2]
    out = site.result
    oc, ic = w.shape
    a = x.dtype.bytes_per_element
    read, write = Direction.READ, Direction.WRITE
    if not site.in_region:  # the language-model head: factor one, one position, no batch
        return _survey_cost(
            site,
            x.shape[0] * ic * oc,
            (Role.WEIGHT, read, w.bytes),
            (Role.ACTIVATION, read, ic * a),
            (Role.ACTIVATION, write, oc * a),
        )
    cached = _cached_share(site)
    return _survey_cost(
        site,
        2 * x.numel * oc,
        (Role.WEIGHT, read, w.bytes),
        (Role.ACTIVATION, read, x.bytes),
        (Role.ACTIVATION, write, (out.numel - cached) * out.dtype.bytes_per_element),
        (Role.KV, write, cached * _cache_bytes_per_element(site)),
    )


def _survey_scores(site: Site) -> Cost:
    query, keys = site.operands
    # The tool loads Q with the number of KV heads in the prefill stage.
    b, q, h, dh = query.shape
    heads = h if site.single_query else keys.shape[2]
    return _survey_cost(
        site,
        2 * query.numel * keys.shape[1],
        (Role.ACTIVATION, Direction.READ, b * q * heads * dh * query.dtype.bytes_per_element),
        (Role.ACTIVATION, Direction.WRITE, site.result.bytes),
        (Role.KV, Direction.READ, keys.bytes),
    )


def _survey_values(site: Site) -> Cost:
    p, values = site.operands
    return _survey_cost(
        site,
        2 * p.numel * values.shape[3],
        (Role.ACTIVATION, Direction.READ, p.bytes),
        (Role.ACTIVATION, Direction.WRITE, site.result.bytes),
        (Role.KV, Direction.READ, values.bytes),
    )


def _survey_map(flops_per_element: int) -> Rule:
    """Element-wise rule: the operand read once, the result written once."""

    def rule(site: Site) -> Cost:
        x = site.operands[0]
        return _survey_cost(
            site,
            flops_per_element * x.numel,
            (Role.ACTIVATION, Direction.READ, x.bytes),
            (Role.ACTIVATION, Direction.WRITE, site.result.bytes),
        )

    return rule


def _survey_norm(site: Site) -> Cost:
    # Only the norms on the hidden state of a layer are counted.
    if not site.in_region or len(site.operands[0].shape) != 3:
        return Cost()
    return _survey_map(7)(site)


def _survey_add(site: Site) -> Cost:
    return _survey_map(1)(site) if site.in_region else Cost()


def _survey_activation(site: Site) -> Cost:
    # Sized by the hidden state, not the feed-forward width; gate included.
    x = site.operands[0]
    elements = Mul(*x.shape[:-1]) * site.hidden
    a = x.dtype.bytes_per_element
    return _survey_cost(
        site,
        2 * elements,
        (Role.ACTIVATION, Direction.READ, 2 * elements * a),
        (Role.ACTIVATION, Direction.WRITE, elements * a),
    )


def _survey_inner(site: Site) -> Cost:
    """An operation that stores its result narrow: the rule of the operation itself."""
    inner = getattr(site.node.op, "inner")  # noqa: B009
    rule = SURVEY.rules.get(inner.kind)
    if rule is None:
        raise MissingRuleError(f"accounting 'survey' has no rule for {inner.kind!r} operations")
    return rule(replace(site, node=replace(site.node, op=inner)))


def _not_counted(site: Site) -> Cost:
    """The convention leaves the operation out."""
    return Cost()


_SURVEY = Accounting(
    name="survey",
    title="the conventions of LLM-Viewer, the tool behind arXiv 2402.16363",
    source="LLM-Viewer model_analyzer.py at revision 472f71f",
    rules=MappingProxyType(
        {
            "linear": _survey_linear,
            "qk-matmul": _survey_scores,
            "sv-matmul": _survey_values,
            "softmax": _survey_map(5),
            "rms-norm": _survey_norm,
            "layer-norm": _survey_norm,
            "add": _survey_add,
            "activation": _survey_activation,
            "multiply": _not_counted,
            "scale": _not_counted,
            "soft-cap": _not_counted,
            "rope": _not_counted,
            "alibi": _not_counted,
            "kv-append": _not_counted,
            "embedding": _not_counted,
            "split": _not_counted,
            "select": _not_counted,
            "sample": _not_counted,
            "quantize": _not_counted,
            "narrow-result": _survey_inner,
        }
    ),
    footprint="stores",
)


def _score_biases(site: Site) -> tuple[Tensor, ...]:
    """What fused attention puts on the scores: an addition and a read each, as elsewhere."""
    count: int = getattr(site.node.op, "biases", 0)
    return site.operands[len(site.operands) - count :]


def _survey_flash(kv_reads: int) -> Rule:
    """The tool's fused attention: scores-sized stores, K and V by query head.

    Blocks of ``min(⌈onchip / (kv·dh)⌉, dh)`` query rows, which is ``dh`` with
    every buffer in the tool's table. Revisions before 472f71f read only one of
    K and V (``kv_reads = 1``).
    """

    def rule(site: Site) -> Cost:
        query, keys = site.operands[:2]
        b, q, h, dh = query.shape
        t, a = keys.shape[1], query.dtype.bytes_per_element
        reads = kv_reads * ceiling(q / dh) * t * dh * b * h * keys.dtype.bytes_per_element
        biases = _score_biases(site)
        return _survey_cost(
            site,
            4 * query.numel * t + (5 + len(biases)) * b * h * q * t,
            (Role.ACTIVATION, Direction.READ, query.bytes + Add(*(x.bytes for x in biases))),
            (Role.ACTIVATION, Direction.WRITE, 2 * b * h * q * t * a),
            (Role.KV, Direction.READ, reads),
        )

    return rule


def _textbook_flash(site: Site) -> Cost:
    """FlashAttention-2 without causal skipping: Q and O once, K and V per block of 128 rows."""
    query, keys, values = site.operands[:3]
    b, q, h, _ = query.shape
    t = keys.shape[1]
    blocks = ceiling(q / 128)
    biases = _score_biases(site)
    return _survey_cost(
        site,
        4 * query.numel * t + (5 + len(biases)) * b * h * q * t,
        (Role.ACTIVATION, Direction.READ, query.bytes + Add(*(x.bytes for x in biases))),
        (Role.ACTIVATION, Direction.WRITE, site.result.bytes),
        (Role.KV, Direction.READ, blocks * (keys.bytes + values.bytes)),
    )


def _survey_variant(name: str, title: str, source: str, flash: Rule) -> Accounting:
    rules = MappingProxyType({**_SURVEY.rules, "flash-attention": flash})
    return replace(_SURVEY, name=name, title=title, source=source, rules=rules, figures="survey")


#: The tool at its newest revision.
SURVEY = _survey_variant("survey", _SURVEY.title, _SURVEY.source, _survey_flash(2))
SURVEY_2024_04 = _survey_variant(
    "survey-2024-04",
    "the same tool when the survey's Figure 16 was made: fused attention reads one of K and V",
    "LLM-Viewer model_analyzer.py at revision 89c2bd9",
    _survey_flash(1),
)
SURVEY_TEXTBOOK = _survey_variant(
    "survey-textbook",
    "the survey's conventions with FlashAttention-2 counted from its definition",
    "LLM-Viewer 472f71f; Dao, arXiv 2307.08691",
    _textbook_flash,
)

ACCOUNTINGS: Mapping[str, Accounting] = MappingProxyType(
    {a.name: a for a in (EXACT, SURVEY, SURVEY_2024_04, SURVEY_TEXTBOOK)}
)


def accounting(spec: str | Accounting) -> Accounting:
    """The accounting called ``spec``.

    Raises:
        InputError: there is none of that name.
    """
    if isinstance(spec, Accounting):
        return spec
    if isinstance(spec, str) and spec in ACCOUNTINGS:
        return ACCOUNTINGS[spec]
    raise InputError(f"unknown accounting {clip(spec)}{nearest(str(spec), ACCOUNTINGS)}")
