"""Experts in place of a feed-forward block: a router, routed experts, shared ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sympy import Expr, Integer

from costgraph.ir.tensor import Tensor
from costgraph.models.blocks.feedforward import FeedForward
from costgraph.models.blocks.style import Maker, Norm, Style
from costgraph.ops import (
    Activation,
    Add,
    Combine,
    ExpertLinear,
    Multiply,
    Route,
    RowScale,
    Scale,
    SoftCap,
    Split,
)
from costgraph.ops.maps import Map

ZERO, ONE = Integer(0), Integer(1)
ROUTE = Route()


@dataclass(frozen=True)
class Experts:
    """``k`` of ``E`` expert feed-forward blocks per token, and shared ones for all.

    The router multiplies by a ``(E, d)`` matrix and chooses (:class:`Route`).
    Corrections that only bias the choice are buffers of the router, not
    parameters: their additions are counted, not their bytes, unless the class
    holds them as parameters (``learned_correction``). So are the constants that
    scale the weights of chosen experts (``learned_scale``: one for each expert).

    Attributes:
        d, width: hidden size and width of one expert.
        experts, chosen: ``E`` and ``k``.
        route: how the router chooses; its ``chosen`` is set to ``k``.
        activation, gated, bias: of the experts, as in :class:`FeedForward`.
        up_activation: a function of the up projection, or None.
        router_bias: bias of the router.
        shared: a feed-forward block that every token passes, or None;
            ``shared_gate``: its result times the sigmoid of a learned number.
        packed: gate and up projection of an expert are one matrix.
        router_cap: the router's logits pass a soft cap.
        averaged: a constant scales the sum of routed and shared results.
        behind: a norm behind all of it, or None.
        idle: experts that return their input; ``chosen`` counts those among the chosen that
            compute, ``idle_chosen`` the others (:class:`Route`).
        latent: width that routed experts read and make, between projections of their own that
            all tokens pass, or None for ``d``.
        latent_norm: normalisation of what routed experts made in that width, or None.
        sum_bias: a vector is added to the combined result.
    """

    d: Expr
    width: Expr
    experts: Expr
    chosen: Expr
    route: Route = ROUTE
    activation: str = "silu"
    gated: bool = True
    up_activation: str | None = None
    bias: bool = False
    router_bias: bool = False
    shared: FeedForward | None = None
    shared_gate: bool = False
    packed: bool = False
    learned_correction: bool = False
    learned_scale: bool = False
    latent: Expr | None = None
    latent_norm: Norm | None = None
    router_cap: bool = False
    averaged: bool = False
    behind: Norm | None = None
    idle: Expr = ZERO
    idle_chosen: Expr = ZERO
    sum_bias: bool = False

    def operands(self, style: Style) -> tuple[Tensor, ...]:
        """Nothing shared between layers."""
        return ()

    def add(self, m: Maker, x: str, reads: str = "") -> str:
        """Adds the block to a layer; ``x (B, q, d)`` to ``(B, q, d)``.

        ``reads`` is what the router reads where it is not ``x``.
        """
        total = self.experts + self.idle
        logits = m.linear("router", reads or x, total, self.d, self.router_bias)
        if self.router_cap:
            logits = m.add("router_cap", SoftCap(), logits)
        operands = [logits]
        if self.learned_correction:
            operands.append(m.vector("route_bias", total))
        if self.learned_scale:
            operands.append(m.vector("route_scale", total))
        weights, numbers, *rest = m.add_many("route", self._route(), *operands)
        low = x if self.latent is None else m.linear("latent_down", x, self.latent, self.d)
        routed = m.add("combine", Combine(), self._experts(m, low, numbers), weights)
        if self.sum_bias:
            routed = m.add("experts_bias", Map("add"), routed, m.vector("experts.bias", self.d))
        if self.latent is not None:
            if self.latent_norm is not None:
                routed = m.norm("latent_norm", routed, self.latent, self.latent_norm)
            routed = m.linear("latent_up", routed, self.d, self.latent)
        for share in rest:
            kept = m.add("idle_scale", RowScale(), x, share)
            routed = m.add("idle_add", Add(), routed, kept)
        made = routed if self.shared is None else self._with_shared(m, self.shared, x, routed)
        return made if self.behind is None else m.norm("experts_norm", made, self.d, self.behind)

    def _with_shared(self, m: Maker, block: FeedForward, x: str, routed: str) -> str:
        """The routed result and that of the block for all tokens."""
        shared = block.add(m, x, "shared_")
        if self.shared_gate:
            gate = m.linear("shared_gate", x, ONE, self.d)
            gate = m.add("shared_sigmoid", Activation("sigmoid"), gate)
            shared = m.add("shared_scale", RowScale(), shared, gate)
        both = m.add("shared_add", Add(), routed, shared)
        return m.add("shared_average", Scale(), both) if self.averaged else both

    def _route(self) -> Route:
        return replace(self.route, chosen=self.chosen, idle=self.idle_chosen)

    def _experts(self, m: Maker, x: str, numbers: str) -> str:
        """Rows ``(B, q, k, d)``, or as wide as ``latent``, of the chosen experts."""
        d, width = self.d if self.latent is None else self.latent, self.width
        if not self.gated:
            up = self._linear(m, "expert_up", x, numbers, width, d)
            acted = m.add("expert_act", Activation(self.activation), up)
            return self._linear(m, "expert_down", acted, numbers, d, width)
        if self.packed:
            both = self._linear(m, "expert_gate_up", x, numbers, 2 * width, d)
            gate, up = m.add_many("expert_split", Split(((width,), (width,))), both)
        else:
            gate = self._linear(m, "expert_gate", x, numbers, width, d)
            up = self._linear(m, "expert_up", x, numbers, width, d)
        acted = m.add("expert_act", Activation(self.activation), gate)
        if self.up_activation is not None:
            up = m.add("expert_up_act", Activation(self.up_activation), up)
        gated = m.add("expert_mul", Multiply(), acted, up)
        return self._linear(m, "expert_down", gated, numbers, d, width)

    def _linear(self, m: Maker, name: str, x: str, numbers: str, oc: Expr, ic: Expr) -> str:
        operands = [x, m.weight(f"{name}.weight", self.experts, oc, ic), numbers]
        if self.bias:
            # One vector for all experts: biases keep the compute format.
            operands.append(m.vector(f"{name}.bias", self.experts * oc))
        return m.add(name, ExpertLinear(self.bias, routing=m.style.routing), *operands)
