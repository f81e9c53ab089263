"""Fashion-MNIST from IDX files to TFDS, from there to comm_lopt, and to upstream's own task."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from unittest import mock

import numpy as np
import pytest
import tensorflow_datasets as tfds
from small_tasks import write_fashion_mnist
from tensorflow_datasets.image_classification import mnist

import comm_lopt
from comm_lopt.cli import main
from comm_lopt.data.sources.idx import find_idx_files, read_idx_images
from comm_lopt.data.sources.prepared_source import load_images
from comm_lopt.data.sources.registry import PREPARED

SOURCE = PREPARED["fashion_mnist"]
NUM_EXAMPLES = {"train": 60_000, "test": 10_000}
SIZES = {"train": 48_000, "inner_valid": 6_000, "outer_valid": 6_000, "test": 10_000}
SLICES = {
    "train": "train[:80%]",
    "inner_valid": "train[80%:90%]",
    "outer_valid": "train[90%:]",
    "test": "test",
}


@pytest.fixture(scope="module")
def real_tfds_dir(real_fashion_mnist, tmp_path_factory):
    """TFDS's folder, with its fashion_mnist made out of the real files."""
    folder = tmp_path_factory.mktemp("tfds")
    assert main(_prepare("--from_dir", real_fashion_mnist, "--tfds_dir", folder)) == 0
    return folder


@pytest.fixture(scope="module")
def real_prepared(real_tfds_dir, tmp_path_factory):
    """A data folder, with the real fashion_mnist brought there from TFDS."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COMM_LOPT_DATA", str(folder))
        assert main(_prepare("--tfds_dir", real_tfds_dir)) == 0
    return folder


@pytest.fixture(scope="module")
def real_slices(real_tfds_dir):
    """Images and labels of each of comm_lopt's splits, by TFDS's own slicing."""
    return {name: _load(real_tfds_dir, part) for name, part in SLICES.items()}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Folders: 2,000 made-up images as IDX files, TFDS's, and an empty one for COMM_LOPT_DATA."""
    folders = [tmp_path / name for name in ("idx", "tfds", "data")]
    folders[0].mkdir()
    write_fashion_mnist(folders[0], num_train=1500, num_test=500)
    monkeypatch.setenv("COMM_LOPT_DATA", str(folders[2]))
    return folders


def _prepare(*flags):
    return ["data", "prepare", "fashion_mnist", *map(str, flags)]


def _load(tfds_dir, split):
    """Images and labels of a split or slice, as TFDS gives them."""
    config = tfds.ReadConfig(interleave_cycle_length=1)
    dataset = tfds.load(
        "fashion_mnist", split=split, data_dir=tfds_dir, download=False, read_config=config
    )
    batches = list(tfds.as_numpy(dataset.batch(2000)))
    return tuple(np.concatenate([batch[key] for batch in batches]) for key in ("image", "label"))


def _rows(images, labels):
    """The multiset of (image, label), as sorted rows [N, 785]."""
    rows = np.concatenate([images.reshape(len(images), -1), labels[:, None]], 1).astype(np.uint8)
    return np.stack(sorted(rows, key=lambda row: row.tobytes()))


def test_tfds_loads_offline_just_the_examples_of_the_files(
    real_tfds_dir, real_slices, real_fashion_mnist
):
    info = tfds.builder("fashion_mnist", data_dir=real_tfds_dir).info
    assert {name: split.num_examples for name, split in info.splits.items()} == NUM_EXAMPLES
    whole = {"train": ("train", "inner_valid", "outer_valid"), "test": ("test",)}
    for split, parts in whole.items():
        images, labels = (
            np.concatenate(arrays)
            for arrays in zip(*(real_slices[part] for part in parts), strict=True)
        )
        assert len(labels) == NUM_EXAMPLES[split]
        files = read_idx_images(*find_idx_files(real_fashion_mnist)[split])
        np.testing.assert_array_equal(_rows(images, labels), _rows(files.images, files.labels))


def test_splits_are_those_of_tfdss_slices(real_slices, real_prepared):
    splits = load_images(SOURCE, real_prepared / "fashion_mnist")
    assert set(splits) == set(SLICES)
    for name, (images, labels) in real_slices.items():
        assert len(labels) == SIZES[name]
        np.testing.assert_array_equal(splits[name].images, images)
        np.testing.assert_array_equal(splits[name].labels, labels)


def test_data_sets_read_what_was_prepared(real_prepared, monkeypatch):
    monkeypatch.setenv("COMM_LOPT_DATA", str(real_prepared))
    assert comm_lopt.find_fashion_mnist() == real_prepared / "fashion_mnist"
    datasets = comm_lopt.fashion_mnist_datasets(batch_size=5)
    assert {name: len(datasets.array_of(name, "label")) for name in SIZES} == SIZES
    batch = datasets.gather(next(datasets.train))
    assert batch["image"].shape == (5, 28, 28, 1) and batch["label"].shape == (5,)


