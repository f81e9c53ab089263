"""Theta out of tasks: `comm-lopt meta-train`."""

from comm_lopt.long_runs.errors import (
    CheckpointError,
    DivergedError,
    ResumeError,
    RunStopped,
    SaveError,
)
from comm_lopt.meta_train.closing import closing
from comm_lopt.meta_train.loop import check_fit, meta_train
from comm_lopt.meta_train.theta_optimizer import ThetaAdamW

__all__ = [
    "CheckpointError",
    "DivergedError",
    "ResumeError",
    "RunStopped",
    "SaveError",
    "ThetaAdamW",
    "check_fit",
    "closing",
    "meta_train",
]
