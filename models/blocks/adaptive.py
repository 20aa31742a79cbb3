"""Blocks of diffusion transformers: conditioning vectors, modulated norms, joint attention."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer

from costgraph.ir.graph import Graph
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.attend import attended
from costgraph.models.blocks.encoder import Heads
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import Activation, Add, Concat, Multiply, Rope, Split
from costgraph.ops.arrays import Join
from costgraph.ops.image import Cut, Gate, Modulate, Sinusoid, steps
from costgraph.ops.pattern import FULL
from costgraph.ops.views import Reshape
from costgraph.symbols import B

#: The norm that a modulation takes the place of weight and bias in.
BARE = Norm("layer", bias=False, weight=False)
FREQUENCIES = Integer(256)


def two_layers(
    m: Maker,
    name: str,
    x: str,
    inner: Expr,
    width: Expr,
    act: str = "silu",
    bias: bool = True,
) -> str:
    """Adds a product, an activation and a product, ``x (B, ic)`` to ``(B, width)``."""
    x = m.linear(f"{name}_in", x, inner, m.shape(x)[-1], bias)
    x = m.add(f"{name}_act", Activation(act), x)
    return m.linear(f"{name}_out", x, width, inner, bias)


def of_number(
    m: Maker,
    name: str,
    inner: Expr,
    width: Expr,
    count: Expr = FREQUENCIES,
    act: str = "silu",
    bias: bool = True,
) -> str:
    """Adds the vector ``(B, width)`` of a number per sample, such as the time step."""
    x = m.source(steps(name, B))
    waves = m.add(f"{name}_waves", Sinusoid(count), x)
    return two_layers(m, name, waves, inner, width, act, bias)


def packed_modulation(
    m: Maker, name: str, vector: str, d: Expr, parts: int, bias: bool = True
) -> str:
    """Adds ``parts`` vectors side by side ``(B, parts·d)`` from the conditioning vector."""
    acted = m.add(f"{name}_act", Activation("silu"), vector)
    return m.linear(name, acted, parts * d, m.shape(vector)[-1], bias)


def modulation(
    m: Maker, name: str, vector: str, d: Expr, parts: int, bias: bool = True
) -> tuple[str, ...]:
    """Adds ``parts`` vectors ``(B, d)`` from the conditioning vector: shifts, scales, gates."""
    packed = packed_modulation(m, name, vector, d, parts, bias)
    return m.add_many(f"{name}_split", Split(((d,),) * parts), packed)


def modulated(m: Maker, name: str, x: str, shift: str, scale: str) -> str:
    """Adds a norm without parameters and its modulation."""
    normed = m.norm(f"{name}_norm", x, m.shape(x)[-1], BARE)
    return m.add(f"{name}_modulate", Modulate(), normed, shift, scale)


def gated_add(m: Maker, name: str, y: str, gate: str, x: str) -> str:
    """Adds ``x + gate·y``."""
    return m.add(f"{name}_add", Add(), m.add(f"{name}_gate", Gate(), y, gate), x)


def last_layer(m: Maker, x: str, vector: str, out: Expr, bias: bool = True) -> str:
    """Adds the modulated norm and the projection back to patches."""
    d = m.shape(x)[-1]
    shift, scale = modulation(m, "last_modulation", vector, d, 2, bias)
    return m.linear("last_proj", modulated(m, "last", x, shift, scale), out, d, bias)


def _hidden(m: Maker, *parts: tuple[str, Expr], d: Expr) -> tuple[str, ...]:
    return tuple(m.source(Tensor(name, (B, count, d), m.style.acts)) for name, count in parts)


def _vector(d: Expr, style: Style) -> Tensor:
    return Tensor("conditioning", (B, d), style.acts)


@dataclass(frozen=True)
class AdaptiveLayer:
    """A DiT layer: attention and feed-forward, each modulated and gated (adaLN-Zero)."""

    length: Expr
    at: Heads
    feed: FeedForward

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """The conditioning vector."""
        return (_vector(self.at.d, style),)

    def graph(self, style: Style) -> Graph:
        """The layer: hidden state and conditioning in, hidden state out."""
        m, d = Maker("layer", style), self.at.d
        (x,) = _hidden(m, ("hidden", self.length), d=d)
        vector = m.source(_vector(d, style))
        mods = modulation(m, "modulation", vector, d, 6)
        y = modulated(m, "attn", x, *mods[:2])
        y = self.at.out(m, attended(m, *self.at.all(m, y), FULL))
        x = gated_add(m, "attn", y, mods[2], x)
        y = self.feed.add(m, modulated(m, "mlp", x, *mods[3:5]))
        return m.build(gated_add(m, "mlp", y, mods[5], x))


@dataclass(frozen=True)
class Streams:
    """Sizes of a joint transformer: text and image positions, heads, norms on heads.

    Attributes:
        text, image: positions per sample.
        at: the heads; a rotary width asks for a table over both streams.
        qk_norm: normalisation of queries and keys, or None.
        shared: layers share their modulations, made once: vectors side by side for the
            ``image``, the ``text`` and both (``single``), instead of the conditioning vector.
    """

    text: Expr
    image: Expr
    at: Heads
    qk_norm: Norm | None
    shared: bool = False

    @property
    def length(self) -> Expr:
        """Positions of both streams."""
        return self.text + self.image

    def operands(self, style: Style, *parts: tuple[str, int]) -> tuple[Tensor, ...]:
        """Conditioning vector, or shared modulations of ``parts``, and rotary table."""
        found: tuple[Tensor, ...] = (_vector(self.at.d, style),)
        if self.shared:
            found = tuple(
                Tensor(f"{name}_mods", (B, count * self.at.d), style.acts) for name, count in parts
            )
        if self.at.rotary is not None:
            found += (Tensor("rope_table", (self.length, self.at.rotary), style.acts),)
        return found

    def mods(self, m: Maker, name: str, part: str, count: int) -> tuple[str, ...]:
        """Adds ``count`` vectors ``(B, d)``: of the layer's own, or cut from shared ones."""
        d = self.at.d
        if self.shared:
            return m.add_many(f"{name}_split", Split(((d,),) * count), f"{part}_mods")
        return modulation(m, name, "conditioning", d, count)

    def projected(self, m: Maker, x: str, prefix: str = "") -> tuple[str, str, str]:
        """Queries, keys and values of one stream, normalised."""
        query, key, value = (self.at.project(m, name, x, prefix) for name in ("q", "k", "v"))
        if self.qk_norm is not None:
            query = m.norm(f"{prefix}q_norm", query, self.at.head_dim, self.qk_norm)
            key = m.norm(f"{prefix}k_norm", key, self.at.head_dim, self.qk_norm)
        return query, key, value

    def attended(self, m: Maker, query: str, key: str, value: str) -> str:
        """Rotation and attention over all positions."""
        if self.at.rotary is not None:
            query = m.add("q_rope", Rope(), query, "rope_table")
            key = m.add("k_rope", Rope(), key, "rope_table")
        return attended(m, query, key, value, FULL)


