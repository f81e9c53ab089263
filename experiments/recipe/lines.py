"""The recipe's lines: what each changes of base.gin, as gin files and bindings."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping

import comm_lopt

__all__ = ["BASE", "LINES", "RATES", "Line"]

_FOLDER = pathlib.Path(__file__).resolve().parent

BASE = "base"
"""The line that all others are compared with."""

RATES = (0.03, 0.3)
"""Local learning rates at which thetas are judged where a line says no others."""


@dataclasses.dataclass(frozen=True)
class Line:
    """A change of the base recipe.

    Attributes:
      change: for the table.
      bindings: gin's, in place of the base's.
      files: gin files after base.gin, of this folder or shipped.
      local_optimizer: around which its thetas are judged.
      rates: local learning rates at which they are.
    """

    change: str
    bindings: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    local_optimizer: str = "local_sgd"
    rates: tuple[float, ...] = RATES

    def load(self) -> None:
        """Has gin describe the meta-training."""
        own = {name: _FOLDER / name for name in ("base.gin", *self.files)}
        files = [str(path) if path.exists() else name for name, path in own.items()]
        comm_lopt.load_config(files, self.bindings)


def _bound(change: str, *bindings: str) -> Line:
    return Line(change, bindings)


def _families(change: str, *names: str) -> Line:
    made = ", ".join(["@LocalSGDTaskFamily()", *(f"@{n}/LocalSGDTaskFamily()" for n in names)])
    files = tuple(f"families/{name}.gin" for name in names)
    return Line(change, (f"meta_train.task_families = [{made}]",), files)


def _rate(value: str) -> str:
    return f"LocalSGDTaskFamily.local_learning_rate = {value}"


def _warmup(num_meta_steps: int) -> tuple[str, str]:
    """A run of another length, a sixth of which is warm-up as in the base."""
    warmup = f"ThetaAdamW.warmup_steps = {num_meta_steps // 6}"
    return f"num_meta_steps = {num_meta_steps}", warmup


_UNSTEERED = "LOptR.steering = False"
_STEERED = "LocalSGDTaskFamily.steered = True"

LINES: Mapping[str, Line] = {
    BASE: Line("none"),
    # The estimator.
    "pes": _bound(
        "PES in place of NRES",
        "build_gradient_estimators.gradient_estimator_fn = @TruncatedPES",
    ),
    "tasks_4": _bound("4 tasks side by side (8)", "num_tasks = 4"),
    "tasks_16": _bound("16 tasks side by side (8)", "num_tasks = 16"),
    "estimators_2": _bound("2 gradient estimators (1)", "num_estimators = 2"),
    "truncation_5": _bound("truncation 5 (20)", "truncation_length = 5"),
    "truncation_10": _bound("truncation 10 (20)", "truncation_length = 10"),
    "truncation_40": _bound("truncation 40 (20)", "truncation_length = 40"),
    "rounds_100": _bound("at most 100 rounds (200)", "max_rounds = 100"),
    "rounds_400": _bound("at most 400 rounds (200)", "max_rounds = 400"),
    "heldout_objective": _bound(
        "meta-objective: loss on held-out data", "meta_loss_split = 'outer_valid'"
    ),
    # The optimizer of theta.
    "theta_rate_0.001": _bound("rate of theta 0.001 (0.005)", "ThetaAdamW.learning_rate = 0.001"),
    "theta_rate_0.002": _bound("rate of theta 0.002 (0.005)", "ThetaAdamW.learning_rate = 0.002"),
    "theta_rate_0.01": _bound("rate of theta 0.01 (0.005)", "ThetaAdamW.learning_rate = 0.01"),
    "no_warmup": _bound("no warm-up (33 meta-steps)", "ThetaAdamW.warmup_steps = 0"),
    "no_clipping": _bound("no clipping (norm 1)", "ThetaAdamW.clip_norm = None"),
    "clipping_0.1": _bound("clipping at norm 0.1 (1)", "ThetaAdamW.clip_norm = 0.1"),
    "meta_steps_100": _bound("100 meta-steps (200)", *_warmup(100)),
    "meta_steps_600": _bound("600 meta-steps (200), which ships", *_warmup(600)),
    # The rule.
    "mlp_16": _bound("MLP of width 16 (8)", "LOptR.hidden_size = 16"),
    "mlp_32": _bound("MLP of width 32 (8)", "LOptR.hidden_size = 32"),
    "alpha_1": _bound("α = 1 (2)", "ConstantAlpha.value = 1.0"),
    "alpha_3": _bound("α = 3 (2)", "ConstantAlpha.value = 3.0"),
    "alpha_learned": _bound("α learned (2)", "LOptR.step_size = @LearnedAlpha()"),
    "alpha_statistics": _bound(
        "α from statistics, 1 to 4 (2)",
        "LOptR.step_size = @AlphaFromStatistics()",
        "AlphaFromStatistics.low = 1.0",
        "AlphaFromStatistics.high = 4.0",
    ),
    "alpha_momentum": _bound("α by momentum (2)", "LOptR.step_size = @MomentumAlpha()"),
    "time": _bound("time features", "LOptR.time = True"),
    "learned_decays": _bound("learned decays", "LOptR.learned_decays = True"),
    "lagg": Line("LAggR: statistics of the workers", files=("optimizers/lagg_r.gin",)),
    "lagg_600": Line(
        "LAggR and 600 meta-steps, which ships", _warmup(600), ("optimizers/lagg_r.gin",)
    ),
    # The local learning rate.
    "rate_fixed": _bound("γ = 0.2 (drawn from 0.05 to 0.5)", _rate("0.2")),
    "rate_wide": _bound("γ drawn from 0.01 to 1 (0.05 to 0.5)", _rate("(0.01, 1.0)")),
    "steered": _bound("steered in meta-training as well", _STEERED, _rate("(0.01, 0.3)")),
    "steering_learned": _bound(
        "steering learned", _STEERED, _rate("(0.01, 0.3)"), "Steering.learned = True"
    ),
    "pace_0.1": _bound("steering at half the pace, 0.1 (0.2)", "Steering.pace = 0.1"),
    "no_steering": _bound("no steering", _UNSTEERED),
    "muon_600": Line(
        "around Muon, γ 0.03 and 0.12 falling; α = 1; 600 meta-steps",
        _warmup(600),
        ("around_muon.gin",),
        "local_muon",
        (0.03, 0.12),
    ),
    "momenta_600": Line(
        "LOptM around Muon; 600 meta-steps, which ships",
        _warmup(600),
        ("around_muon.gin", "optimizers/lopt_m.gin", "families/around_muon.gin"),
        "local_muon",
        (0.03, 0.12),
    ),
    "momenta_bounded_600": Line(
        "LOptM, no step longer than Δ; 600 meta-steps",
        (*_warmup(600), "LOptM.agreement = 0.0"),
        ("around_muon.gin", "optimizers/lopt_m.gin", "families/around_muon.gin"),
        "local_muon",
        (0.03, 0.12),
    ),
    # The tasks.
    "family_conv": _families("two families: a convnet beside the MLP", "conv"),
    "family_gru": _families("two families: a GRU beside the MLP", "gru"),
    "families_4": _families("four families: MLP, deep MLP, convnet, GRU", "deep", "conv", "gru"),
    "steps": Line("two families: H 4 and H 1", files=("families/steps.gin",)),
    "workers": Line("three families: K 8, H 4; 16, 2; 2, 16", files=("families/workers.gin",)),
    "reparametrised": Line(
        "tensors scaled by 0.3 to 3 (upstream)", files=("families/reparametrised.gin",)
    ),
}
"""By name; the base's value stands in brackets."""
