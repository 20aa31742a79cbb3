"""Which tokens of a step take part in a region: expected costs of layers that run in part.

A step processes ``B·q`` tokens. Behind an early exit, each of them takes part
independently with a probability, and the layer runs if any does. The expected cost
follows from how a cost depends on the tokens ``n`` that are there:

===========================  ==========================  ================================
part of a cost               with ``n`` tokens           expected, each with chance ``s``
===========================  ==========================  ================================
weights, their conversion    1 if ``n > 0``              ``1 − (1 − s)^(B·q)``
work, activations, new rows  ``n``                       ``s·B·q``
caches and states            sequences with a token      ``B·(1 − (1 − s)^q)``
experts touched              ``1 − r^n``                 ``1 − (1 − s·(1 − r))^(B·q)``
===========================  ==========================  ================================

Where those that are not there wait for the next execution and join it, an execution comes
with the chance ``e = 1 − (1 − s)^(B·q)`` of a step and serves the tokens of all steps since
the last one, whose number is geometric: weights and caches count ``e``, work counts ``1``, and
``r^n`` of ``x = r^(B·q)`` has the expectation ``e·x/(1 − (1 − e)·x)`` in an execution.

All are exact but one: work on a cache that is done once per sequence (the conversion of a
narrow one) counts as work per token, which is less where a step has several tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from sympy import Add, Expr, Integer, Max, Min, Mul, expand

from costgraph.errors import MissingRuleError
from costgraph.hardware.links import Messages
from costgraph.ir.cost import Cost, Direction
from costgraph.ir.tensor import Role
from costgraph.symbols import B, q

ONE, ZERO = Integer(1), Integer(0)
TOKENS = B * q
#: What moves once per sequence, however many of its tokens are there.
HELD = (
    (Role.KV, Direction.READ),
    (Role.STATE, Direction.READ),
    (Role.STATE, Direction.WRITE),
)


@dataclass(frozen=True)
class Presence:
    """Who takes part in a region that does not always run for all.

    Attributes:
        runs: the probability that the region runs for the step at all, or for nobody.
        tokens: if so, the probability of each token to take part, independently.
        together: tokens are kept for later and run this many at once, so often that none
            is left over in the long run; None: those of a step run in that step.
        wait: tokens that do not take part wait for the next execution and join it: every
            token runs in the end.
        longest: the most steps whose tokens one execution serves: it comes then at the
            latest; None: it comes when a token takes part.
    """

    runs: Expr = ONE
    tokens: Expr = ONE
    together: Expr | None = None
    wait: bool = False
    longest: Expr | None = None

    @property
    def is_full(self) -> bool:
        """True when everything runs for everyone, in the step itself."""
        return self.runs == self.tokens == 1 and self.together is None

    @property
    def share(self) -> Expr:
        """Expected share of the tokens that take part."""
        return ONE if self.wait else self.runs * self.tokens

    @property
    def executions(self) -> Expr:
        """Expected executions per step: below one where the region may not run."""
        if self.together is not None:
            return self.share * TOKENS / self.together
        chance = self.runs * (1 - self._left**TOKENS)
        if self.longest is None:
            return chance
        # Steps between two executions: geometric, cut off at the longest.
        return 1 / self.longest if self.tokens == 0 else chance / (1 - (1 - chance) ** self.longest)

    @property
    def _left(self) -> Expr:
        return 1 - self.tokens

    def expected(self, cost: Cost) -> Cost:
        """The expected cost of a step, given that of one where all tokens take part.

        Raises:
            MissingRuleError: the cost depends on the batch in a way with no expectation
                known here.
        """
        if self.is_full:
            return cost
        if self.tokens == 1 and self.together is None:
            return cost.scaled(self.runs)
        sequence = self.executions if self.wait else self.runs * (1 - self._left**q)
        if self.together is not None:
            sequence = self.share * q  # each token comes with its own sequence
        held = dict.fromkeys(HELD, sequence)
        return Cost(
            {k: self._mean(v, self.share) for k, v in cost.flops.items()},
            {k: self._mean(v, held.get(k[1:], self.share)) for k, v in cost.bytes.items()},
            cost.launches * self.executions,
            {
                link: Messages(
                    m.steps * self.executions,
                    self._mean(m.wire, self.share),
                    None if m.carried is None else self._mean(m.carried, self.share),
                )
                for link, m in cost.links.items()
            },
        )

    def mean(self, amount: Expr) -> Expr:
        """The expectation of an amount per token, per execution, or of ``1 − r^n``."""
        return self._mean(amount, self.share)

    def _mean(self, amount: Expr, linear: Expr) -> Expr:
        """The expectation of an amount; ``linear`` weighs what grows with the batch."""
        return Add(*(self._term(t, linear) for t in Add.make_args(expand(amount))))

    def _term(self, term: Expr, linear: Expr) -> Expr:
        if not term.has(B):
            return term * self.executions
        rest = Mul(*(f for f in Mul.make_args(term) if not f.has(B)))
        grown = Mul(*(f for f in Mul.make_args(term) if f.has(B)))
        if grown == B:
            return rest * B * linear
        if isinstance(grown, (Max, Min)):
            return rest * grown.func(*(self._mean(a, linear) for a in grown.args))
        per_token = grown.exp / TOKENS if grown.is_Pow and not grown.base.has(B) else B
        if not per_token.has(B, q):
            return rest * self._power(grown.base**per_token)
        raise MissingRuleError(f"no expectation is known of a cost that depends on B as {grown}")

    def _power(self, r: Expr) -> Expr:
        """The expectation of ``r^n`` where the region runs, zero where it does not."""
        if self.together is not None:
            return self.executions * r**self.together
        if self.wait:
            return self._power_in_the_end(r**TOKENS)
        missed = self.tokens * (1 - r)
        return self.runs * ((1 - missed) ** TOKENS - self._left**TOKENS)

    def _power_in_the_end(self, x: Expr) -> Expr:
        """``E[x^k]`` over the steps ``k`` that an execution serves, per step."""
        waits = self._left**TOKENS
        if self.longest is None:
            return self.executions * (1 - waits) * x / (1 - waits * x)
        before = self.longest - 1
        met = (1 - waits) * x * (1 - (waits * x) ** before) / (1 - waits * x)
        return self.executions * (met + waits**before * x**self.longest)


#: Every token takes part.
EVERYONE = Presence()
