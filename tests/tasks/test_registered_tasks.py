"""Every registered task: its size, and three rounds of Local SGD and LOpt-A on it."""

import gin
import jax
import numpy as np
import pytest

import comm_lopt
from comm_lopt import meta_test
from comm_lopt.tasks import imagenet

SIZES = ["num_rounds = 3", "num_workers = 2", "num_local_steps = 2"]
DATASETS = (
    "digits", "fashion_mnist", "cifar10", "cifar100", "imagenet", "lm1b", "python_library",
    "python_topics",
)  # fmt: skip
BATCHES = [f"{name}_datasets.batch_size = 2" for name in DATASETS]


@pytest.fixture(autouse=True)
def _small_data(small_data_folder, monkeypatch):
    monkeypatch.setenv("COMM_LOPT_DATA", str(small_data_folder))
    yield
    gin.clear_config()


def _num_parameters(task_family):
    def init(key):
        return task_family.sample_task(key).init_with_state(key)[0]

    leaves = jax.tree.leaves(jax.eval_shape(init, jax.random.PRNGKey(0)))
    return sum(int(np.prod(leaf.shape)) for leaf in leaves)


@pytest.mark.parametrize("name", comm_lopt.TASKS)
def test_registry_and_gin_file_describe_the_same_task(name, ordinary_promotion):
    comm_lopt.load_config([f"tasks/{name}.gin"], BATCHES)
    configured = meta_test.meta_test_problem().task_family
    made = comm_lopt.TASKS[name].make()
    assert _num_parameters(configured) == comm_lopt.TASKS[name].num_parameters
    assert _num_parameters(made) == comm_lopt.TASKS[name].num_parameters
    assert configured.name == made.name == name


# Counted by hand, layer by layer, for images of S·S·C values and k classes.
def _mlp(inputs, *widths):
    return sum((a + 1) * b for a, b in zip((inputs, *widths[:-1]), widths, strict=True))


def _convnet(channels, classes):
    sizes = (channels, 32, 64, 64)
    convolutions = sum((9 * a + 1) * b for a, b in zip(sizes[:-1], sizes[1:], strict=True))
    return convolutions + 65 * classes


def _blocks(width, layers):
    """Attention 4·(w² + w), perceptron 8·w² + 5·w, two norms 4·w; and the last norm."""
    return layers * (12 * width**2 + 13 * width) + 2 * width


def _vit(width, layers, patches, patch, channels, classes):
    tokens = (patches + 1) * width + width
    embedding = (channels * patch**2 + 1) * width
    return tokens + embedding + _blocks(width, layers) + (width + 1) * classes


def _deit(width, patch):
    return _vit(width, 12, 64, patch, channels=3, classes=1000)


def _transformer(width, layers, length):
    return 256 * width + length * width + _blocks(width, layers) + (width + 1) * 256


BY_HAND = {
    "digits_mlp": _mlp(64, 32, 10),
    "fashion_mnist_mlp": _mlp(784, 128, 128, 10),
    "fashion_mnist_mlp8": _mlp(64, 32, 10),
    "fashion_mnist_conv": _convnet(1, 10),
    "fashion_mnist_ae8": _mlp(64, 32, 8, 32, 64),
    "fashion_mnist_vit": _vit(32, 2, 16, 7, channels=1, classes=10),
    "sampled_mlp": _mlp(64, 64, 64, 64, 64, 10),
    "cifar10_conv": _convnet(3, 10),
    "cifar10_mlp": _mlp(3072, 128, 128, 10),
    "cifar100_conv": _convnet(3, 100),
    "cifar100_mlp": _mlp(3072, 128, 128, 100),
    "imagenet32_mlp": _mlp(3072, 128, 128, 128, 1000),
    "imagenet64_mlp": _mlp(12288, 128, 128, 128, 1000),
    "imagenet32_conv": _convnet(3, 1000),
    "imagenet64_conv": _convnet(3, 1000),
    # torchvision's sizes, with a first convolution of 3x3 in place of 7x7.
    "imagenet32_resnet18": 11_689_512 - 40 * 3 * 64,
    "imagenet64_resnet18": 11_689_512 - 40 * 3 * 64,
    "imagenet32_resnet50": 25_557_032 - 40 * 3 * 64,
    "imagenet64_resnet50": 25_557_032 - 40 * 3 * 64,
    "imagenet32_deit_tiny": _deit(192, 4),
    "imagenet64_deit_tiny": _deit(192, 8),
    "imagenet32_deit_small": _deit(384, 4),
    "imagenet64_deit_small": _deit(384, 8),
    "lm1b_transformer192": _transformer(192, 12, 16),
    "lm1b_transformer32": _transformer(32, 2, 8),
    "lm1b_transformer16": _transformer(16, 1, 8),
    # The unit has three gates, each of the token and of the state.
    "gru_lm": 256 * 32 + 3 * (2 * 32**2 + 32) + 33 * 256,
    "transformer_lm": _transformer(32, 2, 32),
}


