"""What is known of a theta that ships: card.json, as a dataclass that is checked when read."""

from __future__ import annotations

import collections.abc
import dataclasses
import json
import math
import pathlib
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from comm_lopt.checks import require_range
from comm_lopt.damage import damage_as
from comm_lopt.pretrained.folders import CARD_FILE
from comm_lopt.theta import ThetaError

__all__ = [
    "Card",
    "CheckRun",
    "Recommended",
    "Selection",
    "TestedTask",
    "Training",
    "card_text",
    "read_card",
]

_FORMAT_VERSION = 1
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*-[0-9]+")
_DIGEST = re.compile(r"[0-9a-f]{64}")
# Far from any real card: they bound what a hostile one can make its reader do.
_MAX_BYTES = 1 << 20
_MAX_TEXT = 2000


@dataclasses.dataclass(frozen=True)
class Training:
    """How theta was meta-trained; config.gin beside the card has every setting.

    Attributes:
      tasks: a line for each family of tasks, with K, H, local optimizer and γ.
      meta_steps: meta-steps of this theta.
      meta_seed: seed of the run.
      seconds: wall time of the run, compilation included.
      command: what was run.
      machine: on what.
      versions: of the libraries, by name.
    """

    tasks: tuple[str, ...]
    meta_steps: int
    meta_seed: int
    seconds: float
    command: str
    machine: str
    versions: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Selection:
    """How theta was chosen, on tasks that are neither trained nor tested on.

    Attributes:
      how: in words.
      rates: local learning rates γ at which it was judged.
      ratios: by task, its final training loss over that of tuned SlowMo at each of `rates`.
    """

    how: str
    rates: tuple[float, ...]
    ratios: Mapping[str, tuple[float, ...]]


@dataclasses.dataclass(frozen=True)
class Recommended:
    """How theta is to be used.

    Attributes:
      local_learning_rate: γ at H = 1; where it is steered, γ of the first round.
      steered: whether the rule sets γ of later rounds.
      alpha: how long steps are, in units of RMS(Δ); None for a rule that knows no α.
      schedule: of what stands outside the rule, in words.
      local_optimizer: what takes the local steps, by its name in `LOCAL_OPTIMIZERS`.
      steps_power: the power of H that γ goes with, at most 0; see `rate`.
      workers_power: the power of K that it goes with, at least 0.

    Raises:
      ValueError: a rate that is not above 0, or a power that is.
    """

    local_learning_rate: float
    steered: bool
    alpha: str | None
    schedule: str
    local_optimizer: str = "local_sgd"
    steps_power: float = 0.0
    workers_power: float = 0.0

    def __post_init__(self) -> None:
        require_range("local_learning_rate", self.local_learning_rate, 0.0, exclude_low=True)
        require_range("steps_power", self.steps_power, -math.inf, 0.0)
        require_range("workers_power", self.workers_power, 0.0)

    def rate(self, num_local_steps: int, num_workers: int) -> float:
        """γ for H local steps of K workers, to 6 digits.

        It is `local_learning_rate` · H^`steps_power` · K^`workers_power`.
        """
        of_steps = num_local_steps**self.steps_power
        of_workers = num_workers**self.workers_power
        return float(f"{self.local_learning_rate * of_steps * of_workers:.6g}")

    def formula(self) -> str:
        """γ as people read it, such as "0.07 · H^-0.5 · K^0.25"."""
        powers = (("H", self.steps_power), ("K", self.workers_power))
        factors = [f"{name}^{power:g}" for name, power in powers if power]
        return " · ".join([f"{self.local_learning_rate:g}", *factors])


@dataclasses.dataclass(frozen=True)
class TestedTask:
    """What came of theta on a test task, at the recommended γ.

    Attributes:
      task: what it is.
      num_rounds: T.
      num_seeds: test seeds.
      loss: final training loss; None where a seed diverged.
      loss_std: its standard deviation over seeds.
      heldout_loss: after the last round.
      baselines: final training losses of the tuned baselines, by label.
      shares: rounds to the final loss of a baseline as a share of T, by label; None: not reached.
    """

    task: str
    num_rounds: int
    num_seeds: int
    loss: float | None
    loss_std: float | None
    heldout_loss: float | None
    baselines: Mapping[str, float | None]
    shares: Mapping[str, float | None]