UPSTREAMS_TASK = """
    import comm_lopt
    import jax, numpy as np
    from learned_optimization.tasks.base import single_task_to_family
    from learned_optimization.tasks.fixed.image_mlp import ImageMLP_FashionMnist8_Relu32

    def descend(task, rate, steps):
        key = jax.random.PRNGKey(0)
        params = task.init(key)
        loss_and_grad = jax.jit(jax.value_and_grad(task.loss))
        batches = [next(task.datasets.train) for _ in range(steps)]
        losses = []
        for batch in (*batches, batches[0]):
            loss, gradient = loss_and_grad(params, key, batch)
            losses.append(float(loss))
            params = jax.tree.map(lambda p, g: p - rate * g, params, gradient)
        assert np.isfinite(losses).all()
        assert losses[-1] < losses[0]

    task = ImageMLP_FashionMnist8_Relu32()
    descend(task, rate=0.1, steps=5)
    family = comm_lopt.LocalSGDTaskFamily(
        single_task_to_family(task), 2, 2, comm_lopt.local_sgd(0.1)
    )
    descend(family.task_fn(family.sample(jax.random.PRNGKey(0))), rate=1.0, steps=2)
    print("fine")
"""


def test_upstreams_own_task_trains_on_it_alone_and_wrapped_in_local_sgd(real_tfds_dir):
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(UPSTREAMS_TASK)],
        env={
            **os.environ,
            "TFDS_DATA_DIR": str(real_tfds_dir),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # So that it compiles sooner.
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("fine\n")


def test_order_is_that_of_tfdss_own_builder(small, tmp_path, monkeypatch):
    idx, ours, _ = small
    assert main(_prepare("--from_dir", idx, "--tfds_dir", ours)) == 0

    def instead_of_downloading(self, files):
        return {key: str(idx / name.removesuffix(".gz")) for key, name in files.items()}

    monkeypatch.setattr(mnist, "_TRAIN_EXAMPLES", 1500)
    monkeypatch.setattr(mnist, "_TEST_EXAMPLES", 500)
    monkeypatch.setattr(mnist.FashionMNIST, "URL", "")
    manager = tfds.download.DownloadManager
    with mock.patch.object(manager, "download_and_extract", instead_of_downloading):
        tfds.builder("fashion_mnist", data_dir=tmp_path / "own").download_and_prepare()
    for split in ("train", "test"):
        for one, other in zip(_load(ours, split), _load(tmp_path / "own", split), strict=True):
            np.testing.assert_array_equal(one, other)


def test_data_set_that_tfds_has_is_not_made_anew(small, capsys):
    idx, tfds_dir, _ = small
    assert main(_prepare("--from_dir", idx, "--tfds_dir", tfds_dir)) == 0
    assert main(_prepare("--from_dir", idx, "--tfds_dir", tfds_dir)) == 2
    told = f"{tfds_dir / 'fashion_mnist' / '3.0.1'} is there already; remove it to make it anew"
    assert told in capsys.readouterr().err


def test_missing_files_and_other_data_sets_are_refused(small, capsys):
    _, tfds_dir, data = small
    assert main(_prepare("--from_dir", tfds_dir, "--tfds_dir", tfds_dir)) == 2
    assert f"{tfds_dir} has none of train-images-idx3-ubyte," in capsys.readouterr().err
    assert main(["data", "prepare", "cifar10", "--from_dir", str(data)]) == 2
    assert "only fashion_mnist is made from IDX files" in capsys.readouterr().err
    assert not tfds_dir.exists() and not data.exists()


def _truncated(file):
    file.write_bytes(file.read_bytes()[:-30])


def _one_example_fewer(file):
    content = file.read_bytes()
    ends = [0]
    while ends[-1] < len(content):  # Length, its checksum, the example, its checksum.
        ends.append(ends[-1] + 16 + int.from_bytes(content[ends[-1] : ends[-1] + 8], "little"))
    file.write_bytes(content[: ends[-2]])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_truncated, "truncated record"),
        (_one_example_fewer, "expected to contain 1500 elements but contained only 1499"),
        (lambda file: file.unlink(), "No such file"),
    ],
)
def test_damage_in_tfdss_folder_is_told_and_nothing_is_prepared(small, damage, told, capsys):
    idx, tfds_dir, data = small
    assert main(_prepare("--from_dir", idx, "--tfds_dir", tfds_dir)) == 0
    (file,) = (tfds_dir / "fashion_mnist" / "3.0.1").glob("*-train.tfrecord-*")
    damage(file)
    assert main(_prepare("--tfds_dir", tfds_dir)) == 3
    error = capsys.readouterr().err
    assert f"TFDS's {SOURCE.tfds_name} cannot be fetched or read: " in error and told in error
    assert "remove it from TFDS's folder and prepare it anew" in error
    assert {path.name for path in data.iterdir()} == {".fashion_mnist.lock"}


def test_making_that_is_killed_leaves_nothing_readable_and_the_next_one_succeeds(small):
    idx, tfds_dir, _ = small
    write_fashion_mnist(idx, num_train=10_000, num_test=500)
    command = [sys.executable, "-m", "comm_lopt", *_prepare("--from_dir", idx)]
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*command, "--tfds_dir", str(tfds_dir)], **silent) as process:
        while not list(tfds_dir.glob("fashion_mnist/incomplete.*_3.0.1")):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert list(tfds_dir.glob("fashion_mnist/incomplete.*"))
    assert not tfds.builder("fashion_mnist", data_dir=tfds_dir).is_prepared()

    write_fashion_mnist(idx, num_train=1500, num_test=500)
    assert main(_prepare("--from_dir", idx, "--tfds_dir", tfds_dir)) == 0
    assert [path.name for path in (tfds_dir / "fashion_mnist").iterdir()] == ["3.0.1"]
    assert len(_load(tfds_dir, "train")[1]) == 1500
