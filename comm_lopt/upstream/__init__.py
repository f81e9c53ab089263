"""Which `learned_optimization` is here, and how to talk to it.

This is the only package of comm_lopt that knows the differences between the released 0.0.1 and
the main branch. Importing it makes either work on today's JAX and without TensorFlow, and leaves
JAX, gin and the log as they are for everyone else in the process:

- `locate`: finds upstream (a checkout, if `COMM_LOPT_UPSTREAM` names one) and tells its shape;
- `jax_view`: JAX with the names that it has removed, for upstream's code alone;
- `optional_modules`: shows upstream that view, and stand-ins for TensorFlow and kin;
- `quiet`: leaves out messages of upstream's that tell nothing;
- `tensorflow_devices`: keeps TensorFlow, if it is here, off the accelerator;
- `summary_writer`: writes upstream's summaries without TensorFlow;
- `gin_config`: the gin files for this shape, and macros for upstream's own trainer;
- `run_train`: that trainer, and theta out of what it leaves behind;
- `noise_reuse`: a gradient estimator beside upstream's PES, of the same shape;
- `estimators`, `hand_designed`: one way to build what the shapes build differently, and main's
  estimators made fit to stack both signs of a perturbation.

A learned optimizer's `init` takes its key under the name `rng` in 0.0.1 and `key` on main, so
pass it by position.
"""

# `_ready` prepares the process for the imports that follow it.
from comm_lopt.upstream._ready import FLAVOUR, VERSION  # isort: skip

from learned_optimization.learned_optimizers.base import LearnedOptimizer
from learned_optimization.optimizers.base import Optimizer
from learned_optimization.outer_trainers.gradient_learner import (
    GradientEstimator,
    GradientLearner,
    GradientLearnerState,
    WorkerWeights,
    gradient_worker_compute,
)
from learned_optimization.outer_trainers.truncation_schedule import (
    ConstantTruncationSchedule,
    LogUniformLengthSchedule,
    TruncationSchedule,
)
from learned_optimization.tasks.base import Task, TaskFamily, single_task_to_family
from learned_optimization.tasks.datasets.base import Datasets
from learned_optimization.tasks.resnet import ResNet

from comm_lopt.upstream import gin_config, summary_writer
from comm_lopt.upstream.estimators import (
    build_gradient_estimators,
    configured_gradient_learner,
    learned_opt_of,
    learner_state,
    longest_problem,
    make_gradient_learner,
    meta_params,
    nres,
    num_devices_of,
    pes,
    rounds_per_estimate,
    task_family_of,
)
from comm_lopt.upstream.gin_config import GIN_DIR, heldout_split_to_flag, local_device_count
from comm_lopt.upstream.hand_designed import (
    SGD,
    SGDM,
    Adam,
    OptaxOptimizer,
    OptaxState,
    PiecewiseLinearAdam,
    RMSProp,
)
from comm_lopt.upstream.run_train import read_params, run_train
from comm_lopt.upstream.tensorflow_devices import keep_tensorflow_off_accelerators

__all__ = [
    "FLAVOUR",
    "GIN_DIR",
    "SGD",
    "SGDM",
    "VERSION",
    "Adam",
    "ConstantTruncationSchedule",
    "Datasets",
    "GradientEstimator",
    "GradientLearner",
    "GradientLearnerState",
    "LearnedOptimizer",
    "LogUniformLengthSchedule",
    "OptaxOptimizer",
    "OptaxState",
    "Optimizer",
    "PiecewiseLinearAdam",
    "RMSProp",
    "ResNet",
    "Task",
    "TaskFamily",
    "TruncationSchedule",
    "WorkerWeights",
    "build_gradient_estimators",
    "configured_gradient_learner",
    "gradient_worker_compute",
    "heldout_split_to_flag",
    "keep_tensorflow_off_accelerators",
    "learned_opt_of",
    "learner_state",
    "local_device_count",
    "longest_problem",
    "make_gradient_learner",
    "meta_params",
    "nres",
    "num_devices_of",
    "pes",
    "read_params",
    "rounds_per_estimate",
    "run_train",
    "single_task_to_family",
    "task_family_of",
]

keep_tensorflow_off_accelerators()
summary_writer.replace_unusable_writer()
gin_config.register()
