"""Mixture of experts: routing, products grouped by expert, the weighted sum.

A router chooses ``k`` of ``E`` experts for each token. The work is that of
``k`` rows per token, exactly. The weights that are read depend on which experts
the tokens of one step choose together; :class:`Routing` says how many those are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from sympy import Add, Expr, Mul, Rational

from costgraph.errors import VerifyError
from costgraph.ir.cost import ONE, ZERO, Access, Work
from costgraph.ir.dtypes import INT32
from costgraph.ir.op import (
    Op,
    Spec,
    Tensors,
    read,
    require,
    require_same,
    vector,
    vector_special,
    write,
)
from costgraph.ops.elementwise import ACTIVATIONS
from costgraph.ops.linear import Linear

#: What a :class:`Routing` counts: the mean over choices, or its bounds.
COUNTS = ("expected", "all", "least")

#: How logits become weights: (vector FLOP, special FLOP) per expert.
SCORES: dict[str, tuple[int, int]] = {
    "softmax": (4, 1),
    "sigmoid": ACTIVATIONS["sigmoid"],
    "sqrtsoftplus": (1, 3),
    "none": (0, 0),
}


@dataclass(frozen=True)
class Routing:
    """Which experts the tokens of a step choose.

    Each token chooses its ``k`` different experts independently of the other
    tokens. With balanced routing an expert is chosen with probability ``k/E``, so
    ``n`` tokens touch ``E·(1 − (1 − k/E)^n)`` experts on average; with
    probabilities ``p_i`` that add up to ``k`` they touch ``Σ_i 1 − (1 − p_i)^n``.
    Both are exact: the choices of one token may depend on one another.

    Attributes:
        popularity: relative popularity of each expert; empty for balanced.
        zipf: popularity ``1/i^zipf`` of the ``i``-th expert instead, or None.
        count: ``expected``; or its bounds: ``all`` experts, or the ``least``
            possible (all tokens choose the same ``k``).
        chances: the probability that a token chooses each of the experts, where these are
            known (those of one device); empty otherwise.
    """

    popularity: tuple[Expr, ...] = ()
    zipf: Expr | None = None
    count: str = "expected"
    chances: tuple[Expr, ...] = ()

    def touched(self, experts: Expr, chosen: Expr, tokens: Expr) -> Expr:
        """Experts that ``tokens`` tokens touch, choosing ``chosen`` of ``experts`` each.

        Raises:
            VerifyError: the popularity is not that of these experts.
        """
        if self.count not in COUNTS:
            raise VerifyError(f"unknown count {self.count!r}; known: {', '.join(COUNTS)}")
        if self.count == "all" or experts == chosen:
            return experts
        if self.count == "least":
            return chosen
        if not self.popularity and self.zipf is None and not self.chances:
            return experts * (1 - (1 - chosen / experts) ** tokens)
        groups: dict[Expr, int] = {}
        for share in self.shares(experts, chosen):
            groups[share] = groups.get(share, 0) + 1
        return Add(*(n * (ONE if p == 1 else 1 - (1 - p) ** tokens) for p, n in groups.items()))

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What counts of expert traffic rest on, as sentences."""
        if self.count == "all":
            return ("experts: every step reads all of them, the most that it can",)
        if self.count == "least":
            return ("experts: all tokens of a step choose the same ones, the least traffic",)
        how = "balanced routing"
        if self.zipf is not None:
            how = f"popularity falling as 1/i^{float(self.zipf):g}"
        elif self.popularity:
            how = "the given popularity"
        return (
            f"experts: tokens choose independently, with {how}; the expected traffic stands "
            "inside the maxima: a lower bound of the expected time",
        )

    def shares(self, experts: Expr, chosen: Expr) -> tuple[Expr, ...]:
        """The probability that a token chooses each expert; they add up to ``chosen``.

        Proportional to popularity. An expert that would be chosen more often
        than always is always chosen, and the others share what is left.

        Raises:
            VerifyError: the popularity is not that of these experts.
        """
        if self.chances:
            return self.chances
        if not (experts.is_Integer and chosen.is_Integer):
            raise VerifyError(f"routing by popularity needs numbers, not {experts} experts")
        return _inclusion(self._weights(int(experts)), int(chosen))

    @property
    def is_skewed(self) -> bool:
        """Whether experts differ in how often they are chosen."""
        return bool(self.popularity) or self.zipf is not None or bool(self.chances)

    def _weights(self, experts: int) -> tuple[Expr, ...]:
        if self.zipf is not None:
            # Rounded: the powers are irrational, or their exact sums very long.
            return tuple(
                Rational(str(round(float(i) ** -float(self.zipf), 9)))
                for i in range(1, experts + 1)
            )
        given = self.popularity or (ONE,) * experts
        if len(given) != experts:
            raise VerifyError(f"popularity of {len(given)} experts is given, there are {experts}")
        return given