@pytest.mark.parametrize("name", comm_lopt.TASKS)
def test_size_is_what_the_architecture_says(name):
    assert comm_lopt.TASKS[name].num_parameters == BY_HAND[name]


def test_widths_and_depth_are_gin_bindings():
    binding = "fashion_mnist_mlp.hidden_sizes = (3, 4, 5)"
    comm_lopt.load_config(["tasks/fashion_mnist_mlp.gin"], [binding])
    expected = 785 * 3 + 4 * 4 + 5 * 5 + 6 * 10
    assert _num_parameters(meta_test.meta_test_problem().task_family) == expected


@pytest.mark.parametrize("name", comm_lopt.TASKS)
def test_losses_on_a_batch_have_their_shapes(name, ordinary_promotion):
    """Traced on the task's own data and not compiled, in training and in evaluation."""
    comm_lopt.load_config([f"tasks/{name}.gin"], BATCHES)
    family = meta_test.meta_test_problem().task_family

    def losses(key, batch):
        task = family.sample_task(key)
        params, state = task.init_with_state(key)
        loss, new_state = task.loss_with_state(params, state, key, batch)
        evaluated, _, metrics = task.loss_with_state_and_aux(params, state, key, batch)
        return (loss, evaluated, *metrics.values()), state, new_state

    batch = next(family.datasets.train)
    scalars, state, new_state = jax.eval_shape(losses, jax.random.PRNGKey(0), batch)
    assert {(scalar.shape, scalar.dtype.name) for scalar in scalars} == {((), "float32")}
    assert new_state == state


# By default those networks run that meta-training is not tested on as well, and small.
SMALL = {
    "cifar10_conv": ["cifar10_conv.channels = (2, 3)"],
    "imagenet32_resnet18": [],
    "imagenet64_deit_tiny": ["imagenet_deit.num_layers = 1", "imagenet_deit.width = 8"],
    "lm1b_transformer16": [],
}


@pytest.mark.parametrize("name", SMALL)
def test_three_rounds_of_a_small_network(name, small_resnet, monkeypatch, ordinary_promotion):
    monkeypatch.setitem(imagenet._DEIT_HEADS, 8, 2)
    monkeypatch.setattr(meta_test.problem, "_MAX_TRAIN", 16)
    # The plain update compiles sooner.
    check_three_rounds(name, SMALL[name], lambda: learned_method(implementation="plain"))


@pytest.mark.slow
@pytest.mark.parametrize("name", comm_lopt.TASKS)
def test_three_rounds_of_local_sgd_and_lopt_a(name, ordinary_promotion):
    check_three_rounds(name, [], lambda: comm_lopt.hand_designed("LocalSGD"), learned_method)


def learned_method(**arguments):
    lopt_a = comm_lopt.LOptA(hidden_size=4, **arguments)
    theta = lopt_a.init(jax.random.PRNGKey(0))
    return comm_lopt.learned(lopt_a, theta, local_learning_rate=0.1)


def check_three_rounds(name, bindings, *methods):
    comm_lopt.load_config([f"tasks/{name}.gin"], [*SIZES, *BATCHES, *bindings])
    problem = meta_test.meta_test_problem()
    for make in methods:
        curves = meta_test.run(problem, make(), [0])
        assert curves.train_loss.shape == (1, 1, 3)
        assert np.isfinite(curves.train_loss).all()
        # Where there are no classes there is none.
        accuracy = curves.heldout_metrics.get("accuracy", np.zeros(1))
        assert ((accuracy >= 0) & (accuracy <= 1)).all()
        if "bits_per_byte" in curves.heldout_metrics:
            bits = curves.heldout_metrics["bits_per_byte"]
            np.testing.assert_allclose(bits, curves.heldout_loss / np.log(2), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: comm_lopt.mlp((8, 0)), "hidden_sizes=0"),
        (lambda: comm_lopt.convnet(()), r"channels=\(\)"),
        (lambda: comm_lopt.convnet((0,)), "channels=0"),
        (lambda: comm_lopt.resnet(19, True), "ResNet depth '19'"),
        (lambda: comm_lopt.vit(192, 0, 3, 8), "num_layers=0"),
        (lambda: comm_lopt.vit(192, 1, 5, 8), "num_heads=5"),
        (lambda: comm_lopt.transformer(32, 1, 3), "num_heads=3"),
        (lambda: comm_lopt.gru(0), "width=0"),
        (lambda: comm_lopt.fashion_mnist_ae8((8, 0)), "hidden_sizes=0"),
    ],
)
def test_impossible_architectures_are_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()
