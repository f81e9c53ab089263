"""Hand-designed global rules: each an optax transformation of Δ, one idea a file."""

from comm_lopt.optimizers.rules.averaging import averaging, outer_sgd
from comm_lopt.optimizers.rules.data_parallel import (
    data_parallel_adam,
    data_parallel_sgd,
    data_parallel_sgdm,
)
from comm_lopt.optimizers.rules.ema_nesterov import ema_nesterov
from comm_lopt.optimizers.rules.falling_rate import falling_nesterov, falling_rate
from comm_lopt.optimizers.rules.fedavgm import fedavgm
from comm_lopt.optimizers.rules.fedopt import fedadam, fedyogi
from comm_lopt.optimizers.rules.gpa import gpa
from comm_lopt.optimizers.rules.nesterov import nesterov
from comm_lopt.optimizers.rules.slowmo import slowmo

__all__ = [
    "averaging",
    "data_parallel_adam",
    "data_parallel_sgd",
    "data_parallel_sgdm",
    "ema_nesterov",
    "falling_nesterov",
    "falling_rate",
    "fedadam",
    "fedavgm",
    "fedyogi",
    "gpa",
    "nesterov",
    "outer_sgd",
    "slowmo",
]
