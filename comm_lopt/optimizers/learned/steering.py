"""How a relative rule steers the local learning rate, and which rounds it undoes."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import gin
import jax
import jax.numpy as jnp

from comm_lopt.checks import require_range
from comm_lopt.optimizers.local_rate import fall_of_round

__all__ = ["SteeredRuleState", "Steering", "alignment"]

PyTree = Any

_TINY = 1e-30
_PACE = 10.0
_LARGEST_CHANGE_OF_LOSS = 1.0
# In runs of up to so many rounds γ may fall at the pace η. On selection tasks a third of η was
# best for 200 rounds, and a twentieth for 1,000.
_ROUNDS_OF_PACE = 100.0
_FEWER = 50.0


class SteeredRuleState(NamedTuple):
    """State of a rule that steers γ, between rounds.

    Attributes:
      accumulators: as in `LearnedRuleState`.
      count: rounds done, int32.
      local_rate: what γ is to be multiplied by in the next round; 1 before the first.
      last_loss: the last round's training loss; not a number where it is not known.
      first_loss: the first that was known; not a number before.
      highest_loss: a bound of recent losses; infinity where none is known.
      rounds_undone: how many were undone, int32.
      previous: the parameters before the last step, which a round that is undone goes back to.
      num_rounds: T, float32; 0 where it is not known.
    """

    accumulators: PyTree
    count: jax.Array  # type: ignore[assignment]
    local_rate: jax.Array
    last_loss: jax.Array
    first_loss: jax.Array
    highest_loss: jax.Array
    rounds_undone: jax.Array
    previous: PyTree
    num_rounds: jax.Array


@gin.configurable(module="comm_lopt")
@dataclasses.dataclass(frozen=True)
class Steering:
    """The next round's γ grows while rounds agree with those before, and shrinks where they do not.

    With m_i the averages of Δ from before this round, and cosines that are means over the tensors
    of two or more axes that moved,

      log r ← log r + η · clip(Σ_i (w_i + 10 x_i) cos(Δ, m_i) + 10 y · log(L / L_last) + 10 b, ±2),

    where r multiplies γ, L is the round's training loss, w = (1, 0, ...), and theta's x, y and b
    are 0 at first: hypergradient descent on log γ (Baydin et al. 2018), with the first momentum
    in place of the last step. As Δ and m_i scale together, r does not change where both do.

    What lowers the loss of the next round is too small a γ for that of the last: noise makes
    rounds disagree a little for as long as a run goes, and r would fall by a constant factor in
    each (the short-horizon bias of such descent, Wu et al. 2018). So in a run of T rounds r falls
    at the pace η · min(1, 50 / (T − 50)), and grows at η.

    Cosines say nothing of γ where the local optimizer normalises its steps, as Muon does: they go
    on agreeing however long they are. There η = 0, and r falls by `decay` alone: after t of T
    rounds it is max(1 − t / T, 1 / T)^decay, and 1 where T is not known.

    A round is undone, and r divided by `cut`, if its Δ (or Σ Δ²) or its loss is not finite, or if
    its loss is `highest_ratio` times as high as the highest of late. That bound falls by a tenth
    each round, down to a quarter of the first loss: where losses are small they differ much from
    batch to batch; and it follows the losses upwards, but beyond the first only as said below, so
    that no run climbs little by little. A bound that is not above 0 bounds nothing.

    The weights are then those before the last step, since a loss is of weights that it led to. If
    the loss at the round's start is known, and within the bound, only the local steps went wrong,
    and the weights stay as they are. In a first round, which no earlier ones can bound, the loss at
    its start is the bound. The bound rises by half when a round is undone, so that no loss is
    refused for long. Without a loss Δ alone decides.

    Attributes:
      pace: η; 0 leaves r to `decay` and to rounds that are undone.
      low: the smallest r.
      high: the largest r.
      cut: r is divided by it when a round is undone.
      highest_ratio: see above.
      learned: whether x, y and b are in theta; otherwise they stay 0.
      decay: the power of the linear decay over T rounds that r is multiplied by; 0 for none.

    Raises:
      ValueError: a value outside its interval.
    """

    pace: float = 0.2
    low: float = 1e-4
    high: float = 1e4
    cut: float = 4.0
    highest_ratio: float = 1.4
    learned: bool = False
    decay: float = 0.0

    def __post_init__(self) -> None:
        for name, above in (("low", 0.0), ("cut", 1.0), ("highest_ratio", 1.0)):
            require_range(name, getattr(self, name), above, exclude_low=True)
        for name in ("pace", "decay"):
            require_range(name, getattr(self, name), 0.0)
        require_range("high", self.high, self.low)

    def init(self, num_momenta: int) -> PyTree:
        """Its part of theta, a tree: w, [D], and two scalars if they are learned; else nothing."""
        return self._at_rest(num_momenta) if self.learned else {}

    def _at_rest(self, num_momenta: int) -> PyTree:
        return {
            "weights": jnp.zeros(num_momenta, jnp.float32),
            "loss": jnp.zeros((), jnp.float32),
            "bias": jnp.zeros((), jnp.float32),
        }

    def start(self, accumulators: PyTree, count: jax.Array, params: PyTree) -> SteeredRuleState:
        """The state before the first round of `params`, a tree; `count` is a scalar, 0."""
        # An array each, since states are donated.
        one, last, first, highest, rounds = (
            jnp.full((), value, jnp.float32) for value in (1.0, jnp.nan, jnp.nan, jnp.inf, 0.0)
        )
        previous = jax.tree.map(jnp.array, params)
        return SteeredRuleState(
            accumulators, count, one, last, first, highest, jnp.zeros_like(count), previous, rounds
        )

    def undoes(
        self,
        state: SteeredRuleState,
        deltas: list[jax.Array],
        loss: jax.Array | None,
        start_loss: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Whether a round is undone, and whether the step before it is: two truth values, scalars.

        Args:
          state: before the round.
          deltas: Δ of each tensor, [*s].
          loss: the round's training loss, a scalar, if it is known.
          start_loss: that at the round's start, a scalar, if it is known too.
        """
        finite = jnp.isfinite(sum((jnp.sum(jnp.square(d)) for d in deltas), jnp.float32(0.0)))
        if loss is None:
            return ~finite, ~finite
        _, highest = _references(state, start_loss)
        wrong = ~finite | self._is_high(loss, highest)
        if start_loss is None:
            return wrong, wrong
        return wrong, wrong & self._is_high(start_loss, highest)

    def _is_high(self, loss: jax.Array, highest: jax.Array) -> jax.Array:
        # A loss that is not positive says nothing by its ratio to another.
        return ~jnp.isfinite(loss) | ((loss > self.highest_ratio * highest) & (highest > 0))

    def after(
        self,
        theta: PyTree,
        state: SteeredRuleState,
        alignment: jax.Array,
        loss: jax.Array | None,
        undone: jax.Array,
        start_loss: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """r, the last loss, the first one and the bound of losses after a round: scalars.

        Args:
          theta: a tree, from `init`.
          state: before the round.
          alignment: cos(Δ, m_i), [D]; or 0.
          loss: the round's training loss, a scalar, if it is known.
          undone: whether the round is undone, a scalar.
          start_loss: as for `undoes`, a scalar.
        """
        theta = theta if self.learned else self._at_rest(alignment.size)
        weights = (_PACE * theta["weights"]).at[0].add(1.0)
        change = jnp.sum(weights * alignment) + _PACE * theta["bias"]
        last, first, highest = state.last_loss, state.first_loss, state.highest_loss
        if loss is not None:
            grown = jnp.log(jnp.maximum(loss, _TINY)) - jnp.log(jnp.maximum(last, _TINY))
            grown = jnp.where(jnp.isfinite(last), grown, 0.0)
            most = _LARGEST_CHANGE_OF_LOSS
            change = change + _PACE * theta["loss"] * jnp.clip(grown, -most, most)
            known, bound = _references(state, start_loss)
            raised = jnp.where(jnp.isfinite(highest), 1.5 * highest, bound)
            first = jnp.where(undone | jnp.isfinite(first), known, loss)
            decayed = jnp.where(jnp.isfinite(highest), 0.9 * highest, loss)
            # Losses that rise a little in each round raise it no further than to the first of them.
            seen = jnp.minimum(loss, jnp.maximum(bound, first))
            fallen = jnp.maximum(jnp.maximum(seen, decayed), 0.25 * first)
            highest = jnp.where(undone, raised, fallen)
            last = jnp.where(undone, last, loss)
        rounds = jnp.maximum(state.num_rounds, _ROUNDS_OF_PACE)
        slower = (_ROUNDS_OF_PACE - _FEWER) / (rounds - _FEWER)
        pace = self.pace * jnp.where(change < 0, slower, 1.0)
        factor = jnp.where(undone, 1.0 / self.cut, jnp.exp(pace * jnp.clip(change, -2.0, 2.0)))
        if self.decay:
            factor = factor * fall_of_round(state.count, state.num_rounds, self.decay)
        rate = jnp.clip(state.local_rate * factor, self.low, self.high)
        return rate, last, first, highest


def _references(
    state: SteeredRuleState, start_loss: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """The first loss and the bound, for which the loss at the start stands where there is none."""
    first, highest = state.first_loss, state.highest_loss
    if start_loss is None:
        return first, highest
    known = jnp.isfinite(start_loss)
    return (
        jnp.where(~jnp.isfinite(first) & known, start_loss, first),
        jnp.where(~jnp.isfinite(highest) & known, start_loss, highest),
    )


def alignment(deltas: list[jax.Array], momenta: list[jax.Array]) -> jax.Array:
    """cos(Δ, m_i), [D]: mean over the tensors of two or more axes that moved, or over all of them.

    0 where there are no parameters.

    Args:
      deltas: Δ of each tensor, [*s].
      momenta: m of each tensor, [D, *s].
    """
    large = [i for i, delta in enumerate(deltas) if delta.ndim > 1 and delta.size]
    chosen = large or [i for i, delta in enumerate(deltas) if delta.size]
    total = count = jnp.zeros((), jnp.float32)
    for i in chosen:
        delta, momentum = deltas[i], momenta[i]
        # Not flattened, which an Explicit mesh would refuse.
        axes = tuple(range(1, momentum.ndim))
        # Divided first, so that squares of small numbers are not lost.
        size = jnp.max(jnp.abs(delta))
        sizes = jnp.max(jnp.abs(momentum), axis=axes, keepdims=True)
        delta = delta / jnp.where(size > 0, size, 1.0)
        momentum = momentum / jnp.where(sizes > 0, sizes, 1.0)
        norm = jnp.sqrt(jnp.sum(jnp.square(delta)))
        norms = jnp.sqrt(jnp.sum(jnp.square(momentum), axis=axes))
        products = jnp.sum(momentum * delta[None], axis=axes)
        total = total + products / jnp.maximum(norm * norms, _TINY)
        count = count + (size > 0).astype(jnp.float32)
    return total / jnp.maximum(count, 1.0)
