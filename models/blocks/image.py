"""Convolutions and their norms with weights, and the patches that a transformer sees."""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Expr, Integer, Mul

from costgraph.ir.dtypes import INT64
from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.style import Maker, Norm
from costgraph.models.blocks.tower import LAYER_NORM
from costgraph.ops import Activation, Add, AsSequence, Conv, Embedding, LayerNorm
from costgraph.ops.arrays import Join
from costgraph.ops.channels import BatchNorm, GroupNorm
from costgraph.ops.image import AsImage, Interpolate, Prepend
from costgraph.ops.pool import ConvTranspose
from costgraph.ops.views import Expand, Reshape
from costgraph.symbols import B, G

ZERO, ONE = Integer(0), Integer(1)
Size = tuple[Expr, ...]


def picture(m: Maker, batch: Expr, channels: Expr, size: Size, name: str = "image") -> str:
    """Declares the input ``(batch, channels, n…)``."""
    return m.source(Tensor(name, (batch, channels, *size), m.style.acts))


def conv(
    m: Maker,
    name: str,
    x: str,
    out: Expr,
    kernel: int | Size,
    stride: int | Size = 1,
    padding: int = 0,
    groups: Expr = ONE,
    bias: bool = True,
    gap: int = 1,
) -> str:
    """Adds a convolution over all axes of ``x`` with its weight ``(out, C/groups, k…)``.

    ``gap``: how far its taps are apart.
    """
    axes = len(m.shape(x)) - 2
    taps = kernel if isinstance(kernel, tuple) else (Integer(kernel),) * axes
    steps = stride if isinstance(stride, tuple) else (Integer(stride),) * axes
    op = Conv(steps, (Integer(padding),) * axes, (Integer(gap),) * axes, groups, bias)
    operands = [x, m.weight(f"{name}.weight", out, m.shape(x)[1] / groups, *taps)]
    if bias:
        operands.append(m.vector(f"{name}.bias", out))
    return m.add(name, op, *operands)