@dataclasses.dataclass(frozen=True)
class CheckRun:
    """A short run on scikit-learn's digits, which shows whether theta does here what it did.

    Attributes:
      num_workers: K.
      num_local_steps: H.
      num_rounds: T.
      batch_size: B.
      hidden_size: width of the MLP's one hidden layer.
      seed: of initial weights and data order.
      local_learning_rate: γ.
      losses: training loss of each round.
      local_optimizer: as in `Recommended`.
    """

    num_workers: int
    num_local_steps: int
    num_rounds: int
    batch_size: int
    hidden_size: int
    seed: int
    local_learning_rate: float
    losses: tuple[float, ...]
    local_optimizer: str = "local_sgd"


@dataclasses.dataclass(frozen=True)
class Card:
    """What is known of a theta.

    Attributes:
      name: of its folder: the rule in lower case and a version, as in "lopt-r-1".
      rule: the optimizer's class.
      num_weights: numbers in theta.
      licence: by its SPDX name.
      sha256: of theta.safetensors.
      training: how it was meta-trained.
      selection: how it was chosen.
      recommended: how it is to be used.
      tested: a row for each test task; none until they have been run.
      limits: what it does not do well, in sentences.
      check: a run that can be repeated.

    Raises:
      ValueError: a name or digest of another form.
    """

    name: str
    rule: str
    num_weights: int
    licence: str
    sha256: str
    training: Training
    selection: Selection
    recommended: Recommended
    tested: tuple[TestedTask, ...]
    limits: tuple[str, ...]
    check: CheckRun

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(
                f"the name {self.name!r:.100} must be lower case and end with a version; write for "
                "example lopt-r-1."
            )
        if not _DIGEST.fullmatch(self.sha256):
            raise ValueError(f"sha256 is {self.sha256!r:.100}; it must be 64 hexadecimal digits.")

    def to_json(self) -> dict[str, Any]:
        """The card as JSON values."""
        return {"format_version": _FORMAT_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, values: Any) -> Card:
        """The inverse of `to_json`.

        Raises:
          ThetaError: something is missing, unknown or of another kind, or the format is newer.
          ValueError: what `Card` refuses.
        """
        values = dict(values) if isinstance(values, dict) else values
        version = values.pop("format_version", None) if isinstance(values, dict) else None
        if type(version) is not int or version != _FORMAT_VERSION:
            raise ThetaError(
                f"the card has format version {version!r:.50}, this comm_lopt reads "
                f"{_FORMAT_VERSION}; install a newer comm_lopt."
            )
        return _checked(cls, "card", values)


def card_text(card: Card) -> str:
    """What card.json holds."""
    return json.dumps(card.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_card(folder: pathlib.Path) -> Card:
    """The card of a theta's folder.

    Raises:
      ThetaError: it cannot be used, whatever is in it.
      OSError: it cannot be read.
    """
    path = folder / CARD_FILE
    with damage_as(ThetaError, f"{path} is no card of a theta", "put back the one that it had."):
        if path.stat().st_size > _MAX_BYTES:
            raise ThetaError(f"{path} has more than {_MAX_BYTES} bytes; no card is so large.")
        return Card.from_json(json.loads(path.read_text(encoding="utf-8")))


def _checked(kind: Any, where: str, value: Any) -> Any:
    """The value of a field of type `kind`, made of JSON values."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _checked(arguments[0], where, value)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        # What has a default came later than the first cards.
        needed = {
            field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING
        }
        if not isinstance(value, dict) or not needed <= value.keys() <= hints.keys():
            found = sorted(value) if isinstance(value, dict) else value
            raise ThetaError(f"{where} is {found!r:.200}; it must have {', '.join(hints)}.")
        return kind(**{n: _checked(hints[n], f"{where}.{n}", value[n]) for n in value})
    if origin is tuple and isinstance(value, list):
        return tuple(_checked(arguments[0], f"{where}[{i}]", one) for i, one in enumerate(value))
    if origin is collections.abc.Mapping and isinstance(value, dict):
        names = [_checked(str, f"a name in {where}", name) for name in value]
        return {name: _checked(arguments[1], f"{where}.{name}", value[name]) for name in names}
    if kind is str and isinstance(value, str) and value.isprintable() and len(value) <= _MAX_TEXT:
        return value
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind in (int, bool) and type(value) is kind:
        return value
    wanted = f"printable text of at most {_MAX_TEXT}" if kind is str else f"a {kind}"
    raise ThetaError(f"{where} is {value!r:.100}; it must be {wanted}.")
