"""What decides a run's numbers, kept with its checkpoints so that a resumed run has the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax

from comm_lopt import upstream
from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.sources.registry import SOURCES
from comm_lopt.gin_state import operative_settings
from comm_lopt.long_runs.errors import ResumeError
from comm_lopt.optimizers.learned.rule import GlobalLearnedOptimizer

__all__ = ["HARMLESS", "decisive", "require_same_settings", "run_settings"]

HARMLESS = frozenset(
    {
        "meta_train.checkpoint_every",
        "meta_train.keep_checkpoints",
        "meta_train.max_skipped_in_a_row",
        "meta_train.num_meta_steps",
        "meta_train.progress",
        "meta_train.resume",
        "meta_train.train_log_dir",
        "meta_train.validation_every",
        # The schedule's end hangs on it: a run may be made longer.
        "ThetaAdamW.num_meta_steps",
    }
)
"""Settings that may differ in a resumed run, beside where data lie. All others decide numbers."""

_PLACES = frozenset(
    f"{source.configurable}.{argument}"
    for source in SOURCES.values()
    for argument in ("folder", "path")
) | {"meta_train.init_theta"}
# Options of JAX that decide numbers; one that this JAX does not have is not looked at.
_JAX_OPTIONS = (
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_enable_custom_prng",
    "jax_enable_x64",
    "jax_explicit_x64_dtypes",
    "jax_numpy_dtype_promotion",
    "jax_random_seed_offset",
    "jax_softmax_custom_jvp",
    "jax_threefry_partitionable",
)

_SHOWN = 20
# What a family of rounds was given, by gin or without it.
_OF_ROUNDS = (
    "num_workers",
    "num_local_steps",
    "local_learning_rate",
    "local_state_persists",
    "participation",
    "compression",
    "steered",
)


def run_settings(
    seed: int,
    families: Sequence[upstream.TaskFamily],
    learned_opt: upstream.LearnedOptimizer,
) -> dict[str, str]:
    """Returns the settings of a run: by name, the value as text.

    They are gin's operative configuration (every parameter of what was called so far, defaults
    included) and what can reach the run without gin: digests of the data (see
    `digest_of_arrays`), and JAX's options.

    Args:
      seed: the run's.
      families: one for each gradient estimator.
      learned_opt: the optimizer.
    """
    settings = {setting.name: setting.text for setting in operative_settings()}
    settings["seed"] = str(seed)
    for number, family in enumerate(families):
        settings[f"task_families[{number}]"] = family.name
        for size in _OF_ROUNDS:
            if hasattr(family, size):
                settings[f"task_families[{number}].{size}"] = str(getattr(family, size))
        datasets = getattr(family, "inner", family).datasets
        if isinstance(datasets, ExampleDatasets):
            settings[f"task_families[{number}].data"] = datasets.digest
    settings["num_task_families"] = str(len(families))
    settings["optimizer"] = type(learned_opt).__name__
    if isinstance(learned_opt, GlobalLearnedOptimizer):
        hparams = learned_opt.hparams().items()
        settings |= {f"optimizer.{name}": repr(value) for name, value in hparams}
    for option in _JAX_OPTIONS:
        if hasattr(jax.config, option):
            settings[option] = str(getattr(jax.config, option))
    return settings


def decisive(settings: Mapping[str, str]) -> dict[str, str]:
    """Those of the settings that decide a run's numbers, which may not differ."""
    return {name: text for name, text in settings.items() if not _is_harmless(name)}


def require_same_settings(saved: Mapping[str, str], here: Mapping[str, str], where: str) -> None:
    """Compares the settings of a checkpoint with those of the run that is to go on from it.

    What only one of the two has is passed over: a process may have called other configurables
    as well. A part that was exchanged shows in the setting that names it.

    Args:
      saved: with the checkpoint.
      here: of this run.
      where: names the checkpoint, for the message.

    Raises:
      ResumeError: a setting that is not among `HARMLESS` differs.
    """
    different = [
        f"  {name}: {saved[name]} saved, {here[name]} here"
        for name in sorted(saved.keys() & here.keys())
        if saved[name] != here[name] and not _is_harmless(name)
    ]
    if different:
        rest = [f"  and {len(different) - _SHOWN} more"] if len(different) > _SHOWN else []
        raise ResumeError(
            "\n".join(
                [
                    f"the checkpoint of {where} does not fit this configuration, which is "
                    "another problem:",
                    *different[:_SHOWN],
                    *rest,
                    "Resume with the configuration it was started with, or start in another "
                    "folder. Only these may change: " + ", ".join(sorted(HARMLESS)) + ", and "
                    "the path of the same data or of the same theta to start from.",
                ]
            )
        )


def _is_harmless(name: str) -> bool:
    """Whether a setting may change, with whatever scope and modules gin writes before it."""
    selector = name.rpartition("/")[2].split(".")
    return ".".join(selector[-2:]) in HARMLESS | _PLACES
