"""Learned optimizers for the global step of local SGD: a learned_optimization plugin."""

# First: makes upstream work on today's JAX, and without TensorFlow.
from comm_lopt import upstream  # isort: skip

from comm_lopt import meta_test, meta_train
from comm_lopt.config import GIN_DIR, load_config, shipped_gin_files
from comm_lopt.data.feeding.datasets import ExampleDatasets
from comm_lopt.data.feeding.device import DeviceDatasets
from comm_lopt.data.feeding.examples import LabelledExamples, TextWindows
from comm_lopt.data.feeding.mixed import MixedDatasets
from comm_lopt.data.feeding.partition import DirichletParts, IIDParts
from comm_lopt.data.feeding.samplers import IndexSampler, WindowSampler
from comm_lopt.data.feeding.streams import StreamDatasets
from comm_lopt.data.sources.cifar import cifar10_datasets, cifar100_datasets
from comm_lopt.data.sources.digits import digits_datasets
from comm_lopt.data.sources.fashion_mnist import fashion_mnist_datasets, find_fashion_mnist
from comm_lopt.data.sources.folder import DataError
from comm_lopt.data.sources.idx import read_idx
from comm_lopt.data.sources.idx_folder import idx_folder_datasets
from comm_lopt.data.sources.imagenet import imagenet_datasets
from comm_lopt.data.sources.npz import npz_datasets
from comm_lopt.data.sources.text import (
    lm1b_datasets,
    python_library_datasets,
    python_topics_datasets,
    text_file_datasets,
)
from comm_lopt.methods import Method, hand_designed, learned
from comm_lopt.optimizers.as_upstream import as_upstream
from comm_lopt.optimizers.every_h_steps import every_h_steps
from comm_lopt.optimizers.full_precision import in_full_precision
from comm_lopt.optimizers.learned.ada_features import AdaFeatures
from comm_lopt.optimizers.learned.lagg import LAgg, LAggA
from comm_lopt.optimizers.learned.lopt import LOpt, LOptA
from comm_lopt.optimizers.learned.mixed_momenta import LOptM
from comm_lopt.optimizers.learned.momentum_features import MomentumFeatures
from comm_lopt.optimizers.learned.relative import LAggR, LOptR
from comm_lopt.optimizers.learned.relative_features import RelativeAdaFeatures
from comm_lopt.optimizers.learned.steering import Steering
from comm_lopt.optimizers.learned.step_size import (
    AlphaFromStatistics,
    ConstantAlpha,
    LearnedAlpha,
    MomentumAlpha,
)
from comm_lopt.optimizers.local_rate import local_rate_of
from comm_lopt.optimizers.registry import OPTIMIZERS, OptimizerEntry, optimizer_entry
from comm_lopt.pretrained.card import Card
from comm_lopt.pretrained.loading import Pretrained, load
from comm_lopt.report import loss_figure, markdown_table, write_report
from comm_lopt.round_state import RoundState
from comm_lopt.tasks.autoencoder import AutoencoderTask
from comm_lopt.tasks.cifar import cifar10_conv, cifar10_mlp, cifar100_conv, cifar100_mlp
from comm_lopt.tasks.compression import Compression, Int8, TopK
from comm_lopt.tasks.data_parallel import DataParallelTaskFamily
from comm_lopt.tasks.digits import digits_mlp
from comm_lopt.tasks.fashion_mnist import (
    fashion_mnist_ae8,
    fashion_mnist_conv,
    fashion_mnist_mlp,
    fashion_mnist_mlp8,
    fashion_mnist_vit,
)
from comm_lopt.tasks.image_classification import ImageClassificationTask
from comm_lopt.tasks.imagenet import (
    imagenet_conv,
    imagenet_deit,
    imagenet_mlp,
    imagenet_resnet,
)
from comm_lopt.tasks.language import gru_lm, lm1b_transformer, transformer_lm
from comm_lopt.tasks.language_modelling import LanguageModellingTask
from comm_lopt.tasks.local_optimizers import (
    LOCAL_OPTIMIZERS,
    local_adamw,
    local_muon,
    local_sgd,
)
from comm_lopt.tasks.local_round import RoundOutput, local_round
from comm_lopt.tasks.local_sgd import LocalSGDTaskFamily
from comm_lopt.tasks.networks.convnet import convnet
from comm_lopt.tasks.networks.gru import gru
from comm_lopt.tasks.networks.mlp import mlp
from comm_lopt.tasks.networks.resnet import resnet
from comm_lopt.tasks.networks.transformer import transformer
from comm_lopt.tasks.networks.vit import vit
from comm_lopt.tasks.registry import TASKS, TaskEntry, task_entry
from comm_lopt.tasks.sampled_mlp import SampledMLPFamily, sampled_mlp
from comm_lopt.tasks.single_worker import SingleWorkerTaskFamily
from comm_lopt.tasks.supervised import SupervisedTask
from comm_lopt.theta import ThetaError, load_theta, save_theta
from comm_lopt.versions import versions

