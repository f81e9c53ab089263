"""Learned optimizers for the global step of local SGD: a learned_optimization plugin."""

# First: makes upstream work on today's JAX, and without TensorFlow.
from comm_lopt import upstream  # isort: skip

from comm_lopt import meta_test, meta_train
from comm_lopt.config import GIN_DIR, load_config, shipped_gin_files
from comm_lopt.data.device import DeviceDatasets, IndexSampler
from comm_lopt.data.digits import digits_datasets
from comm_lopt.data.fashion_mnist import fashion_mnist_datasets, find_fashion_mnist
from comm_lopt.data.idx import DataError, read_idx
from comm_lopt.optimizers.ada_features import AdaFeatures
from comm_lopt.optimizers.averaging import LocalSGD
from comm_lopt.optimizers.data_parallel import DataParallelAdam, DataParallelSGD
from comm_lopt.optimizers.lagg import LAgg, LAggA
from comm_lopt.optimizers.lopt import LOpt, LOptA
from comm_lopt.optimizers.momentum_features import MomentumFeatures
from comm_lopt.optimizers.registry import OPTIMIZERS, OptimizerEntry, optimizer_entry
from comm_lopt.optimizers.slowmo import SlowMo
from comm_lopt.report import loss_figure, markdown_table, write_report
from comm_lopt.round_state import RoundState
from comm_lopt.tasks.data_parallel import DataParallelTaskFamily
from comm_lopt.tasks.digits import digits_mlp
from comm_lopt.tasks.fashion_mnist import (
    fashion_mnist_conv,
    fashion_mnist_mlp,
    fashion_mnist_mlp8,
)
from comm_lopt.tasks.image_classification import ImageClassificationTask
from comm_lopt.tasks.local_optimizers import local_sgd
from comm_lopt.tasks.local_round import RoundOutput, local_round
from comm_lopt.tasks.local_sgd import LocalSGDTaskFamily
from comm_lopt.tasks.registry import TASKS, TaskEntry, task_entry
from comm_lopt.theta import ThetaError, load_theta, save_theta
from comm_lopt.versions import versions

__version__ = "0.1.0"

__all__ = [
    "GIN_DIR",
    "OPTIMIZERS",
    "TASKS",
    "AdaFeatures",
    "DataError",
    "DataParallelAdam",
    "DataParallelSGD",
    "DataParallelTaskFamily",
    "DeviceDatasets",
    "ImageClassificationTask",
    "IndexSampler",
    "LAgg",
    "LAggA",
    "LOpt",
    "LOptA",
    "LocalSGD",
    "LocalSGDTaskFamily",
    "MomentumFeatures",
    "OptimizerEntry",
    "RoundOutput",
    "RoundState",
    "SlowMo",
    "TaskEntry",
    "ThetaError",
    "digits_datasets",
    "digits_mlp",
    "fashion_mnist_conv",
    "fashion_mnist_datasets",
    "fashion_mnist_mlp",
    "fashion_mnist_mlp8",
    "find_fashion_mnist",
    "load_config",
    "load_theta",
    "local_round",
    "local_sgd",
    "loss_figure",
    "markdown_table",
    "meta_test",
    "meta_train",
    "optimizer_entry",
    "read_idx",
    "save_theta",
    "shipped_gin_files",
    "task_entry",
    "upstream",
    "versions",
    "write_report",
]
