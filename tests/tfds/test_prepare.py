"""Every prepared data set, made from examples that TFDS makes up, and trained on."""

import contextlib
import re
import signal
import subprocess
import sys
import textwrap

import gin
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import comm_lopt
from comm_lopt import meta_test
from comm_lopt.cli import main
from comm_lopt.data.feeding.examples import SPLITS
from comm_lopt.data.sources.prepared_source import load_images, load_texts
from comm_lopt.data.sources.registry import PREPARED, SOURCES
from comm_lopt.data.sources.tfds_source import prepare_from_tfds

NUM_EXAMPLES = 1100  # More than are read at a time.
TASK_ON = {
    "fashion_mnist": "fashion_mnist_mlp8",
    "cifar10": "cifar10_mlp",
    "cifar100": "cifar100_mlp",
    "imagenet32": "imagenet32_mlp",
    "imagenet64": "imagenet64_mlp",
    "lm1b": "lm1b_transformer16",
}
IMAGES = [name for name in PREPARED if name != "lm1b"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data folder into which `comm-lopt data prepare` has brought everything."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch, tfds.testing.mock_data(NUM_EXAMPLES):
        patch.setenv("COMM_LOPT_DATA", str(folder))
        for name in PREPARED:
            assert main(["data", "prepare", name]) == 0
    return folder


@pytest.fixture
def use_prepared(prepared, monkeypatch):
    monkeypatch.setenv("COMM_LOPT_DATA", str(prepared))


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    """An empty data folder."""
    monkeypatch.setenv("COMM_LOPT_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def empty_gin():
    yield
    gin.clear_config()


def _of_tfds(name, split):
    """What TFDS gives, example by example."""
    with tfds.testing.mock_data(NUM_EXAMPLES):
        return list(tfds.as_numpy(tfds.load(PREPARED[name].tfds_name, split=split)))


def _in_order(name):
    return sorted(PREPARED[name].percents, key=lambda split: PREPARED[name].percents[split])


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_those_of_tfds_in_its_order_each_in_one_split(name, use_prepared):
    source = PREPARED[name]
    splits = load_images(source)
    assert set(splits) == set(SPLITS)
    for split in splits.values():
        assert split.images.dtype == np.uint8 and split.images.shape[1:] == source.image_shape
        assert split.labels.dtype == np.int32
        assert split.labels.min() >= 0 and split.labels.max() < source.num_classes
        assert len(split.images) == len(split.labels)
    parts = [splits[split] for split in _in_order(name)]
    for expected, found in (("train", parts), (source.test_split, [splits["test"]])):
        examples = _of_tfds(name, expected)
        images = np.concatenate([part.images for part in found])
        np.testing.assert_array_equal(images, [example["image"] for example in examples])
        labels = np.concatenate([part.labels for part in found])
        np.testing.assert_array_equal(labels, [example["label"] for example in examples])


def test_text_is_the_sentences_of_tfds_each_ended_by_a_line_feed(use_prepared):
    texts = load_texts(PREPARED["lm1b"])
    assert set(texts) == set(SPLITS)
    assert all(text.dtype == np.uint8 for text in texts.values())
    sentences = [example["text"] for example in _of_tfds("lm1b", "train")]
    joined = b"".join(texts[split].tobytes() for split in _in_order("lm1b"))
    assert joined.split(b"\n") == [*sentences, b""]
    assert texts["train"][-1] == texts["test"][-1] == ord("\n")


def test_every_data_set_is_trained_on_below():
    assert set(TASK_ON) == set(PREPARED)


@pytest.mark.parametrize("name", PREPARED)
def test_local_sgd_trains_on_prepared_data(name, use_prepared, ordinary_promotion, empty_gin):
    bindings = ["num_rounds = 2", "num_workers = 2", "num_local_steps = 2"]
    batch = f"{SOURCES[name].configurable}.batch_size = 4"
    comm_lopt.load_config([f"tasks/{TASK_ON[name]}.gin"], [*bindings, batch])
    candidate = comm_lopt.hand_designed("LocalSGD", local_learning_rate=0.01)
    curves = meta_test.run(meta_test.meta_test_problem(), candidate, [0])
    assert curves.train_loss.shape == (1, 1, 2)
    assert not curves.diverged.any()


def test_list_says_that_prepared_data_is_here(prepared, use_prepared, capsys):
    assert main(["data"]) == 0
    printed = capsys.readouterr().out
    for name in PREPARED:
        listed = rf"^{name} .*\n.*{SOURCES[name].configurable}\n +here: {re.escape(str(prepared))}"
        assert re.search(rf"{listed}/{name}$", printed, flags=re.MULTILINE)


def test_second_prepare_is_refused_and_changes_nothing(prepared, use_prepared, capsys):
    before = {path: path.stat().st_mtime_ns for path in (prepared / "cifar10").iterdir()}
    assert main(["data", "prepare", "cifar10"]) == 2
    assert (
        f"{prepared / 'cifar10'} is there already and whole; remove it" in capsys.readouterr().err
    )
    assert before == {path: path.stat().st_mtime_ns for path in (prepared / "cifar10").iterdir()}


def test_progress_is_one_line_that_ends(data_folder, capsys):
    with tfds.testing.mock_data(NUM_EXAMPLES):
        assert main(["data", "prepare", "cifar10"]) == 0
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines(keepends=True) if "rows" in line]
    assert len("".join(lines).split("\n")) == 2
    assert lines[-1].strip() == "test: 1,100 rows" and lines[-1].endswith("\n")
    assert printed.out == f"cifar10 is in {data_folder / 'cifar10'}\n"


def test_exception_of_tfds_leaves_nothing_and_is_told(data_folder, capsys):
    def as_dataset(self, *args, **kwargs):
        def examples():
            for _ in range(NUM_EXAMPLES):
                yield {"image": np.zeros((32, 32, 3), np.uint8), "label": 1}
            raise RuntimeError("the disk is gone")

        signature = {
            "image": tf.TensorSpec((32, 32, 3), tf.uint8),
            "label": tf.TensorSpec((), tf.int64),
        }
        return tf.data.Dataset.from_generator(examples, output_signature=signature)

    with tfds.testing.mock_data(as_dataset_fn=as_dataset):
        assert main(["data", "prepare", "cifar10"]) == 3
    assert "the disk is gone" in capsys.readouterr().err
    _assert_nothing_is_there(data_folder)


def test_prepare_that_is_killed_leaves_nothing_readable_and_the_next_one_succeeds(
    data_folder, capsys
):
    script = """
        import tensorflow_datasets as tfds
        from comm_lopt.cli import main
        with tfds.testing.mock_data(num_examples=10**6):
            main(["data", "prepare", "cifar10"])
    """
    with _running([sys.executable, "-c", textwrap.dedent(script)]) as process:
        written = ""
        while "train: 2,048 rows" not in written:
            assert process.poll() is None, written
            written += process.stderr.read(100)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert (data_folder / ".cifar10.unfinished" / "train.image.npy").stat().st_size > 0

    _assert_nothing_is_readable(data_folder)
    assert main(["data"]) == 0
    assert f"not here: cifar10 is not in {data_folder}" in capsys.readouterr().out

    with tfds.testing.mock_data(20):
        prepare_from_tfds("cifar10")
    assert {path.name for path in data_folder.iterdir()} == {"cifar10", ".cifar10.lock"}
    assert len(load_images(PREPARED["cifar10"])["test"].labels) == 20


@contextlib.contextmanager
def _running(command):
    """Runs a command whose standard error can be read; it does not outlive the block."""
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _assert_nothing_is_there(folder):
    assert {path.name for path in folder.iterdir()} == {".cifar10.lock"}
    _assert_nothing_is_readable(folder)


def _assert_nothing_is_readable(folder):
    with pytest.raises(FileNotFoundError, match=f"cifar10 is not in {folder}"):
        load_images(PREPARED["cifar10"])
