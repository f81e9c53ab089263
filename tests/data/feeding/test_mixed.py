"""Several data sets side by side, one of which each task uses."""

import jax
import numpy as np
import pytest
from small_data import labelled_examples
from small_tasks import assert_trees_equal

from comm_lopt.data.feeding.device import DeviceDatasets
from comm_lopt.data.feeding.examples import SPLITS
from comm_lopt.data.feeding.mixed import MixedDatasets
from comm_lopt.data.feeding.partition import DirichletParts, IIDParts
from comm_lopt.data.feeding.rounds import RoundIterator, round_datasets

LARGEST = (255, 16, 100)


def member(number=0, sizes=(12, 4, 3, 5), shape=(2, 2, 1), num_classes=3, batch_size=4):
    """The member of this number: its own images, and its own largest grey value."""
    examples = labelled_examples(sizes, shape, num_classes, seed=number)
    info = {"num_classes": num_classes, "largest_value": LARGEST[number]}
    return DeviceDatasets(examples, batch_size, seed=number, extra_info=info)


def three_members():
    return [member(0), member(1, sizes=(9, 2, 6, 7)), member(2, sizes=(11, 4, 3, 6))]


def mixed():
    return MixedDatasets(three_members())


@pytest.mark.parametrize("split", SPLITS)
def test_each_row_of_a_batch_is_a_batch_of_its_member(split):
    datasets = mixed()
    plain = three_members()
    for _ in range(4):
        batch = next(datasets.split(split))
        for d in range(3):
            expected = next(plain[d].split(split))[: batch.shape[1]]
            np.testing.assert_array_equal(batch[d], expected)


def test_examples_are_the_members_own_with_images_between_0_and_1():
    datasets = mixed()
    batch = next(datasets.train)
    gather = jax.jit(datasets.gather)
    for d, one in enumerate(datasets.members):
        found = gather(batch, d)
        images = np.concatenate([one.array_of(name, "image") for name in SPLITS])[batch[d]]
        labels = np.concatenate([one.array_of(name, "label") for name in SPLITS])[batch[d]]
        assert found["image"].dtype == np.float32
        np.testing.assert_allclose(found["image"], images / LARGEST[d], rtol=1e-6)
        np.testing.assert_array_equal(found["label"], labels)


def test_tasks_under_vmap_each_use_their_own_member():
    datasets = mixed()
    batch = next(datasets.train)
    members = np.asarray([2, 0, 1, 2], np.int32)
    found = jax.jit(jax.vmap(datasets.gather, (None, 0)))(batch, members)
    one_by_one = [jax.jit(datasets.gather)(batch, d) for d in members]
    assert_trees_equal(found, jax.tree.map(lambda *leaves: np.stack(leaves), *one_by_one))


def test_without_a_member_it_is_the_first():
    datasets = mixed()
    batch = next(datasets.train)
    assert_trees_equal(datasets.gather(batch), datasets.gather(batch, 0))


@pytest.mark.parametrize(("limit", "count"), [(None, 5), (4, 4), (9, 5)])
def test_heldout_rows_show_of_each_member_as_many_as_the_smallest_has_each_once(limit, count):
    datasets = mixed()
    stacks = datasets.heldout("test", 2, limit)
    assert [stack.shape for stack in stacks] == [(2, 3, 2), (1, 3, 1)][: 1 + count % 2]
    assert [datasets.size_of(stack) for stack in stacks] == [2, 1][: 1 + count % 2]
    for d, one in enumerate(datasets.members):
        shown = np.concatenate([stack[:, d].ravel() for stack in stacks])
        assert len(set(shown.tolist())) == len(shown) == count
        assert set(shown) <= set(one.indices_of("test"))


def test_heldout_of_a_larger_member_is_a_random_part_that_its_seed_decides():
    large = MixedDatasets([member(0), member(1, sizes=(12, 4, 3, 500))])
    one, same, other = (large.heldout("test", 5, None, seed)[0][0, 1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    # Not those that come first in the file.
    assert max(one) > large.members[1].indices_of("test")[4]


def test_heldout_batch_is_no_larger_than_the_smallest_split():
    (batches,) = mixed().heldout("inner_valid", 100, None)
    assert batches.shape == (1, 3, 2)


def test_digest_is_that_of_all_members():
    assert mixed().digest == mixed().digest
    assert mixed().digest != MixedDatasets(three_members()[:2]).digest


def test_abstract_batch_and_information_are_those_of_the_whole():
    datasets = mixed()
    assert datasets.abstract_batch == jax.ShapeDtypeStruct((3, 4), np.dtype(np.int32))
    assert datasets.abstract_examples()["image"].shape == (4, 2, 2, 1)
    assert datasets.extra_info["num_classes"] == 3
    assert datasets.extra_info["largest_value"] == 1


def test_rounds_of_all_members_can_be_asked_for_by_number_and_reseeded():
    rounds = RoundIterator(mixed().train, 2, 3)
    expected = [next(rounds) for _ in range(4)]
    assert expected[0].shape == (2, 3, 3, 4)
    np.testing.assert_array_equal(rounds.round(2), expected[2])
    other = next(rounds.reseeded(7))
    for d in range(3):
        assert not np.array_equal(other[:, :, d], expected[0][:, :, d])


def test_iid_parts_divide_each_member():
    datasets = MixedDatasets([member(0), member(1)])
    rounds = round_datasets(datasets, 2, 3, IIDParts())
    drawn = np.stack([next(rounds.train) for _ in range(30)])
    for d in range(2):
        one, other = (set(drawn[:, k, :, d].ravel()) for k in range(2))
        assert not one & other
        assert one | other == set(range(12))
    assert rounds.train.part_sizes() == [6, 6]


def test_members_cannot_be_divided_by_label():
    with pytest.raises(TypeError, match="cannot draw from a list of positions; .* IIDParts"):
        DirichletParts(100.0)(MixedDatasets([member(0), member(1)]), 2)


@pytest.mark.parametrize(
    "members",
    [
        lambda: [],
        lambda: [member(0), member(1, shape=(4, 4, 1))],
        lambda: [member(0), member(1, num_classes=4)],
        lambda: [member(0), member(1, batch_size=3)],
    ],
    ids=["none", "other size", "other classes", "other batch size"],
)
def test_members_that_do_not_fit_together_are_an_error(members):
    with pytest.raises(ValueError, match=r"\(batch of images, classes\) .* all with the same"):
        MixedDatasets(members())