@dataclass(frozen=True)
class JointLayer:
    """A layer of two streams with weights of their own that attend jointly (MM-DiT).

    Source: Esser et al., arXiv 2403.03206. Text comes first. With ``ends`` the text
    stream ends in this layer: only its keys and values are needed. With ``dual`` the
    image also attends to itself, through a modulation of the same norm (MMDiT-X).
    """

    streams: Streams
    feed: FeedForward
    ends: bool = False
    dual: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Conditioning vector and rotary table."""
        return self.streams.operands(style, ("image", 6), ("text", 6))

    def graph(self, style: Style) -> Graph:
        """The layer: image and text in, image and text out."""
        m, s = Maker("layer", style), self.streams
        d = s.at.d
        x, text = _hidden(m, ("image", s.image), ("text", s.text), d=d)
        for tensor in self.operands(style):
            m.source(tensor)
        x, text = self.add(m, x, text)
        return m.build(x, text)

    def add(self, m: Maker, x: str, text: str) -> tuple[str, str]:
        """Adds the layer: (image, text); text is unchanged where the stream ends."""
        s = self.streams
        mods = s.mods(m, "image_modulation", "image", 9 if self.dual else 6)
        own = s.mods(m, "text_modulation", "text", 2 if self.ends else 6)
        y = modulated(m, "image_attn", x, *mods[:2])
        second = (
            m.add("second_modulate", Modulate(), "image_attn_norm", *mods[6:8]) if self.dual else ""
        )
        # A norm that only shifts and scales states its scale first: it costs the same.
        z = modulated(m, "text_attn", text, *own[:2])
        pairs = zip(s.projected(m, z, "text_"), s.projected(m, y), strict=True)
        joined = (
            m.add(f"{name}_join", Join(1), *pair) for name, pair in zip("qkv", pairs, strict=True)
        )
        mixed = s.attended(m, *joined)
        from_text, from_image = m.add_many("streams", Cut((s.text, s.image)), mixed)
        x = gated_add(m, "image_attn", s.at.out(m, from_image), mods[2], x)
        if self.dual:
            z = attended(m, *s.projected(m, second, "second_"), FULL, prefix="second_")
            x = gated_add(m, "second_attn", s.at.out(m, z, "second_"), mods[8], x)
        y = self.feed.add(m, modulated(m, "image_mlp", x, *mods[3:5]))
        x = gated_add(m, "image_mlp", y, mods[5], x)
        if self.ends:
            return x, text
        text = gated_add(m, "text_attn", s.at.out(m, from_text, "text_"), own[2], text)
        z = self.feed.add(m, modulated(m, "text_mlp", text, *own[3:5]), "text_")
        return x, gated_add(m, "text_mlp", z, own[5], text)


@dataclass(frozen=True)
class SingleLayer:
    """Flux's layer of one stream: attention and feed-forward side by side, one product out.

    ``gated``: the feed-forward block has a gate, one product makes it and the heads, and there
    are no biases (Flux 2).
    """

    streams: Streams
    width: Expr
    activation: str = "gelu_tanh"
    gated: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Conditioning vector and rotary table."""
        return self.streams.operands(style, ("single", 3))

    def graph(self, style: Style) -> Graph:
        """The layer: hidden state over text and image in and out."""
        m, s = Maker("layer", style), self.streams
        d = s.at.d
        (x,) = _hidden(m, ("hidden", s.length), d=d)
        for tensor in self.operands(style):
            m.source(tensor)
        shift, scale, gate = s.mods(m, "modulation", "single", 3)
        y = modulated(m, "attn", x, shift, scale)
        if self.gated:
            heads, fed = self._packed(m, y)
        else:
            fed = m.linear("mlp_proj", y, self.width, d, True)
            fed = m.add("mlp_act", Activation(self.activation), fed)
            heads = s.projected(m, y)
        mixed = s.attended(m, *heads)
        flat = m.add("heads_flat", Reshape((B, s.length, s.at.width)), mixed)
        both = m.add("concat", Concat(), flat, fed)
        y = m.linear("out_proj", both, d, s.at.width + self.width, not self.gated)
        return m.build(gated_add(m, "out", y, gate, x))

    def _packed(self, m: Maker, x: str) -> tuple[tuple[str, str, str], str]:
        """Queries, keys and values, and what the gated block makes, from one product."""
        at, norm = self.streams.at, self.streams.qk_norm
        wide = 3 * at.width + 2 * self.width
        packed = m.linear("qkv_mlp_proj", x, wide, at.d)
        heads = ((at.heads, at.head_dim),) * 3
        parts = (*heads, (self.width,), (self.width,))
        query, key, value, first, second = m.add_many("qkv_mlp_split", Split(parts), packed)
        if norm is not None:
            query = m.norm("q_norm", query, at.head_dim, norm)
            key = m.norm("k_norm", key, at.head_dim, norm)
        acted = m.add("mlp_act", Activation(self.activation), first)
        return (query, key, value), m.add("mlp_mul", Multiply(), acted, second)
