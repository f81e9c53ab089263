"""What is compared: a local optimizer, a global rule, what workers send, and every value used."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import optax

from comm_lopt.checks import nearest_name, require_same_workers
from comm_lopt.hyperparameters import REQUIRED, Hyperparameter, configured, plain
from comm_lopt.optimizers.as_upstream import as_upstream
from comm_lopt.optimizers.by_name import made_by_name
from comm_lopt.optimizers.learned.rule import GlobalLearnedOptimizer
from comm_lopt.optimizers.registry import OPTIMIZERS, OptimizerEntry, Sends, Workers
from comm_lopt.tasks.data_parallel import DataParallelTaskFamily
from comm_lopt.tasks.local_optimizers import LOCAL_OPTIMIZERS
from comm_lopt.tasks.local_sgd import LocalSGDTaskFamily
from comm_lopt.tasks.single_worker import SingleWorkerTaskFamily
from comm_lopt.upstream import LearnedOptimizer, Optimizer

if TYPE_CHECKING:
    from comm_lopt.meta_test.problem import Problem

__all__ = ["LOCAL_LEARNING_RATE", "Method", "checked_name", "hand_designed", "learned"]

PyTree = Any
Rule = Any
"""An optax transformation, or an upstream `Optimizer`."""

LOCAL = "local_"
LOCAL_LEARNING_RATE = "local_learning_rate"

# What a hyperparameter can be; other arguments (masks, schedules, types) are for Python and gin.
_VALUES = (bool, int, float, str, type(None))
# What may be chosen anew each time that a theta of ours is used.
_WHEN_USED = ("implementation", "absent_workers")


@dataclasses.dataclass(frozen=True)
class Method:
    """A method: how workers train locally, and what becomes of what they bring back.

    Attributes:
      label: its name in a comparison; a key of the results.
      optimizer: name of the global rule: of the registry, of gin, or of optax with "optax.".
      make_rule: the rule for given hyperparameters.
      local_optimizer: name of the local optimizer.
      make_local_opt: the local optimizer for given hyperparameters, without "local_" before them.
      sends: what a worker sends: "mean" (it takes part in an average of deltas),
        "mean_and_squares" (and in one of their squares), "worker_deltas" (all receive each one's),
        or "gradient" (one, of its H batches; no local steps).
      workers: "all" K of them, or "one" on the examples of all.
      hparams: values and their sources; those of the local optimizer begin with "local_".
      grid: what a sweep tries by default, by hyperparameter.
      local_state_persists: whether local optimizer states outlive a round.
      num_workers: the only K it works for, or None.
      is_learned: whether it runs with a theta.
      theta: for a learned optimizer "path" and "sha256" of its theta, or an empty dict.

    Raises:
      ValueError: a label that no table can show.
    """

    label: str
    optimizer: str
    make_rule: Callable[..., Rule]
    local_optimizer: str
    make_local_opt: Callable[..., optax.GradientTransformation]
    sends: Sends
    workers: Workers
    hparams: Mapping[str, Hyperparameter]
    grid: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    local_state_persists: bool = False
    num_workers: int | None = None
    is_learned: bool = False
    theta: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        checked_name(self.label)

    def with_values(self, source: str, /, **values: Any) -> Method:
        """The same method with other values.

        Raises:
          ValueError: it has no such hyperparameter (the nearest known name is suggested), a text
            stands for a number, or a value is none that results can hold.
        """
        values = {name: plain(value) for name, value in values.items()}
        for name, value in values.items():
            self.require_hparam(name)
            if value is not REQUIRED and not isinstance(value, _VALUES):
                raise ValueError(
                    f"{name}={value!r:.100} is no number, text, truth value or None; bind it in "
                    "gin, or to a function of your own that makes the optimizer."
                )
            before = self.hparams[name].value
            number = isinstance(before, numbers.Real) and not isinstance(before, bool)
            if isinstance(value, str) and number:
                raise ValueError(
                    f"{name}={value!r} is not a number; write for example {name}={before}."
                )
        new = {name: Hyperparameter(value, source) for name, value in values.items()}
        return dataclasses.replace(self, hparams={**self.hparams, **new})

    def require_hparam(self, name: str) -> None:
        """Raises ValueError, with the nearest known one, unless the method has `name`."""
        if name not in self.hparams:
            raise ValueError(
                f"{self.optimizer} has no hyperparameter {name!r}; "
                f"{nearest_name(name, self.hparams)}"
            )

    def values(self) -> dict[str, Any]:
        """The values alone."""
        return {name: hparam.value for name, hparam in self.hparams.items()}

    def check(self, problem: Problem, point: Mapping[str, Any] | None = None) -> None:
        """Raises ValueError if the method cannot run on the problem, before any long work.

        Args:
          problem: what it is to train.
          point: values in place of the method's own, such as the first point of a grid.
        """
        point = point or {}
        require_same_workers(self.label, self.num_workers, problem.num_workers)
        if problem.participation is not None:
            self._check_participation(problem.participation)
        for name, hparam in self.hparams.items():
            if hparam.value is REQUIRED and name not in point:
                raise ValueError(
                    f"{self.label} needs a value of {name} (source: {hparam.source}); write it "
                    f"behind the name, as in {self.label}:{name}=0.1, or sweep over it."
                )
        self.build(problem, point)

    def _check_participation(self, participation: float) -> None:
        if self.workers == "one":
            raise ValueError(
                f"{self.label} has one worker and participation={participation} leaves some out; "
                "compare methods of K workers, or let all take part."
            )
        fills_in = "absent_workers" not in self.hparams or self.values()["absent_workers"] == "mean"
        if self.sends == "worker_deltas" and not fills_in:
            raise ValueError(
                f"{self.label} sees each worker's delta and participation={participation} leaves "
                "some out; add :absent_workers=mean behind its theta, which gives it the mean in "
                "their place, or let all take part."
            )

    def build(
        self, problem: Problem, hparams: Mapping[str, Any]
    ) -> tuple[LocalSGDTaskFamily, Optimizer]:
        """The task family as this method trains on it, and the global optimizer.

        Args:
          problem: what is trained.
          hparams: values in place of the method's own, traced ones too.
        """
        local_opt, rule = self.make(hparams)
        family = FAMILIES[self.sends, self.workers](
            problem.task_family,
            problem.num_workers,
            problem.num_local_steps,
            local_opt,
            local_learning_rate=None,
            local_state_persists=self.local_state_persists,
            worker_deltas=self.sends == "worker_deltas",
            worker_squares=self.sends == "mean_and_squares",
            steered=True,  # Whatever gin binds for meta-training.
            partition=problem.partition,
            participation=problem.participation,
            compression=problem.compression,
        )
        if isinstance(rule, Optimizer):
            return family, rule
        return family, as_upstream(rule, self.label)

    def make(self, hparams: Mapping[str, Any]) -> tuple[optax.GradientTransformation, Rule]:
        """The local optimizer and the rule, for values in place of the method's own.

        Raises:
          ValueError: a value outside its interval.
        """
        values = {**self.values(), **hparams}
        local_opt = self.make_local_opt(**_part(values, local=True))
        return local_opt, self.make_rule(**_part(values, local=False))

    def describe(self) -> dict[str, Any]:
        """What results record of a method, as JSON values."""
        return {
            "optimizer": self.optimizer,
            "local_optimizer": None if self.sends == "gradient" else self.local_optimizer,
            "local_state_persists": None if self.sends == "gradient" else self.local_state_persists,
            "sends": self.sends,
            "workers": self.workers,
            "learned": self.is_learned,
            "hparams": {name: _json_value(value) for name, value in self.values().items()},
            "sources": {name: hparam.source for name, hparam in self.hparams.items()},
            "theta": dict(self.theta) or None,
        }


def checked_name(name: str) -> str:
    """A label of a method or a name of a target, as results can hold it.

    Raises:
      ValueError: it is none that tables and figures can show.
    """
    if not name or not name.isprintable() or len(name) > 200:
        raise ValueError(
            f"the name {name!r:.100} must be 1 to 200 printable characters; give a shorter one, "
            "such as small=runs/small/theta."
        )
    return name


FAMILIES: Mapping[tuple[Sends, Workers], type[LocalSGDTaskFamily]] = {
    ("mean", "all"): LocalSGDTaskFamily,
    ("mean_and_squares", "all"): LocalSGDTaskFamily,
    ("worker_deltas", "all"): LocalSGDTaskFamily,
    ("gradient", "all"): DataParallelTaskFamily,
    ("mean", "one"): SingleWorkerTaskFamily,
}


def hand_designed(
    name: str, label: str | None = None, local_opt: str | None = None, **hparams: Any
) -> Method:
    """A method with a hand-designed global rule.

    Values that are not given are gin's, then the registry's, then the function's defaults.

    Args:
      name: of the registry ("SlowMo"), of gin (one's own function that makes an optax
        transformation), or of optax ("optax.lion").
      label: its name in a comparison; `name` if None.
      local_opt: local optimizer, of `LOCAL_OPTIMIZERS`, of gin or of optax; the entry's if None.
      **hparams: values; those of the local optimizer begin with "local_".

    Raises:
      ValueError: an unknown name or hyperparameter, or a learned optimizer.
    """
    entry = OPTIMIZERS.get(name) or OptimizerEntry(made_by_name(name, OPTIMIZERS), "", "")
    if entry.is_learned:
        raise ValueError(
            f"{name} is learned: it runs with a theta; meta-train one and pass its folder."
        )
    method = _method(label or name, name, entry.make, entry, local_opt)
    fitting = {} if local_opt not in (None, entry.local_opt) else entry.defaults
    for_all = {n: v for n, v in entry.defaults.items() if not n.startswith(LOCAL)}
    not_in_gin = {
        n: v for n, v in {**for_all, **fitting}.items() if method.hparams[n].source != "gin"
    }
    return method.with_values("default", **not_in_gin).with_values("given", **hparams)


def learned(
    learned_opt: LearnedOptimizer,
    theta: PyTree,
    label: str | None = None,
    local_opt: str = "local_sgd",
    theta_file: Mapping[str, str] | None = None,
    **hparams: Any,
) -> Method:
    """A method with a learned global rule.

    Args:
      learned_opt: any learned optimizer, such as `LOptA()`, one's own, or upstream's.
      theta: its meta-parameters, a tree as from its `init`.
      label: its name in a comparison; the optimizer's class if None.
      local_opt: local optimizer; see `hand_designed`.
      theta_file: "path" and "sha256" of theta, for the results.
      **hparams: values of the local optimizer, which begin with "local_" (the local learning rate
        that theta was meta-trained with is the natural choice), and of comm_lopt's own learned
        optimizers "implementation" and "absent_workers"; see `GlobalLearnedOptimizer`.
    """
    name = type(learned_opt).__name__
    entry = OPTIMIZERS.get(name) or OptimizerEntry(type(learned_opt), "", "")
    deltas = getattr(learned_opt, "needs_worker_deltas", False)
    squares = getattr(learned_opt, "needs_worker_squares", False)
    sends: Sends = "worker_deltas" if deltas else "mean_and_squares" if squares else "mean"
    entry = dataclasses.replace(entry, sends=sends)
    method = dataclasses.replace(
        _method(label or name, name, _no_arguments, entry, local_opt),
        make_rule=lambda **chosen: _rebuilt(learned_opt, chosen).opt_fn(theta),
        num_workers=getattr(learned_opt, "num_workers", None),
        is_learned=True,
        theta=theta_file or {},
    )
    when_used = {
        name: Hyperparameter(getattr(learned_opt, name), "default")
        for name in _WHEN_USED[: 1 + deltas]
        if isinstance(learned_opt, GlobalLearnedOptimizer)
    }
    method = dataclasses.replace(method, hparams={**when_used, **method.hparams})
    return method.with_values("given", **hparams)


def _no_arguments() -> Any:
    """Stands where a rule has no hyperparameters of its own."""


def _rebuilt(learned_opt: LearnedOptimizer, chosen: Mapping[str, Any]) -> LearnedOptimizer:
    """The learned optimizer with what is chosen anew."""
    if all(value == getattr(learned_opt, name) for name, value in chosen.items()):
        return learned_opt
    return type(learned_opt).from_hparams({**learned_opt.hparams(), **chosen})


def _method(
    label: str,
    name: str,
    make_rule: Callable[..., Rule],
    entry: OptimizerEntry,
    local_opt: str | None,
) -> Method:
    local_name = local_opt or entry.local_opt
    local = LOCAL_OPTIMIZERS.get(local_name)
    make_local = local.make if local else made_by_name(local_name, LOCAL_OPTIMIZERS)
    hparams = _hyperparameters(make_rule)
    if entry.sends != "gradient":
        hparams |= {LOCAL + key: value for key, value in _hyperparameters(make_local).items()}
    grid = {} if entry.sends == "gradient" or local is None else local.grid
    return Method(
        label,
        name,
        make_rule,
        local_name,
        make_local,
        entry.sends,
        entry.workers,
        hparams,
        {LOCAL + key: values for key, values in grid.items()} | dict(entry.grid),
        local_state_persists=local is None or local.persists,
    )


def _hyperparameters(make: Callable[..., Any]) -> dict[str, Hyperparameter]:
    """The arguments of a function that are hyperparameters."""
    return {
        name: hparam
        for name, hparam in configured(make).items()
        if hparam.value is REQUIRED or isinstance(hparam.value, _VALUES)
    }


def _json_value(value: Any) -> Any:
    """A hyperparameter as JSON can hold it: what is not finite as text."""
    if value is REQUIRED:
        return None
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _part(values: Mapping[str, Any], local: bool) -> dict[str, Any]:
    """The hyperparameters of the local optimizer, or those of the rule."""
    if local:
        return {k.removeprefix(LOCAL): v for k, v in values.items() if k.startswith(LOCAL)}
    return {key: value for key, value in values.items() if not key.startswith(LOCAL)}
