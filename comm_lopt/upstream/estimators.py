"""Builds upstream's gradient estimators and learners, the right way for either shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from learned_optimization import outer_train
from learned_optimization.learned_optimizers.base import LearnedOptimizer
from learned_optimization.optimizers.base import Optimizer
from learned_optimization.outer_trainers import common
from learned_optimization.outer_trainers.gradient_learner import (
    GradientEstimator,
    GradientLearner,
    GradientLearnerState,
)
from learned_optimization.outer_trainers.truncated_pes import TruncatedPES
from learned_optimization.outer_trainers.truncation_schedule import TruncationSchedule
from learned_optimization.tasks.base import TaskFamily

from comm_lopt.checks import require_at_least_one, require_range
from comm_lopt.gin_state import bindings, expanded
from comm_lopt.hyperparameters import plain
from comm_lopt.upstream._ready import FLAVOUR
from comm_lopt.upstream.gin_config import heldout_split_to_flag
from comm_lopt.upstream.noise_reuse import TruncatedNRES

__all__ = [
    "build_gradient_estimators",
    "configured_gradient_learner",
    "learned_opt_of",
    "learner_state",
    "longest_problem",
    "make_gradient_learner",
    "meta_params",
    "nres",
    "num_devices_of",
    "pes",
    "rounds_per_estimate",
    "task_family_of",
]

_COUNTS = {
    "num_tasks": "tasks side by side",
    "steps_per_jit": "rounds per compiled call",
    "trunc_length": "rounds per gradient estimate",
}

if FLAVOUR == "main":
    # Stacking gives away the buffers of both its arguments, and main's estimators stack one array
    # on itself: a batch, or the state from which both signs start. JAX refuses that wherever such
    # a buffer has the size of something that stacking returns. 0.0.1 gives nothing away.
    common._stack = jax.jit(common._stack.__wrapped__, static_argnames=("axis",))


def pes(
    task_family: TaskFamily,
    learned_opt: LearnedOptimizer,
    trunc_sched: TruncationSchedule,
    *,
    num_tasks: int,
    trunc_length: int,
    steps_per_jit: int,
    std: float = 0.01,
    random_initial_iteration_offset: int = 0,
    stack_antithetic_samples: bool = False,
    meta_loss_split: str | None = None,
    cls: type[TruncatedPES] = TruncatedPES,
) -> GradientEstimator:
    """Returns upstream's `TruncatedPES`, which estimates the gradient with respect to theta.

    Args:
      task_family: what to train on; each of the tasks is sampled from it.
      learned_opt: the learned optimizer whose theta is trained.
      trunc_sched: how many steps an inner problem runs before it starts afresh.
      num_tasks: tasks trained side by side, each with a perturbation of its own.
      trunc_length: steps per gradient estimate.
      steps_per_jit: steps per compiled call; divides `trunc_length`.
      std: standard deviation of the perturbations of theta.
      random_initial_iteration_offset: each task starts its count of steps at a random number
        below this, so that the tasks do not start afresh all at once.
      stack_antithetic_samples: run the two signs of each perturbation side by side, and not one
        after the other.
      meta_loss_split: None to use the training loss as the meta-loss, or the dataset split to
        compute it on. 0.0.1 knows "outer_valid" only; main also takes "same_data".
      cls: a subclass to build in its place.

    Raises:
      ValueError: a number outside its interval (see `build_gradient_estimators`), or this upstream
        cannot compute the meta-loss on `meta_loss_split`.
    """
    for name, value in (
        ("num_tasks", num_tasks), ("trunc_length", trunc_length), ("steps_per_jit", steps_per_jit),
    ):  # fmt: skip
        require_at_least_one(name, value, _COUNTS[name])
    if trunc_length % steps_per_jit:
        raise ValueError(
            f"steps_per_jit={steps_per_jit} must divide trunc_length={trunc_length}; "
            f"pass steps_per_jit={trunc_length} or a divisor of it."
        )
    common: dict[str, Any] = {
        "trunc_length": trunc_length,
        "std": std,
        "steps_per_jit": steps_per_jit,
        "stack_antithetic_samples": stack_antithetic_samples,
    }
    if FLAVOUR == "released":
        estimator = cls(
            task_family,
            learned_opt,
            trunc_sched,
            num_tasks=num_tasks,
            random_initial_iteration_offset=random_initial_iteration_offset,
            train_and_meta=heldout_split_to_flag(meta_loss_split),
            **common,
        )
        return _checked(estimator)
    from learned_optimization.outer_trainers.lopt_truncated_step import (
        VectorizedLOptTruncatedStep,
    )

    truncated_step = VectorizedLOptTruncatedStep(
        task_family,
        learned_opt,
        trunc_sched,
        num_tasks=num_tasks,
        meta_loss_split=meta_loss_split,
        random_initial_iteration_offset=random_initial_iteration_offset,
    )
    return _checked(cls(truncated_step, **common))


def nres(
    task_family: TaskFamily,
    learned_opt: LearnedOptimizer,
    trunc_sched: TruncationSchedule,
    **arguments: Any,
) -> GradientEstimator:
    """Returns a `TruncatedNRES`: each task keeps its perturbation until its inner problem ends.

    The arguments, and the errors raised, are those of `pes`.
    """
    return pes(task_family, learned_opt, trunc_sched, cls=TruncatedNRES, **arguments)


def make_gradient_learner(
    learned_opt: LearnedOptimizer, theta_opt: Optimizer, num_steps: int
) -> GradientLearner:
    """Returns what updates theta from gradients.

    Args:
      learned_opt: gives theta its initial value.
      theta_opt: the optimizer of theta.
      num_steps: meta-steps of the whole run, for a `theta_opt` with a schedule.
    """
    # The first argument is called `lopt` in 0.0.1 and `meta_init` on main.
    return GradientLearner(learned_opt, theta_opt, num_steps=num_steps)


def configured_gradient_learner(num_steps: int) -> GradientLearner:
    """Returns the gradient learner that gin's bindings of `GradientLearner` describe.

    Args:
      num_steps: meta-steps of the whole run; takes precedence over a binding.
    """
    return GradientLearner(num_steps=num_steps)


def learner_state(
    gradient_learner: GradientLearner, key: jax.Array, theta: Any = None
) -> GradientLearnerState:
    """Returns the state in which a gradient learner starts.

    Args:
      gradient_learner: the learner.
      key: random key of the initial theta.
      theta: where to start, in place of that.
    """
    state = gradient_learner.init(key)
    if theta is None:
        return state
    # Upstream's own way to start elsewhere takes the path of a pickle.
    opt = gradient_learner._theta_opt
    return state.replace(
        theta_opt_state=opt.init(theta, None, num_steps=gradient_learner._num_steps)
    )


def meta_params(gradient_learner: GradientLearner, state: GradientLearnerState) -> Any:
    """Returns theta out of the state of a gradient learner."""
    if FLAVOUR == "released":
        return gradient_learner.get_lopt_params(state)
    return gradient_learner.get_meta_params(state)


def build_gradient_estimators(
    key: jax.Array,
    num_gradient_estimators: int,
    task_families: Sequence[TaskFamily] | None = None,
) -> Sequence[GradientEstimator]:
    """Returns the gradient estimators that gin's bindings describe.

    The bindings are those of upstream's function of the same name, as `outer_training.gin` sets
    them.

    Args:
      key: a random key, with which each estimator's task family is sampled.
      num_gradient_estimators: how many to build; of several task families, for each of them.
      task_families: families to build them on, in place of the binding of
        `sample_task_family_fn`.

    Raises:
      ValueError: an empty list of task families, or a number outside its interval: rounds, tasks
        and the shortest length of a problem from 1 on, the longest not below that, and a
        perturbation above 0.
    """
    arguments: dict[str, Any] = {"num_gradient_estimators": num_gradient_estimators}
    if FLAVOUR == "main":
        arguments["worker_id"] = 0  # Required and unused; upstream's own local training says 0.
    if task_families is None:
        return _built(key=key, **arguments)
    if not task_families:
        raise ValueError("task_families=[]: name at least one, or leave it None for one family.")
    estimators: list[GradientEstimator] = []
    for family in task_families:
        key, family_key = jax.random.split(key)
        # The default argument keeps this round's family; upstream calls it with a key.
        estimators += _built(
            key=family_key, sample_task_family_fn=lambda _, family=family: family, **arguments
        )
    return estimators


def _built(**arguments: Any) -> list[GradientEstimator]:
    # Upstream's constructors draw a batch and divide, and fail where these are 0.
    for bound in bindings().values():
        for name in bound.keys() & _COUNTS.keys():
            value = plain(expanded(bound[name], bindings()))
            if isinstance(value, (int, float)):
                require_at_least_one(name, value, _COUNTS[name])
    estimators = outer_train.build_gradient_estimators(**arguments)
    return [_checked(estimator) for estimator in estimators]


def _checked(estimator: GradientEstimator) -> GradientEstimator:
    """The estimator, if its numbers can be run: upstream takes any, and then gives NaN.

    The names are those of our gin files, with upstream's behind them.
    """
    step, schedule = _truncated_step(estimator), _schedule(estimator)
    require_range("perturbation_std (std)", getattr(estimator, "std", 1.0), 0.0, exclude_low=True)
    offset = getattr(step, "random_initial_iteration_offset", 0)
    require_range("random_initial_iteration_offset", offset, 0)
    low, high = plain(getattr(schedule, "_min_length", None)), longest_problem(estimator)
    for name, length in (("min_rounds (min_length)", low), ("max_rounds (max_length)", high)):
        if isinstance(length, (int, float)):
            require_at_least_one(name, length, "rounds of a problem")
    if hasattr(estimator, "num_devices") and estimator.stack_antithetic_samples:
        raise ValueError(
            "stack_antithetic_samples=True: over several devices the two signs of a perturbation "
            "are taken one after the other; bind stack_antithetic_samples = False."
        )
    if hasattr(estimator, "num_devices") and jax.process_count() > 1:
        raise ValueError(
            f"{type(estimator).__name__} (several_devices.gin) spreads tasks over the devices of "
            f"one process, and there are {jax.process_count()} processes; leave it out, and start "
            "a process for each device."
        )
    if isinstance(low, int) and high is not None and low > high:
        raise ValueError(
            f"min_rounds={low} (the schedule's min_length) lies above max_rounds={high} "
            "(max_length); lower the one or raise the other."
        )
    return estimator


def longest_problem(estimator: GradientEstimator) -> int | None:
    """Returns the most rounds that an inner problem runs, or None where the schedule has no end."""
    schedule = _schedule(estimator)
    lengths = (getattr(schedule, name, None) for name in ("_max_length", "_total_length"))
    return next((length for length in map(plain, lengths) if isinstance(length, int)), None)


def rounds_per_estimate(estimator: GradientEstimator) -> int | None:
    """Returns the rounds of one gradient estimate, both signs of all tasks, if they are known."""
    length = getattr(estimator, "trunc_length", None)
    tasks = getattr(_truncated_step(estimator), "num_tasks", None)
    return (
        None if length is None or tasks is None else 2 * tasks * length * num_devices_of(estimator)
    )


def num_devices_of(estimator: GradientEstimator) -> int:
    """Returns how many devices an estimator spreads its tasks over."""
    return getattr(estimator, "num_devices", 1)


def _truncated_step(estimator: GradientEstimator) -> Any:
    """What steps through inner problems: in 0.0.1 the estimator itself."""
    return getattr(estimator, "truncated_step", estimator)


def _schedule(estimator: GradientEstimator) -> Any:
    return getattr(_truncated_step(estimator), "trunc_sched", None)


def task_family_of(estimator: GradientEstimator) -> TaskFamily:
    """Returns the task family that a gradient estimator unrolls on."""
    return _truncated_step(estimator).task_family


def learned_opt_of(estimator: GradientEstimator) -> LearnedOptimizer:
    """Returns the learned optimizer whose gradient an estimator estimates."""
    return _truncated_step(estimator).learned_opt