@lru_cache(maxsize=64)
def _touched(routing: Routing, experts: Expr, chosen: Expr, tokens: Expr) -> Expr:
    return routing.touched(experts, chosen, tokens)


@lru_cache(maxsize=64)
def _inclusion(weights: tuple[Expr, ...], chosen: int) -> tuple[Expr, ...]:
    always: set[int] = set()
    if sum(bool(w > 0) for w in weights) < chosen:
        raise VerifyError(f"fewer than {chosen} experts are ever chosen")
    while True:
        rest: Expr = sum((w for i, w in enumerate(weights) if i not in always), ZERO)
        left = chosen - len(always)
        over = {i for i, w in enumerate(weights) if i not in always and left * w > rest}
        if not over:
            scale = ZERO if left == 0 else left / rest
            return tuple(ONE if i in always else scale * w for i, w in enumerate(weights))
        always |= over


BALANCED = Routing()


@dataclass(frozen=True)
class Route(Op):
    """Chooses experts: logits ``(B, q, E)`` to weights and numbers, both ``(B, q, k)``.

    Work per token: the score of each expert (5 for a softmax, 3 for a sigmoid;
    with ``after``, only of the chosen ones), one addition per expert for a
    ``correction`` that biases the choice, ``k·E`` comparisons for the choice
    (one pass over the experts per place), ``2k − 1`` to normalise the weights
    and ``k`` to scale them.
    A correction, and a scale, that is a parameter is a further operand, ``(E,)``.
    ``idle`` places of those chosen fall, on average, on experts that return their input
    (LongCat's zero experts, arXiv 2509.01322): ``chosen`` are the others, and a third result
    ``(B, q, 1)`` is the sum of the weights of the idle ones, ``idle − 1`` additions.
    With ``groups`` the choice is made among the best ``kept`` groups: twice
    ``E`` comparisons for the two best of each, and ``kept·groups`` more.

    Attributes:
        chosen: experts per token, ``k``.
        score: a key of :data:`SCORES`; ``after``: computed for the chosen only.
        normalise, scale, correction: the steps named above.
        groups, kept: group-limited choice (DeepSeek-V2, arXiv 2405.04434), or 1.
        idle: further places per token that no expert computes for.
        tabled: a table says which experts a token has (DeepSeek-V4's first layers): none is
            compared, and scores are only those of the chosen ones' weights.
    """

    kind: ClassVar[str] = "route"
    chosen: Expr = ONE
    score: str = "softmax"
    after: bool = False
    normalise: bool = False
    scale: bool = False
    correction: bool = False
    groups: Expr = ONE
    kept: Expr = ONE
    idle: Expr = ZERO
    tabled: bool = False

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        most = 1 + self.correction + self.scale
        require(1 <= len(inputs) <= most, self, "takes logits and what biases and scales")
        require(self.score in SCORES, self, "unknown score {!r}", self.score)
        x = inputs[0]
        experts = x.shape[-1]
        fits = not (experts - self.chosen - self.idle).is_negative
        require(fits, self, "cannot choose {} of {} experts", self.chosen, experts)
        for bias in inputs[1:]:
            require(len(bias.shape) == 1, self, "{} is not a vector", bias)
            require_same(self, bias.shape[0], experts, "numbers for experts")
        shape = (*x.shape[:-1], self.chosen)
        made = Spec(shape, x.dtype), Spec(shape, INT32)
        return made if self.idle == 0 else (*made, Spec((*x.shape[:-1], ONE), x.dtype))

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        x, k = inputs[0], self.chosen + self.idle
        experts, rows = x.shape[-1], Mul(*x.shape[:-1])
        plain, special = SCORES[self.score]
        scored = k if self.after else experts
        other = ZERO if self.tabled else k * experts
        if self.correction:
            other += experts
        if self.groups != 1:
            other += 2 * experts + self.kept * self.groups
        if self.normalise:
            other += 2 * k - 1
        if self.scale:
            other += k
        if self.idle != 0:
            other += self.idle - 1
        return vector_special(rows * (plain * scored + other), rows * special * scored)