__version__ = "0.1.0"

__all__ = [
    "GIN_DIR",
    "LOCAL_OPTIMIZERS",
    "OPTIMIZERS",
    "TASKS",
    "AdaFeatures",
    "AlphaFromStatistics",
    "AutoencoderTask",
    "Card",
    "Compression",
    "ConstantAlpha",
    "DataError",
    "DataParallelTaskFamily",
    "DeviceDatasets",
    "DirichletParts",
    "ExampleDatasets",
    "IIDParts",
    "ImageClassificationTask",
    "IndexSampler",
    "Int8",
    "LAgg",
    "LAggA",
    "LAggR",
    "LOpt",
    "LOptA",
    "LOptM",
    "LOptR",
    "LabelledExamples",
    "LanguageModellingTask",
    "LearnedAlpha",
    "LocalSGDTaskFamily",
    "Method",
    "MixedDatasets",
    "MomentumAlpha",
    "MomentumFeatures",
    "OptimizerEntry",
    "Pretrained",
    "RelativeAdaFeatures",
    "RoundOutput",
    "RoundState",
    "SampledMLPFamily",
    "SingleWorkerTaskFamily",
    "Steering",
    "StreamDatasets",
    "SupervisedTask",
    "TaskEntry",
    "TextWindows",
    "ThetaError",
    "TopK",
    "WindowSampler",
    "as_upstream",
    "cifar10_conv",
    "cifar10_datasets",
    "cifar10_mlp",
    "cifar100_conv",
    "cifar100_datasets",
    "cifar100_mlp",
    "convnet",
    "digits_datasets",
    "digits_mlp",
    "every_h_steps",
    "fashion_mnist_ae8",
    "fashion_mnist_conv",
    "fashion_mnist_datasets",
    "fashion_mnist_mlp",
    "fashion_mnist_mlp8",
    "fashion_mnist_vit",
    "find_fashion_mnist",
    "gru",
    "gru_lm",
    "hand_designed",
    "idx_folder_datasets",
    "imagenet_conv",
    "imagenet_datasets",
    "imagenet_deit",
    "imagenet_mlp",
    "imagenet_resnet",
    "in_full_precision",
    "learned",
    "lm1b_datasets",
    "lm1b_transformer",
    "load",
    "load_config",
    "load_theta",
    "local_adamw",
    "local_muon",
    "local_rate_of",
    "local_round",
    "local_sgd",
    "loss_figure",
    "markdown_table",
    "meta_test",
    "meta_train",
    "mlp",
    "npz_datasets",
    "optimizer_entry",
    "python_library_datasets",
    "python_topics_datasets",
    "read_idx",
    "resnet",
    "sampled_mlp",
    "save_theta",
    "shipped_gin_files",
    "task_entry",
    "text_file_datasets",
    "transformer",
    "transformer_lm",
    "upstream",
    "versions",
    "vit",
    "write_report",
]
