"""A small prepared data set, and ways to damage one."""

import numpy as np

from comm_lopt.data.sources.prepared import read_prepared, writing_prepared

RNG = np.random.default_rng(0)
TRAIN = {
    "image": RNG.integers(0, 256, (11, 3, 3, 1)).astype(np.uint8),
    "label": RNG.integers(0, 5, 11).astype(np.int32),
}
TEST = {key: array[:4] for key, array in TRAIN.items()}
OTHER = {key: array[::-1] for key, array in TRAIN.items()}


def batches_of(arrays, cuts=(3, 4)):
    pieces = {key: np.split(array, cuts) for key, array in arrays.items()}
    for i in range(len(cuts) + 1):
        yield {key: piece[i] for key, piece in pieces.items()}


def write(folder, train=TRAIN, info=None):
    with writing_prepared(folder) as writer:
        assert writer.write("train", batches_of(train)) == len(train["label"])
        assert writer.write("test", iter([TEST])) == 4
        writer.finish(info or {"tfds": "made_up:1.0.0"})


def assert_holds(folder, train=TRAIN):
    arrays, _ = read_prepared(folder)
    assert {name: set(split) for name, split in arrays.items()} == {
        "train": set(TRAIN),
        "test": set(TEST),
    }
    for expected, split in ((train, "train"), (TEST, "test")):
        for key, array in expected.items():
            assert arrays[split][key].dtype == array.dtype
            np.testing.assert_array_equal(arrays[split][key], array)


def damage_values(folder):
    path = folder / "train.image.npy"
    path.write_bytes(path.read_bytes()[:-1])


def damage_header(folder):
    (folder / "dataset.json").write_text("{", encoding="utf-8")


def remove_file(folder):
    (folder / "test.label.npy").unlink()