@dataclass(frozen=True)
class ExpertLinear(Linear):
    """``y = x W_eᵀ (+ b_e)`` with the chosen experts ``e``: a product grouped by expert.

    Inputs ``x (B, q, ic)``, the token for all its experts, or ``(B, q, k, ic)``,
    a row for each; ``W (E, oc, ic)``; numbers ``(B, q, k)``; with bias ``b (E·oc)``.
    Result ``(B, q, k, oc)``.

    Work: ``2·rows·ic·oc`` FLOP for ``rows = B·q·k``. Of the weights only the
    touched experts' are read, each once (:class:`Routing`); so are they
    converted where they are stored narrower than they compute.
    """

    kind: ClassVar[str] = "expert-linear"
    routing: Routing = BALANCED

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 3 + self.bias, self, "takes {} operands", 3 + self.bias)
        x, w, numbers = inputs[:3]
        require(len(w.shape) == 3, self, "weight {} is not a stack of matrices", w)
        require(self.contract == 1 and not self.split, self, "sums over one dimension, unsplit")
        experts, oc, ic = w.shape
        require_same(self, x.shape[-1], ic, "contraction of {} and {}", x, w)
        lead = numbers.shape if len(x.shape) == len(numbers.shape) + 1 else numbers.shape[:-1]
        require(len(x.shape) == len(lead) + 1, self, "rows of {} do not match {}", x, numbers)
        for a, b in zip(x.shape, lead, strict=False):
            require_same(self, a, b, "rows of {} and {}", x, numbers)
        if self.bias:
            require(len(inputs[3].shape) == 1, self, "bias {} is not a vector", inputs[3])
            require_same(self, inputs[3].shape[0], experts * oc, "bias and output width")
        self.touched(inputs)  # refuses a popularity of other experts
        return (Spec((*numbers.shape, oc), x.dtype),)

    def touched(self, inputs: Tensors) -> Expr:
        """Experts whose weights are read in one execution."""
        w, numbers = inputs[1:3]
        return _touched(self.routing, w.shape[0], numbers.shape[-1], Mul(*numbers.shape[:-1]))

    def gemm(self, inputs: Tensors) -> tuple[Expr, Expr, Expr, Expr]:
        """(groups, rows of each, ic, oc): the products as a grouped GEMM sees them.

        The rows are those of a touched expert on average.
        """
        w, numbers = inputs[1:3]
        groups = self.touched(inputs)
        return groups, numbers.numel / groups, w.shape[2], w.shape[1]

    def product(self, inputs: Tensors, outputs: Tensors) -> Expr:
        return 2 * outputs[0].numel * inputs[1].shape[2]

    def loaded(self, inputs: Tensors) -> Expr:
        w = inputs[1]
        return self.touched(inputs) * w.shape[1] * w.shape[2]

    def accesses(self, inputs: Tensors, outputs: Tensors) -> tuple[Access, ...]:
        x, w, numbers = inputs[:3]
        groups, oc = self.touched(inputs), w.shape[1]
        found = [
            read(x),
            read(w, w.of_matrices(self.loaded(inputs))),
            read(numbers),
        ]
        if self.bias:
            found.append(read(inputs[3], groups * oc * inputs[3].dtype.bytes_per_element))
        return (*found, write(outputs[0]))


@dataclass(frozen=True)
class Combine(Op):
    """``Σ_k weight_k · y_k``: rows ``(B, q, k, d)`` and weights ``(B, q, k)`` to ``(B, q, d)``.

    ``2k − 1`` FLOP per result element.
    """

    kind: ClassVar[str] = "combine"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes rows and weights")
        y, weights = inputs
        require(len(y.shape) == len(weights.shape) + 1, self, "{} against {}", y, weights)
        for a, b in zip(y.shape, weights.shape, strict=False):
            require_same(self, a, b, "shapes of {} and {}", y, weights)
        return (Spec((*y.shape[:-2], y.shape[-1]), y.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return vector((2 * inputs[1].shape[-1] - 1) * outputs[0].numel)


@dataclass(frozen=True)
class RowScale(Op):
    """``x (…, d)`` times one number per row ``s (…, 1)``; 1 FLOP per element."""

    kind: ClassVar[str] = "row-scale"

    def infer(self, inputs: Tensors) -> tuple[Spec, ...]:
        require(len(inputs) == 2, self, "takes x and one number per row")
        x, s = inputs
        require(len(x.shape) == len(s.shape) and s.shape[-1] == 1, self, "{} against {}", x, s)
        for a, b in zip(x.shape[:-1], s.shape[:-1], strict=True):
            require_same(self, a, b, "rows of {} and {}", x, s)
        return (Spec(x.shape, x.dtype),)

    def work(self, inputs: Tensors, outputs: Tensors) -> Work:
        return vector(outputs[0].numel)
