"""Data on the device: batches are indices, and tasks gather the examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_data import labelled_examples, numbered_examples, text_windows
from small_tasks import assert_trees_equal

from comm_lopt.data.feeding.device import DeviceDatasets
from comm_lopt.data.feeding.examples import SPLITS, LabelledExamples, TextWindows
from comm_lopt.data.feeding.partition import IIDParts
from comm_lopt.data.feeding.rounds import round_datasets

SHAPES = [(2, 2, 1), (3, 3, 1), (2, 2, 3), (1, 3, 2), (5,), (8,), ()]


def all_rows(examples, key):
    return np.concatenate([examples.splits[name][key] for name in SPLITS])


def bytes_on_device(datasets):
    return sum(rows._array.nbytes for rows in datasets._rows.values())


@pytest.mark.parametrize("shape", SHAPES)
def test_gather_is_indexing_whether_rows_fill_words_or_not(shape):
    examples = labelled_examples(shape=shape)
    datasets = DeviceDatasets(examples, batch_size=4)
    batch = np.asarray([13, 0, 23, 13, 11, 12], np.int32)
    gathered = jax.jit(datasets.gather)(batch)
    assert gathered["image"].dtype == np.uint8
    assert gathered["label"].dtype == np.int32
    expected = {key: all_rows(examples, key)[batch] for key in ("image", "label")}
    assert_trees_equal(gathered, expected)


@pytest.mark.parametrize("shape", [(2, 2, 1), (3, 3, 1)])
def test_gather_under_vmap_and_jit_is_indexing(shape):
    examples = labelled_examples(shape=shape)
    datasets = DeviceDatasets(examples, batch_size=4)
    batches = np.random.default_rng(0).integers(0, 24, (3, 2, 4)).astype(np.int32)
    gathered = jax.jit(jax.vmap(jax.vmap(datasets.gather)))(batches)
    expected = {key: all_rows(examples, key)[batches] for key in ("image", "label")}
    assert_trees_equal(gathered, expected)


def test_tasks_side_by_side_do_not_copy_the_data():
    rows = np.random.default_rng(0).integers(0, 256, (5000, 8, 8, 1), dtype=np.uint8)
    labels = np.zeros(5000, np.int32)
    splits = {name: {"image": rows, "label": labels} for name in SPLITS}
    datasets = DeviceDatasets(LabelledExamples(splits), batch_size=4)

    def no_images(batch):
        return jnp.zeros((*batch.shape, 8, 8, 1), jnp.uint8)

    @jax.vmap
    def step_or_reset(is_done, batch):  # As upstream's meta-step does for each of its tasks.
        return jax.lax.cond(is_done, no_images, lambda b: datasets.gather(b)["image"], batch)

    batches = np.arange(12, dtype=np.int32).reshape(3, 4)
    program = str(jax.make_jaxpr(step_or_reset)(np.asarray([False, True, False]), batches))
    assert "[3,20000," not in program  # Three tasks, and the rows of all four splits.


def test_every_byte_survives_being_kept_in_words():
    everything = np.arange(256, dtype=np.uint8).reshape(16, 16)
    splits = {name: {"row": everything} for name in SPLITS}
    datasets = DeviceDatasets(LabelledExamples(splits), batch_size=4)
    np.testing.assert_array_equal(datasets.gather(np.arange(16))["row"], everything)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint32, np.int8, np.bool_])
def test_other_types_come_back_as_they_were(dtype):
    values = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)
    with np.errstate(invalid="ignore"):
        values = (100 * values).astype(dtype)
    datasets = DeviceDatasets(LabelledExamples({n: {"x": values} for n in SPLITS}), batch_size=4)
    rows = datasets.gather(np.arange(64))["x"]
    assert rows.dtype == dtype
    np.testing.assert_array_equal(rows, np.concatenate([values] * 4))


def test_bytes_stay_bytes_on_the_device():
    examples = labelled_examples((40, 10, 10, 10), shape=(28, 28, 1))
    assert bytes_on_device(DeviceDatasets(examples, batch_size=4)) == 70 * (28 * 28 + 4)
    odd = labelled_examples((40, 10, 10, 10), shape=(5, 5, 1))
    assert bytes_on_device(DeviceDatasets(odd, batch_size=4)) == 70 * (25 + 4)
    text = text_windows((600, 20, 15, 30))
    assert bytes_on_device(DeviceDatasets(text, batch_size=4)) == 665


def test_each_split_draws_from_its_own_examples():
    datasets = DeviceDatasets(numbered_examples((12, 4, 3, 5)), batch_size=4)
    first = 0
    for name, size in zip(SPLITS, (12, 4, 3, 5), strict=True):
        np.testing.assert_array_equal(datasets.indices_of(name), np.arange(first, first + size))
        batch = next(datasets.split(name))
        assert batch.shape == (min(4, size),)
        assert set(batch) <= set(range(first, first + size))
        first += size


def test_abstract_batch_and_examples_are_those_of_a_training_batch():
    datasets = DeviceDatasets(labelled_examples(), batch_size=4, extra_info={"num_classes": 3})
    batch = next(datasets.train)
    assert (batch.shape, batch.dtype) == ((4,), np.int32)
    assert datasets.abstract_batch == jax.ShapeDtypeStruct((4,), np.dtype(np.int32))
    assert datasets.abstract_examples() == {
        "image": jax.ShapeDtypeStruct((4, 2, 2, 1), np.dtype(np.uint8)),
        "label": jax.ShapeDtypeStruct((4,), np.dtype(np.int32)),
    }
    assert datasets.extra_info["num_classes"] == 3


def test_seed_decides_the_order():
    batches = [next(DeviceDatasets(labelled_examples(), 12, seed).train) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(batches[0], batches[1])
    assert not np.array_equal(batches[0], batches[2])


def test_windows_of_a_text_are_gathered_from_their_own_split():
    windows = text_windows(length=4)
    datasets = DeviceDatasets(windows, batch_size=6)
    before = 0
    for name in SPLITS:
        text = windows.splits[name]["text"]
        batch = next(datasets.split(name))
        gathered = datasets.gather(batch)["text"]
        expected = np.stack([text[i - before : i - before + 5] for i in batch])
        np.testing.assert_array_equal(gathered, expected)
        before += len(text)


@pytest.mark.parametrize("examples", [labelled_examples(), text_windows()])
def test_what_is_kept_for_some_workers_is_what_they_draw_and_nothing_else(examples):
    datasets, same = (DeviceDatasets(examples, 2, seed=5) for _ in range(2))
    rounds = round_datasets(datasets, 4, 3, IIDParts()).train
    own = rounds.of_workers(range(1, 3))
    on_device = [rows._array for rows in datasets._rows.values()]
    shapes = datasets.abstract_examples()
    datasets.keep_only(own.own_sources())
    for number in range(4):
        batches = own.round(number)
        kept = datasets.on_host("train", batches)
        assert_trees_equal(kept, same.on_host("train", batches))
        assert_trees_equal(datasets.gather(kept), kept)
    ((split, arrays),) = datasets.examples.splits.items()
    # Of 12 examples a half; of a text's 56 places a half, and what its last window shows besides.
    assert split == "train" and {len(array) for array in arrays.values()} <= {6, 28 + 4}
    assert all(array.is_deleted() for array in on_device)
    assert datasets.abstract_examples() == shapes
    for others in (range(1), range(3, 4)):
        with pytest.raises(IndexError, match="another process's"):
            datasets.on_host("train", rounds.of_workers(others).round(0))
    with pytest.raises(ValueError, match="were freed .* make the data sets anew"):
        datasets.gather(np.arange(2))


def test_where_all_draw_from_all_the_training_split_is_kept():
    examples = labelled_examples()
    datasets, same = (DeviceDatasets(examples, 2, seed=5) for _ in range(2))
    own = round_datasets(datasets, 4, 3).train.of_workers(range(1, 3))
    datasets.keep_only(own.own_sources())
    assert_trees_equal(datasets.on_host("train", own.round(2)), same.on_host("train", own.round(2)))
    assert set(datasets.examples.splits) == {"train"} and set(examples.splits) == set(SPLITS)


def test_array_of_a_split_is_the_one_passed():
    examples = labelled_examples()
    datasets = DeviceDatasets(examples, 4)
    labels = datasets.array_of("test", "label")
    np.testing.assert_array_equal(labels, examples.splits["test"]["label"])


@pytest.mark.parametrize(
    "ask",
    [
        lambda datasets: datasets.indices_of("outer_vald"),
        lambda datasets: datasets.array_of("outer_vald", "label"),
        lambda datasets: datasets.heldout("outer_vald", 4, None),
    ],
)
def test_unknown_split_is_an_error_with_a_suggestion(ask):
    with pytest.raises(ValueError, match="'outer_vald' is not known; did you mean 'outer_valid'"):
        ask(DeviceDatasets(labelled_examples(), 4))


@pytest.mark.parametrize(
    ("size", "largest", "shapes"),
    [
        (5, 5, [(1, 5)]),
        (5, 100, [(1, 5)]),
        (5, 2, [(2, 2), (1, 1)]),
        (5, 1, [(5, 1)]),
        (1999, 1000, [(1, 1000), (1, 999)]),
        (9999, 1000, [(9, 1000), (1, 999)]),
    ],
)
def test_heldout_shows_each_example_once(size, largest, shapes):
    datasets = DeviceDatasets(numbered_examples((12, 4, 3, size)), batch_size=4)
    stacks = datasets.heldout("test", largest, None)
    assert [stack.shape for stack in stacks] == shapes
    assert [datasets.size_of(stack) for stack in stacks] == [shape[1] for shape in shapes]
    assert all(isinstance(stack, jax.Array) and stack.dtype == np.int32 for stack in stacks)
    together = np.concatenate([stack.ravel() for stack in stacks])
    np.testing.assert_array_equal(together, datasets.indices_of("test"))


@pytest.mark.parametrize(("size", "limit"), [(100, 7), (100, 99), (100_000, 500), (30, 1)])
def test_heldout_with_a_limit_is_a_random_part_of_exactly_that_many(size, limit):
    datasets = DeviceDatasets(numbered_examples((size, 4, 3, 5)), batch_size=4)

    def shown(seed):
        stacks = datasets.heldout("train", 3, limit, seed)
        return np.concatenate([stack.ravel() for stack in stacks])

    first = shown(0)
    assert len(first) == len(set(first.tolist())) == limit
    assert set(first) <= set(range(size))
    np.testing.assert_array_equal(first, shown(0))
    default = datasets.heldout("train", 3, limit)
    np.testing.assert_array_equal(first, np.concatenate([stack.ravel() for stack in default]))
    assert any(not np.array_equal(first, shown(seed)) for seed in range(1, 9))


def test_heldout_part_of_a_sorted_split_has_each_label_in_its_proportion():
    labels = np.repeat(np.arange(10, dtype=np.int32), 2000)
    splits = {name: {"label": labels} for name in SPLITS}
    datasets = DeviceDatasets(LabelledExamples(splits), batch_size=4)
    (stack,) = datasets.heldout("test", 1000, 5000)
    counts = np.bincount(np.asarray(datasets.gather(stack)["label"]).ravel())
    # 500 of each, give or take 5 standard deviations of 18.4.
    assert counts.min() > 500 - 92
    assert counts.max() < 500 + 92


@pytest.mark.parametrize("limit", [5, 6, 100])
def test_limit_that_the_split_does_not_reach_changes_nothing(limit):
    datasets = DeviceDatasets(numbered_examples((12, 4, 3, 5)), batch_size=4)
    np.testing.assert_array_equal(datasets.heldout("test", 5, limit), [[np.arange(19, 24)]])


@pytest.mark.parametrize(("arguments", "name"), [((0, None), "largest_batch"), ((4, 0), "limit")])
def test_heldout_of_nothing_is_an_error(arguments, name):
    with pytest.raises(ValueError, match=f"{name}=0"):
        DeviceDatasets(labelled_examples(), 4).heldout("test", *arguments)


def test_heldout_of_a_text_shows_its_bytes_in_order():
    windows = text_windows((60, 20, 15, 30), length=4)
    datasets = DeviceDatasets(windows, batch_size=4)
    (batches,) = datasets.heldout("outer_valid", 100, None)
    shown = datasets.gather(batches[0])["text"]
    text = windows.splits["outer_valid"]["text"]
    np.testing.assert_array_equal(jnp.ravel(shown[:, 1:]), text[1:13])


def test_training_split_smaller_than_a_batch_is_an_error_that_says_what_fits():
    with pytest.raises(
        ValueError, match="12 examples .* batch_size=13; pass batch_size=12 or less"
    ):
        DeviceDatasets(labelled_examples(), 13)


def test_more_rows_than_an_index_can_tell_apart_are_an_error():
    # Held in no memory.
    long = np.broadcast_to(np.uint8(0), (2**31 - 100,))
    texts = {name: np.zeros(50, np.uint8) for name in SPLITS}
    with pytest.raises(ValueError, match=f"{2**31 + 50} rows .* use StreamDatasets"):
        DeviceDatasets(TextWindows({**texts, "train": long}, length=4), 4)
