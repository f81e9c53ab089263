"""Small made-up data sets in the places and formats of the real ones."""

import numpy as np
from small_tasks import write_fashion_mnist

from comm_lopt.data.feeding.examples import SPLITS, LabelledExamples, TextWindows
from comm_lopt.data.sources.prepared import writing_prepared
from comm_lopt.data.sources.registry import PREPARED


def write_data_folder(folder, num_train=170, num_test=10):
    """Fills a folder for COMM_LOPT_DATA with every data set that is read from there."""
    (folder / "fashion_mnist").mkdir()
    write_fashion_mnist(folder / "fashion_mnist", num_train=1500, num_test=500)
    for name in PREPARED:
        if name != "fashion_mnist":
            write_prepared(folder / name, name, num_train, num_test)


def write_prepared(folder, name, num_train, num_test):
    """Writes a made-up prepared data set; returns its arrays by split."""
    source = PREPARED[name]
    rng = np.random.default_rng(0)
    written = {}
    with writing_prepared(folder) as writer:
        for split, size in (("train", num_train), (source.test_split, num_test)):
            if source.image_shape is None:
                arrays = {"text": rng.integers(32, 127, 50 * size).astype(np.uint8)}
            else:
                shape = (size, *source.image_shape)
                arrays = {
                    "image": rng.integers(0, 256, shape).astype(np.uint8),
                    "label": rng.integers(0, source.num_classes, size).astype(np.int32),
                }
            cuts = {key: np.array_split(array, 3) for key, array in arrays.items()}
            writer.write(split, ({key: cut[i] for key, cut in cuts.items()} for i in range(3)))
            written[split] = arrays
        writer.finish({"tfds": source.tfds_name})
    return written


def labelled_examples(sizes=(12, 4, 3, 5), shape=(2, 2, 1), num_classes=3, seed=0):
    """Random images of the shape and random labels; `sizes` are those of `SPLITS`."""
    rng = np.random.default_rng(seed)
    return LabelledExamples(
        {
            name: {
                "image": rng.integers(0, 256, (size, *shape)).astype(np.uint8),
                "label": rng.integers(0, num_classes, size).astype(np.int32),
            }
            for name, size in zip(SPLITS, sizes, strict=True)
        }
    )


def numbered_examples(sizes=(12, 4, 3, 5)):
    """Examples {"number": [N]} that count on from split to split, so that each is known."""
    ends = np.cumsum(sizes)
    return LabelledExamples(
        {
            name: {"number": np.arange(end - size, end, dtype=np.int32)}
            for name, size, end in zip(SPLITS, sizes, ends, strict=True)
        }
    )


def text_windows(sizes=(60, 20, 15, 30), length=4, seed=0):
    """Windows of random bytes; `sizes` are those of `SPLITS`."""
    rng = np.random.default_rng(seed)
    texts = {
        name: rng.integers(0, 256, size).astype(np.uint8)
        for name, size in zip(SPLITS, sizes, strict=True)
    }
    return TextWindows(texts, length)


def damaged(content, cuts=40, flips=200):
    """A file's content truncated at many positions, and with a byte changed at many others."""
    for stop in np.linspace(0, len(content), cuts, endpoint=False).astype(int):
        yield content[:stop]
    rng = np.random.default_rng(0)
    for position in rng.choice(len(content), min(flips, len(content)), replace=False):
        changed = bytearray(content)
        changed[position] ^= int(rng.integers(1, 256))
        yield bytes(changed)


def unfinished_counterpart(folder):
    """Where a prepared data set is written before it is whole."""
    return folder.with_name(f".{folder.name}.unfinished")
