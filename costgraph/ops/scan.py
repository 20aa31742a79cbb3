"""Selective scans: Mamba 1 and the state-space duality form of Mamba 2.

A state of constant size takes the place of a cache: it is read and written once
per step, whatever the context. FLOP conventions are those of
:mod:`costgraph.ops.elementwise`: one per arithmetic operation, exponentials,
logarithms and roots on the special-function engine. ``softplus`` is one
addition, one exponential and one logarithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sympy import Expr, Integer, ceiling, floor

from costgraph.errors import VerifyError
from costgraph.hardware.machine import Engine
from costgraph.ir.cost import Access, Direction, Work
from costgraph.ir.dtypes import compute_type
from costgraph.ir.op import (
    Op,
    Spec,
    Tensors,
    merged,
    require,
    require_same,
    vector_special,
)
from costgraph.ir.tensor import Role, Tensor

#: How a scan over a matrix state runs. ``recurrent``: token by token, element-wise.
#: ``chunked``: products within and between chunks, useful pairs only, groups
#: shared. ``dense``: the same with whole chunks, masked half included.
#: ``reference``: as the published PyTorch code, which pads to whole chunks.
FORMS = ("recurrent", "chunked", "dense", "reference")


def check_form(form: str) -> None:
    """Refuse a form of scan that is not known."""
    if form not in FORMS:
        raise VerifyError(f"unknown form of scan {form!r}; known: {', '.join(FORMS)}")


def check_shape(op: Op, tensor: Tensor, *shape: Expr) -> None:
    """Require the shape of an operand."""
    axes = len(tensor.shape)
    require(axes == len(shape), op, "{} has {} dimensions", tensor, axes)
    for axis, (a, b) in enumerate(zip(tensor.shape, shape, strict=True)):
        require_same(op, a, b, "axis {} of {}", axis, tensor)


def check_state(op: Op, tensor: Tensor, *shape: Expr) -> None:
    """Require a recurrent state of a shape."""
    require(tensor.role is Role.STATE, op, "{} is not a state", tensor)
    check_shape(op, tensor, *shape)


def kept(state: Tensor) -> Spec:
    """The state after the step."""
    return Spec(state.shape, state.dtype, Role.STATE)


def chunk_pairs(tokens: Expr, chunk: Expr, form: str) -> Expr:
    """(later, earlier or same) position pairs within chunks of ``chunk`` positions.

    ``chunked`` counts the useful ones, the last chunk as long as it is; the
    other forms count whole squares, the last chunk filled up.
    """
    if form != "chunked":
        return ceiling(tokens / chunk) * chunk**2
    whole = floor(tokens / chunk)
    rest = tokens - whole * chunk
    return whole * chunk * (chunk + 1) / 2 + rest * (rest + 1) / 2


def computed_tokens(tokens: Expr, chunk: Expr, form: str) -> Expr:
    """Positions that the products between chunks run over: padded in the reference."""
    return tokens if form == "chunked" else ceiling(tokens / chunk) * chunk


@dataclass(frozen=True)
class SelectiveScan(Op):
    """The selective scan of Mamba 1 (Gu and Dao, arXiv:2312.00752, algorithm 2).

    Inputs ``x, Δ (B, q, D)``, ``B, C (B, q, N)``, ``A_log (D, N)``, ``D (D)``,
    state ``(B, D, N)``; results ``y (B, q, D)`` and the state.

    Per token, channel and state element: ``Δ·A`` (1) and its exponential,
    ``Δx·B`` (1), decay and add (2), contraction with ``C`` (2). Per token and
    channel: softplus of Δ, ``Δ·x`` (1), ``y + D·x`` (2). ``A = −exp(A_log)``
    once. No matrix product anywhere.

    Attributes:
        materialised: the unfused form, which writes ``exp(ΔA)``, ``ΔBx`` and
            the states of all tokens, ``(B, q, D, N)`` each, and reads them
            back. The kernel keeps them on chip.
    """

    kind: ClassVar[str] = "selective-scan"
    materialised: bool = False

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 7, self, "takes x, Δ, B, C, A, D and a state")
        x, delta, b, c, a, skip, state = inputs
        require(len(x.shape) == 3, self, "{} is not (B, q, D)", x)
        batch, tokens, width = x.shape
        n = a.shape[-1]
        check_shape(self, delta, batch, tokens, width)
        check_shape(self, b, batch, tokens, n)
        check_shape(self, c, batch, tokens, n)
        check_shape(self, a, width, n)
        check_shape(self, skip, width)
        check_state(self, state, batch, width, n)
        return (Spec(x.shape, x.dtype), kept(state))

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        channels, a = inputs[0].numel, inputs[4]
        elements = channels * a.shape[1]
        return vector_special(
            6 * elements + (1 + 1 + 2) * channels + a.numel,
            elements + 2 * channels + a.numel,
        )

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        found = super().accesses(inputs, outputs)
        if not self.materialised:
            return found
        state = inputs[6]
        amount = inputs[0].numel * inputs[4].shape[1] * state.dtype.bytes_per_element
        both = (Direction.WRITE, Direction.READ)
        made = tuple(
            Access(f"{outputs[0].name}.{part}", Role.ACTIVATION, way, amount)
            for part in ("decay", "input", "states")
            for way in both
        )
        return (*found, *made)


@dataclass(frozen=True)
class StateSpaceDual(Op):
    """The scan of Mamba 2 (Dao and Gu, arXiv:2405.21060, section 6).

    Inputs ``x (B, q, H, P)``, ``dt (B, q, H)``, ``B, C (B, q, G, N)``,
    ``A_log, D, dt_bias (H)``, state ``(B, H, P, N)``; results ``y (B, q, H·P)``
    and the state. Groups ``G`` share ``B`` and ``C`` among ``H/G`` heads.

    In every form, per token and head: bias, softplus, ``dt·A``, its
    exponential; per token and channel: ``dt·x`` (1), ``y + D·x`` (2);
    ``A = −exp(A_log)`` once.

    ``recurrent``: per token and state element decay, outer product and add (3),
    contraction with ``C`` (2): ``5·H·P·N``, element-wise.

    Chunks of ``Q`` positions, products on the tensor engine: ``C·Bᵀ`` once per
    group (``2·N`` per pair), times ``x`` (``2·P`` per pair and head), states
    of chunks and their contribution to later chunks (``2·P·N`` each per token
    and head). Element-wise: cumulative sums (1 per token and head), decay of
    pairs (subtract, exponential, multiply per pair and head), decay to and from
    the chunk's ends (an exponential each and one multiply per channel each,
    one subtraction), the sum of both contributions, and passing states on
    (``2·H·P·N`` and an exponential per head, per chunk).

    ``reference`` repeats ``B`` and ``C`` for every head and passes states on by
    a product over all (n+1)² pairs of chunks; its recurrent step does the
    contraction with ``C`` as a batched product.

    Attributes:
        form: one of :data:`FORMS`.
        chunk: positions per chunk, ``Q``.
    """

    kind: ClassVar[str] = "ssd-scan"
    form: str = "recurrent"
    chunk: Expr = Integer(256)

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        check_form(self.form)
        require(len(inputs) == 8, self, "takes x, dt, B, C, A, D, a bias and a state")
        x, dt, b, c, a, skip, bias, state = inputs
        require(len(x.shape) == 4 and len(b.shape) == 4, self, "{} and {} need four axes", x, b)
        batch, tokens, heads, width = x.shape
        groups, n = b.shape[2:]
        check_shape(self, dt, batch, tokens, heads)
        check_shape(self, b, batch, tokens, groups, n)
        check_shape(self, c, batch, tokens, groups, n)
        for vector in (a, skip, bias):
            check_shape(self, vector, heads)
        check_state(self, state, batch, heads, width, n)
        return (Spec((batch, tokens, heads * width), x.dtype), kept(state))

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        x, dt, b = inputs[:3]
        batch, tokens, heads, width = x.shape
        groups, n = b.shape[2:]
        channels, gates = x.numel, dt.numel
        common = vector_special((1 + 1 + 1) * gates + 3 * channels + heads, 3 * gates + heads)
        if self.form == "recurrent":
            return merged(common, vector_special(5 * channels * n, Integer(0)))
        pairs = batch * chunk_pairs(tokens, self.chunk, self.form)
        places = batch * computed_tokens(tokens, self.chunk, self.form)
        chunks = ceiling(tokens / self.chunk)
        shared = heads if self.form == "reference" else groups
        products = (2 * shared * n + 2 * heads * width) * pairs
        products += 4 * heads * width * n * places
        passed = batch * heads * width * n
        extra = vector_special(
            gates + 2 * heads * pairs + gates + 3 * channels,
            heads * pairs + 2 * gates,
        )
        if self.form == "reference":
            products += 2 * passed * (chunks + 1) ** 2
        else:
            extra = merged(extra, vector_special(2 * passed * chunks, batch * heads * chunks))
        key = (Engine.TENSOR, compute_type(x.dtype, b.dtype))
        return merged(common, extra, {key: products})
