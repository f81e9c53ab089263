"""Which worker sees which examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_data import labelled_examples, numbered_examples, text_windows
from small_tasks import host_datasets

from comm_lopt.data.feeding.device import DeviceDatasets
from comm_lopt.data.feeding.examples import LabelledExamples
from comm_lopt.data.feeding.partition import DirichletParts, IIDParts, dirichlet_parts
from comm_lopt.data.feeding.rounds import round_datasets
from comm_lopt.data.feeding.streams import StreamDatasets

both_homes = pytest.mark.parametrize("kind", [DeviceDatasets, StreamDatasets])
LABELS = np.random.default_rng(0).choice(5, 400, p=[0.4, 0.3, 0.15, 0.1, 0.05])


def examples_with_numbers(num_train=400):
    """Labelled examples whose training images are their positions."""
    splits = labelled_examples((num_train, 4, 3, 5), num_classes=5).splits
    splits = {
        name: {**arrays, "image": np.arange(len(arrays["label"]), dtype=np.int32)}
        for name, arrays in splits.items()
    }
    splits["train"]["label"] = LABELS[:num_train].astype(np.int32)
    return LabelledExamples(splits)


def numbers_of(datasets, batch):
    """The positions in the training split of what a batch [...] holds."""
    return batch if isinstance(datasets, DeviceDatasets) else batch["image"]


def indices_of(datasets, partition, num_workers):
    return [source.indices for source in partition(datasets, num_workers)]


@pytest.mark.parametrize(("size", "num_workers"), [(40, 4), (41, 4), (43, 7), (40, 1)])
def test_iid_parts_are_disjoint_complete_and_equal_up_to_one(size, num_workers):
    datasets = DeviceDatasets(labelled_examples((size, 4, 3, 5)), batch_size=4)
    parts = indices_of(datasets, IIDParts(), num_workers)
    assert len(parts) == num_workers
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(size))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("kind", [IIDParts, lambda seed: DirichletParts(1.0, seed)])
def test_parts_are_a_function_of_the_seed_of_the_division_alone(kind):
    def parts(seed, order_seed=0):
        datasets = DeviceDatasets(examples_with_numbers(), batch_size=4, seed=order_seed)
        return [part.tolist() for part in indices_of(datasets, kind(seed=seed), 4)]

    assert parts(1) == parts(1, order_seed=9)
    assert parts(1) != parts(2)


@pytest.mark.parametrize("alpha", [0.01, 0.3, 1.0, 100.0])
@pytest.mark.parametrize("num_workers", [1, 2, 8])
def test_dirichlet_parts_are_disjoint_and_complete(alpha, num_workers):
    parts = dirichlet_parts(LABELS, num_workers, alpha, seed=3)
    assert len(parts) == num_workers
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(LABELS)))
    for part in parts:
        np.testing.assert_array_equal(part, np.sort(part))


@pytest.mark.parametrize("alpha", [0.1, 1.0, 30.0])
def test_labels_are_divided_in_the_proportions_drawn(alpha):
    num_workers, seed = 4, 3
    generator = np.random.default_rng([seed, num_workers])
    expected = [[] for _ in range(num_workers)]
    for label in range(5):
        order = generator.permutation([i for i in range(len(LABELS)) if LABELS[i] == label])
        shares = generator.dirichlet([alpha] * num_workers)
        given, start = 0.0, 0
        for k in range(num_workers):
            given += shares[k]
            stop = len(order) if k == num_workers - 1 else round(given * len(order))
            assert abs((stop - start) - shares[k] * len(order)) <= 1
            expected[k] += list(order[start:stop])
            start = stop
    parts = dirichlet_parts(LABELS, num_workers, alpha, seed)
    assert [part.tolist() for part in parts] == [sorted(part) for part in expected]


def skew(parts):
    """Mean distance (total variation) of the workers' label frequencies from everyone's."""
    everyone = np.bincount(LABELS, minlength=5) / len(LABELS)
    workers = [np.bincount(LABELS[part], minlength=5) / len(part) for part in parts if len(part)]
    return np.mean([np.abs(worker - everyone).sum() / 2 for worker in workers])


def test_the_smaller_alpha_the_more_are_labels_skewed():
    def mean_skew(alpha):
        return np.mean([skew(dirichlet_parts(LABELS, 4, alpha, seed)) for seed in range(20)])

    skews = [mean_skew(alpha) for alpha in (0.05, 0.5, 5.0, 500.0)]
    assert skews[0] > 0.45
    assert skews[0] > 1.3 * skews[1] > 1.3**2 * skews[2] > 1.3**3 * skews[3]
    assert skews[3] < 0.05


def test_dirichlet_part_smaller_than_a_batch_is_an_error_that_names_alpha_and_k():
    datasets = DeviceDatasets(examples_with_numbers(), batch_size=32)
    sizes = [len(part) for part in dirichlet_parts(datasets.array_of("train", "label"), 8, 0.5, 0)]
    assert 0 < min(sizes) < 32
    with pytest.raises(ValueError, match="alpha=0.5 and K = 8 workers .* batch of 32") as told:
        DirichletParts(0.5)(datasets, 8)
    assert str(sizes) in str(told.value)


def test_iid_part_smaller_than_a_batch_is_an_error_that_names_k():
    datasets = DeviceDatasets(labelled_examples(), batch_size=4)
    with pytest.raises(
        ValueError, match=r"12 training examples among K = 5 workers: .* 3 examples"
    ):
        IIDParts()(datasets, 5)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf"), float("nan")])
def test_alpha_that_is_not_positive_and_finite_is_an_error(alpha):
    with pytest.raises(ValueError, match=f"alpha={alpha} lies outside"):
        DirichletParts(alpha)


@both_homes
def test_data_without_labels_cannot_be_divided_by_label(kind):
    for examples in (text_windows(), numbered_examples()):
        with pytest.raises(ValueError, match="this data has none; use IIDParts"):
            DirichletParts()(kind(examples, batch_size=4), 2)


def test_data_of_others_cannot_be_divided():
    with pytest.raises(TypeError, match=r"IIDParts\(seed=0\) of Datasets: .* leave partition out"):
        round_datasets(host_datasets(lambda split, i: np.zeros(3)), 2, 3, IIDParts())


@both_homes
@pytest.mark.parametrize("partition", [IIDParts(), DirichletParts(1.0)])
def test_over_many_rounds_each_worker_sees_its_own_part_and_all_of_it(kind, partition):
    datasets = kind(examples_with_numbers(), batch_size=4)
    parts = indices_of(DeviceDatasets(examples_with_numbers(), 4), partition, 4)
    rounds = round_datasets(datasets, 4, 10, partition)
    drawn = [numbers_of(datasets, next(rounds.train)) for _ in range(40)]
    assert drawn[0].shape == (4, 10, 4)
    for k in range(4):
        np.testing.assert_array_equal(np.unique([batch[k] for batch in drawn]), parts[k])
    assert rounds.train.part_sizes() == [len(part) for part in parts]


@both_homes
def test_each_round_goes_on_where_the_worker_was(kind):
    datasets = kind(examples_with_numbers(), batch_size=4)
    rounds = round_datasets(datasets, 3, 2, IIDParts())
    sources = IIDParts()(datasets, 3)
    for _ in range(4):
        batch = next(rounds.train)
        for k in range(3):
            for h in range(2):
                own = jax.tree.map(lambda leaf, k=k, h=h: leaf[k, h], batch)
                jax.tree.map(np.testing.assert_array_equal, own, next(sources[k]))


@both_homes
def test_held_out_splits_are_not_divided(kind):
    datasets = kind(examples_with_numbers(), batch_size=2)
    divided, whole = (round_datasets(datasets, 4, 2, p) for p in (IIDParts(), None))
    for name in ("inner_valid", "outer_valid", "test"):
        jax.tree.map(
            np.testing.assert_array_equal,
            divided.split(name).round(3),
            whole.split(name).round(3),
        )
        assert divided.split(name).part_sizes() is None


def test_without_a_partition_all_workers_draw_from_everything():
    datasets = DeviceDatasets(examples_with_numbers(), batch_size=4)
    rounds = round_datasets(datasets, 4, 10)
    drawn = np.stack([next(rounds.train) for _ in range(200)])
    for k in range(4):
        np.testing.assert_array_equal(np.unique(drawn[:, k]), np.arange(400))
    assert rounds.train.part_sizes() is None


@both_homes
def test_workers_of_a_text_have_stretches_of_it_one_after_another(kind):
    windows = text_windows((64, 20, 15, 30), length=4)
    windows.splits["train"]["text"][:] = np.arange(64)
    datasets = kind(windows, batch_size=8)
    rounds = round_datasets(datasets, 3, 5, IIDParts())
    starts = [[], [], []]
    for _ in range(40):
        batch = next(rounds.train)
        for k in range(3):
            own = batch[k] if kind is DeviceDatasets else batch["text"][k, ..., 0]
            starts[k] += list(np.ravel(own))
    assert [sorted(set(own)) for own in starts] == [
        list(range(0, 20)),
        list(range(20, 40)),
        list(range(40, 60)),
    ]
    assert rounds.train.part_sizes() == [20, 20, 20]


@pytest.mark.parametrize("kind", [np.int64, np.asarray, jnp.asarray])
def test_numbers_of_every_library_make_the_same_partition(kind):
    """Results tell a partition by its text."""
    assert repr(IIDParts(kind(3))) == repr(IIDParts(3))
    assert repr(DirichletParts(np.float64(0.5), kind(3))) == repr(DirichletParts(0.5, 3))


@pytest.mark.parametrize("make", [IIDParts, lambda seed: DirichletParts(seed=seed)])
def test_seeds_that_are_none_are_refused_at_once(make):
    with pytest.raises(ValueError, match="seed=-1 lies outside"):
        make(-1)
    with pytest.raises(TypeError):
        make(0.5)
