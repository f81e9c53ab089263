"""A learned rule that mixes Δ and its momenta, tensor by tensor: LOptM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import gin
import jax
import jax.numpy as jnp

from comm_lopt.checks import require_range
from comm_lopt.optimizers.learned.momentum_features import MomentumFeatures
from comm_lopt.optimizers.learned.per_parameter_mlp import apply_to_vector, init_mlp
from comm_lopt.optimizers.learned.relative_features import root_mean_square
from comm_lopt.optimizers.learned.steered import SteeredLearnedOptimizer
from comm_lopt.optimizers.learned.steering import Steering
from comm_lopt.optimizers.learned.step_size import TensorStatistics
from comm_lopt.optimizers.local_rate import share_left

__all__ = ["LOptM"]

PyTree = Any

_DECAYS = (0.9, 0.99, 0.999)
_FIRST_CHANGES = 0.01
_SMALLEST = 1e-30


@gin.configurable(module="comm_lopt")
class LOptM(SteeredLearnedOptimizer):
    """Meta-learned rule p ← p − d, with d = a_0 Δ + Σ_j a_j m_j and one a for all of a tensor.

    m_j are averages of Δ with decays β_j, and

      a = initial + MLP(statistics of the tensor, s),   s = max(1 − t / T, 1 / T),

    of which the statistics (`TensorStatistics`) say how well rounds agree: log(RMS of Σ_i β_j^i
    Δ_{t−i} / RMS(Δ)) and cos(Δ, m_j) for each j, and log(RMS(Δ) / RMS(p)) / 4. None changes where Δ
    and p are scaled, so that the rule is equivariant, as LOptR is. Where rounds disagree, what
    is random in Δ averages out in m_j, as in momentum, while a step of LOptR has the size of Δ
    however little of it is signal. The last input, the share of T rounds that is left, is 1 where T
    is not known. d is made shorter where it is longer than

      RMS(d) ≤ (longest + agreement · (1 − s) · max(cos(Δ, m_j), 0)) · RMS(Δ),

    with the slowest average m_j: where γ is large for a network, no momentum then makes it larger,
    and where rounds agree with all that were before, late in a run as well, γ was small for it.
    Early in a run all rounds agree, whatever γ is.

    It is made for Muon's local steps, which do the work of a direction for each parameter, and
    for γ that falls to nothing over T rounds: `Steering(pace=0.0, decay=1.0)`, the default. It
    starts near MuLoCo, that is Nesterov's momentum on Δ.

    Theta is {"mlp": weights, "steering": what steering needs, if there is any}. There is no network
    for each parameter; what a step costs is passes over Δ and the momenta.

    Args:
      features: the averages; β of 0.9, 0.99 and 0.999 if None.
      hidden_size: width of the MLP's hidden layer.
      initial: a at first, as many as averages and one more.
      longest: the largest RMS(d) / RMS(Δ) where rounds do not agree.
      agreement: how much larger it becomes by the end of a run whose rounds all agree.
      steering: see `LOptR`; `Steering(pace=0.0, decay=1.0)` if None.
      implementation: as other rules have it; all are one here.

    Raises:
      ValueError: a size below 1, a longest of 0, or another number of initial a than averages and
        one.
    """

    feature_set = MomentumFeatures

    def __init__(
        self,
        features: MomentumFeatures | None = None,
        hidden_size: int = 16,
        initial: Sequence[float] = (0.5, 0.8, 0.0, 0.0),
        longest: float = 1.0,
        agreement: float = 4.0,
        steering: Steering | bool | None = None,
        implementation: str = "auto",
    ):
        features = MomentumFeatures(_DECAYS) if features is None else features
        steering = Steering(pace=0.0, decay=1.0) if steering is None else steering
        super().__init__(features, hidden_size, 1, implementation, steering)
        self.longest = require_range("longest", longest, 0.0, exclude_low=True)
        self.agreement = require_range("agreement", agreement, 0.0)
        self.initial = tuple(float(a) for a in initial)
        if len(self.initial) != len(features.decays) + 1:
            raise ValueError(
                f"initial={self.initial}: {len(features.decays)} averages take one number each and "
                "one for Δ itself."
            )

    def hparams(self) -> dict[str, Any]:
        """The arguments that decide theta's shape and meaning, as they go into its header."""
        hparams = super().hparams() | {
            "initial": self.initial, "longest": self.longest, "agreement": self.agreement
        }  # fmt: skip
        del hparams["hidden_layers"]
        return hparams

    @classmethod
    def from_hparams(cls, hparams: Mapping[str, Any]) -> Self:
        """The inverse of `hparams`; a header of before there was `agreement` has none of it."""
        return super().from_hparams({"agreement": 0.0, **hparams})

    def init(self, key: jax.Array) -> PyTree:
        """Initial theta, whose a is nearly `initial`.

        Args:
          key: random key.

        Returns:
          A tree of arrays: the MLP, and what steering learns.
        """
        momenta = len(self.initial) - 1
        mlp = init_mlp(key, 2 * momenta + 2, self.hidden_size, 1, num_outputs=momenta + 1)
        mlp["w1"] = _FIRST_CHANGES * mlp["w1"]
        return {"mlp": mlp, **self._init_steering(momenta)}

    def _time(self, state: Any) -> jax.Array:
        num_rounds = getattr(state, "num_rounds", jnp.float32(0.0))
        return share_left(state.count, num_rounds)[None]

    def _shifts(self, theta: PyTree) -> PyTree:
        del theta
        return self.features.init_theta()

    def _stepped(self, theta: PyTree, tensor: tuple, time: jax.Array, added: bool) -> jax.Array:
        accumulators, param, delta, gradients = tensor
        decays = jnp.asarray(self.features.decays, jnp.float32)  # type: ignore[attr-defined]
        statistics = TensorStatistics(accumulators.momentum, decays, param, delta, gradients)
        inputs = jnp.concatenate([statistics.stacked(), time])
        a = jnp.asarray(self.initial, jnp.float32) + apply_to_vector(theta["mlp"], inputs)
        mixed = a[0] * delta + jnp.tensordot(a[1:], accumulators.momentum, 1)
        # 0 for a tensor that was frozen, whatever its momenta are.
        agreeing = (1.0 - time[0]) * jnp.maximum(statistics.alignment[-1], 0.0)
        most = (self.longest + self.agreement * agreeing) * root_mean_square(delta)
        step = -jnp.minimum(1.0, most / jnp.maximum(root_mean_square(mixed), _SMALLEST)) * mixed
        return param + step if added else step
