"""How a model is counted and stored, and a builder that knows it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, Integer

from costgraph.ir.dtypes import BF16, FP32, DType
from costgraph.ir.graph import Builder
from costgraph.ir.tensor import Role, Tensor
from costgraph.models.blocks.pictures import Shown
from costgraph.ops import Activation, LayerNorm, Linear, RMSNorm
from costgraph.ops.elementwise import LEARNED
from costgraph.ops.experts import BALANCED, Routing
from costgraph.ops.pattern import CAUSAL, Pattern
from costgraph.symbols import B, T, q


@dataclass(frozen=True)
class Style:
    """Element formats and counting options, the same for every block of a model.

    Attributes:
        weights, acts, kv: formats of weights, activations and caches.
        mask: how masked score pairs are counted, see
            :data:`costgraph.ops.pattern.COUNTED`.
        logits: ``last``: only the last position needs logits; ``all``: every one.
        pictures: what a prompt shows, where the import says so.
        images: False leaves images out of a request to a multimodal model.
        scan: how scans over matrix states run: ``chunked`` products for many
            tokens at once, ``recurrent`` for few; see
            :data:`costgraph.ops.scan.FORMS`.
        states: format of recurrent states that accumulate.
        routing: which experts the tokens of a step choose.
        mla: form of latent attention, see
            :class:`costgraph.models.blocks.mla.LatentAttention`.
        later_mla: that of decode steps where it is another one, or empty.
    """

    weights: DType = BF16
    acts: DType = BF16
    kv: DType = BF16
    mask: str = "skip"
    logits: str = "last"
    routing: Routing = BALANCED
    mla: str = "absorbed"
    scan: str = "chunked"
    states: DType = FP32
    pictures: tuple[Shown, ...] = ()
    images: bool = True
    later_mla: str = ""

    @property
    def decoding(self) -> Style:
        """The style of decode steps: scans token by token, latent attention in its later form."""
        return replace(self, scan="recurrent", mla=self.later_mla or self.mla)

    @property
    def image(self) -> tuple[Expr, Expr] | None:
        """Height and width in pixels of the one picture that is shown; None for others."""
        if len(self.pictures) != 1 or self.pictures[0].count != 1 or self.pictures[0].frames:
            return None
        return Integer(self.pictures[0].height), Integer(self.pictures[0].width)

    @property
    def scan_form(self) -> str:
        """The form of scans: chunks count whole where masked pairs are computed."""
        whole = self.scan == "chunked" and self.mask == "compute"
        return "dense" if whole else self.scan


@dataclass(frozen=True)
class Norm:
    """A normalisation: ``rms`` or ``layer``; the latter may have a ``bias``, both a ``weight``."""

    kind: str = "rms"
    bias: bool = False
    weight: bool = True


class Maker(Builder):
    """A graph builder with a style: weights and caches get their formats."""

    def __init__(self, name: str, style: Style) -> None:
        super().__init__(name)
        self.style = style

    def weight(self, name: str, *shape: Expr) -> str:
        """Declares a weight in the weight format."""
        return self.source(Tensor(name, shape, self.style.weights, Role.WEIGHT))

    def vector(self, name: str, *shape: Expr) -> str:
        """Declares a small weight that keeps the compute format, or a wider one (norms, biases)."""
        wide, acts = self.style.weights, self.style.acts
        return self.source(
            Tensor(name, shape, wide if wide.bits > acts.bits else acts, Role.WEIGHT)
        )

    def cache(self, name: str, heads: Expr, width: Expr, keeps: Pattern = CAUSAL) -> str:
        """Declares a cache of ``T − q`` earlier positions: ``(B, T−q, heads, width)``.

        Where a pattern drops some, of those that the step can still see.
        """
        length = keeps.seen(q, T) - q
        return self.source(Tensor(name, (B, length, heads, width), self.style.kv, Role.KV))

    def state(self, name: str, *shape: Expr, dtype: DType | None = None) -> str:
        """Declares a recurrent state of one layer, in the style's state format."""
        return self.source(Tensor(name, shape, dtype or self.style.states, Role.STATE))

    def linear(
        self,
        name: str,
        x: str,
        oc: Expr,
        ic: Expr,
        bias: bool = False,
        split: tuple[Expr, ...] = (),
        contract: int = 1,
    ) -> str:
        """Adds ``y = x Wᵀ (+ b)`` with its weight ``(oc, ic)``."""
        operands = [x, self.weight(f"{name}.weight", oc, ic)]
        if bias:
            operands.append(self.vector(f"{name}.bias", oc))
        return self.add(name, Linear(bias, contract, split), *operands)

    def activation(self, name: str, x: str, function: str) -> str:
        """Adds an activation function, with its learned numbers where it has some."""
        learned = (self.vector(f"{name}.{n}", Integer(1)) for n in LEARNED.get(function, ()))
        return self.add(name, Activation(function), x, *learned)

    def norm(self, name: str, x: str, width: Expr | tuple[Expr, ...], norm: Norm) -> str:
        """Adds a normalisation over the last ``width`` elements.

        A tuple is the shape of the parameters where they differ per head.
        """
        shape = width if isinstance(width, tuple) else (width,)
        operands = [x]
        if norm.weight:
            operands.append(self.vector(f"{name}.weight", *shape))
        if norm.kind == "rms":
            return self.add(name, RMSNorm(norm.weight), *operands)
        if norm.bias:
            operands.append(self.vector(f"{name}.bias", *shape))
        return self.add(name, LayerNorm(norm.bias, norm.weight), *operands)