def even(m: Maker, name: str, x: str, out: Expr, taps: int, gap: int = 1, bias: bool = True) -> str:
    """Adds a convolution of an odd number of taps that keeps the length."""
    return conv(m, name, x, out, taps, 1, (taps - 1) // 2 * gap, bias=bias, gap=gap)


def grown(m: Maker, name: str, x: str, out: Expr, kernel: Size, sizes: Size) -> str:
    """Adds a transposed convolution with bias, whose axes are ``sizes`` long."""
    weight = m.weight(f"{name}.weight", m.shape(x)[1], out, *kernel)
    bias = m.vector(f"{name}.bias", out)
    return m.add(name, ConvTranspose(sizes, bias=True), x, weight, bias)


def enlarge(m: Maker, name: str, x: str, out: Expr, side: Expr) -> str:
    """Adds a transposed convolution with bias, without overlap: ``side`` times as tall and wide."""
    sizes = tuple(side * n for n in m.shape(x)[2:])
    return grown(m, name, x, out, (side, side), sizes)


def latent_patches(m: Maker, channels: Expr, patch: Size, d: Expr) -> str:
    """Adds ``G`` latent patches, each embedded by a convolution without overlap: ``(B, G, d)``."""
    x = picture(m, B * G, channels, patch, "latent_patches")
    x = conv(m, "image_embed", x, d, patch, patch)
    return m.add("image_rows", Reshape((B, G, d)), x)


def affine(m: Maker, name: str, x: str) -> tuple[str, str, str]:
    """``x`` with a weight and a bias per channel."""
    channels = m.shape(x)[1]
    return x, m.vector(f"{name}.weight", channels), m.vector(f"{name}.bias", channels)


def batch_norm(m: Maker, name: str, x: str, frozen: bool = False) -> str:
    """Adds a batch norm; what a ``frozen`` one multiplies by and adds is no parameter."""
    if not frozen:
        return m.add(name, BatchNorm(), *affine(m, name, x))
    shape = (m.shape(x)[1],)
    given = (m.source(Tensor(f"{name}.{n}", shape, m.style.acts)) for n in ("weight", "bias"))
    return m.add(name, BatchNorm(), x, *given)


def group_norm(m: Maker, name: str, x: str, groups: Expr) -> str:
    """Adds a group norm."""
    return m.add(name, GroupNorm(groups), *affine(m, name, x))


def channel_norm(m: Maker, name: str, x: str) -> str:
    """Adds a layer norm over the channels of an image."""
    size, d = m.shape(x)[2:], m.shape(x)[1]
    x = m.norm(name, m.add(f"{name}_in", AsSequence(), x), d, LAYER_NORM)
    return m.add(f"{name}_out", AsImage(size), x)


def act(m: Maker, name: str, x: str, function: str) -> str:
    """Adds an activation."""
    return m.add(name, Activation(function), x)


def same_norm(m: Maker, name: str, of: str, x: str) -> str:
    """Adds the layer norm with the weights of the one that is called ``of``, once more."""
    weight, bias = (m.vector(f"{of}.{part}", m.shape(x)[-1]) for part in ("weight", "bias"))
    return m.add(name, LayerNorm(True, True), x, weight, bias)


def by_axes(m: Maker, tall: Expr, wide: Expr, rows: Expr, d: Expr) -> str:
    """Adds learned places ``(tall·wide, d)``: one half by the column, the other by the row."""
    parts, half = [], d / 2
    for name, count, shape in (
        ("across", wide, (ONE, wide, half)),
        ("down", tall, (tall, ONE, half)),
    ):
        ids = m.source(Tensor(f"{name}_ids", (count,), INT64))
        table = m.weight(f"{name}.weight", rows, half)
        found = m.add(f"{name}_embed", Embedding(result=m.style.acts), ids, table)
        found = m.add(f"{name}_line", Reshape(shape), found)
        parts.append(m.add(f"{name}_wide", Expand((tall, wide, half)), found))
    return m.add("places", Reshape((tall * wide, d)), m.add("places_grid", Join(2), *parts))


def positions_of(m: Maker, rows: Expr, count: Expr, d: Expr, taps: int = 16) -> str:
    """Learned positions ``(count, d)`` from a table of ``rows``, resampled if these differ."""
    table = m.weight("positions.weight", rows, d)
    if rows == count:
        return table
    return m.add("position_resample", Interpolate(count, taps), table)


def class_first(m: Maker, x: str) -> str:
    """Adds a learned class token in front of ``x (B, n, d)``."""
    d = m.shape(x)[2]
    token = m.add("class_row", Reshape((ONE, d)), m.vector("class_token", d))
    return m.add("prepend", Prepend(), token, x)


@dataclass(frozen=True)
class Patches:
    """A convolution that turns an image into a sequence of patches.

    Attributes:
        d, channels: width of a patch's vector, channels of the image.
        patch: patch size per axis.
        bias: of the convolution.
        first: learned tokens in front (the class token).
        rows: rows of the position table, or None.
        registers: learned tokens in front that get no positions.
        stride: from patch to patch, where they overlap; None where they do not.
        fixed: positions are added from a table that is no weight.
        norm: of patches, in front of positions, or None.
        chosen: positions are rows of the table by the place of each patch, never resampled.
    """

    d: Expr
    channels: Expr
    patch: Size
    bias: bool = True
    first: int = 0
    rows: Expr | None = None
    registers: int = 0
    stride: Size | None = None
    fixed: bool = False
    norm: Norm | None = None
    chosen: bool = False

    @property
    def lead(self) -> Expr:
        """Positions in front of the patches."""
        return Integer(self.first + self.registers)

    def count(self, size: Size) -> Expr:
        """Positions of the sequence that an image of ``size`` becomes."""
        from costgraph.ops.conv import output_size

        steps = self.stride or self.patch
        axes = (
            output_size(n, p, s, ZERO, ONE) for n, p, s in zip(size, self.patch, steps, strict=True)
        )
        return Mul(*axes) + self.lead

    def add(self, m: Maker, x: str) -> str:
        """Adds the patches of image ``x``: ``(B, n, d)``."""
        x = conv(m, "patch_embed", x, self.d, self.patch, self.stride or self.patch, bias=self.bias)
        x = m.add("as_sequence", AsSequence(), x)
        if self.norm is not None:
            x = m.norm("patch_norm", x, self.d, self.norm)
        if self.first == 1:
            x = class_first(m, x)
        elif self.first:
            x = m.add("prepend", Prepend(), m.vector("tokens", Integer(self.first), self.d), x)
        if self.rows is not None and self.chosen:
            ids = m.source(Tensor("place_ids", (m.shape(x)[1],), INT64))
            table = m.weight("positions.weight", self.rows, self.d)
            found = m.add("place_embed", Embedding(result=m.style.acts), ids, table)
            x = m.add("position_add", Add(), x, found)
        elif self.rows is not None:
            table = positions_of(m, self.rows, m.shape(x)[1], self.d)
            x = m.add("position_add", Add(), x, table)
        if self.fixed:
            table = m.source(Tensor("position_table", m.shape(x)[1:], m.style.acts))
            x = m.add("position_add", Add(), x, table)
        if self.registers:
            # They stand behind the class token: a copy of the sequence all the same.
            rows = m.vector("registers", Integer(self.registers), self.d)
            x = m.add("registers_in", Prepend(), rows, x)
        return x
