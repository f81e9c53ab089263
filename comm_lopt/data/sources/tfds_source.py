"""Brings data sets of TensorFlow Datasets into comm_lopt's folders, and Fashion-MNIST into TFDS.

The only module of comm_lopt that needs TensorFlow, and only when one of its functions is called.
"""

from __future__ import annotations

import contextlib
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from comm_lopt.data.sources.folder import DataError, data_folder
from comm_lopt.data.sources.idx import read_idx_images, require_idx_files
from comm_lopt.data.sources.prepared import exclusive, writing_prepared
from comm_lopt.data.sources.prepared_source import PreparedSource
from comm_lopt.data.sources.registry import PREPARED
from comm_lopt.upstream import keep_tensorflow_off_accelerators

__all__ = ["fashion_mnist_to_tfds", "import_tfds", "prepare_from_tfds"]

_BATCH = 1024

Progress = Callable[[str, int], None]


def import_tfds() -> Any:
    """Returns the module `tensorflow_datasets`, with TensorFlow kept off the accelerator.

    Raises:
      ImportError: the extra is not installed; says how.
    """
    try:
        import tensorflow  # noqa: F401
        import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{error.name} is not installed and TensorFlow Datasets needs it; run "
            'pip install "comm-lopt[tfds]".',
            name=error.name,
        ) from error
    keep_tensorflow_off_accelerators()
    return tfds


def prepare_from_tfds(
    name: str, tfds_dir: str | None = None, progress: Progress | None = None
) -> pathlib.Path:
    """Writes a data set of TFDS into `$COMM_LOPT_DATA/<name>`, downloading it if need be.

    Args:
      name: a name of `PREPARED`.
      tfds_dir: TFDS's folder of data sets; its own default if None.
      progress: called with the split and the number of rows written so far.

    Returns:
      The folder.

    Raises:
      ImportError: the extra [tfds] is not installed.
      DataError: TFDS's files are damaged or incomplete, or cannot be fetched.
      FileExistsError: it is there already, or another process is preparing it.
    """
    tfds = import_tfds()
    source = PREPARED[name]
    folder = data_folder() / name
    with writing_prepared(folder) as writer, _as_data_errors(tfds, source):
        builder = tfds.builder(source.tfds_name, data_dir=tfds_dir)
        builder.download_and_prepare()
        for split in ("train", source.test_split):
            writer.write(split, _counted(_batches(tfds, builder, source, split), split, progress))
        writer.finish({"tfds": source.tfds_name})
    return folder


def fashion_mnist_to_tfds(from_dir: str, tfds_dir: str | None = None) -> pathlib.Path:
    """Makes TFDS's `fashion_mnist/3.0.1` out of the four IDX files, offline.

    Upstream's own tasks then find it. The order of the examples is that of TFDS's own builder,
    since TFDS shuffles by the examples' keys, and those are the same.

    Args:
      from_dir: folder of the IDX files.
      tfds_dir: TFDS's folder of data sets; its own default if None.

    Returns:
      The folder of the TFDS data set.

    Raises:
      ImportError: the extra [tfds] is not installed.
      FileNotFoundError: an IDX file is missing.
      DataError: a file is damaged, or is not Fashion-MNIST.
      FileExistsError: TFDS has the data set already, or another process is preparing it.
    """
    tfds = import_tfds()
    source = PREPARED["fashion_mnist"]
    files = require_idx_files(from_dir)
    images = {
        split: read_idx_images(*pair, source.num_classes, source.image_shape)
        for split, pair in files.items()
    }
    name, version = source.tfds_name.split(":")
    base = pathlib.Path(tfds_dir or tfds.core.constants.DATA_DIR).expanduser() / name
    if (base / version).exists():
        raise FileExistsError(
            f"{base / version} is there already; remove it to make it anew, or use it as it is."
        )
    with exclusive(base):
        for interrupted in base.glob(f"incomplete.*_{version}"):
            shutil.rmtree(interrupted)
        builder = tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version=version,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=source.image_shape),
                    "label": tfds.features.ClassLabel(num_classes=source.num_classes),
                }
            ),
            split_datasets={
                split: [
                    (key, {"image": image, "label": int(label)})
                    for key, (image, label) in enumerate(zip(s.images, s.labels, strict=True))
                ]
                for split, s in images.items()
            },
            data_dir=tfds_dir,
            description=f"{source.summary}, made from IDX files by comm_lopt.",
        )
    return pathlib.Path(builder.data_path)


@contextlib.contextmanager
def _as_data_errors(tfds: Any, source: PreparedSource) -> Iterator[None]:
    """Raises `DataError` for the errors of TensorFlow and TFDS, which are of no built-in kind.

    TensorFlow raises one as well when the files hold fewer examples than TFDS counted.
    """
    import tensorflow

    download = tfds.download
    errors = (
        tensorflow.errors.OpError,
        download.DownloadError,
        download.download_manager.NonMatchingChecksumError,
    )
    try:
        yield
    except errors as error:
        what = str(error).rpartition("}} ")[2].partition(" [Op:")[0].rstrip(".")
        raise DataError(
            f"TFDS's {source.tfds_name} cannot be fetched or read: {what}; remove it from TFDS's "
            "folder and prepare it anew."
        ) from error


def _batches(
    tfds: Any, builder: Any, source: PreparedSource, split: str
) -> Iterator[dict[str, np.ndarray]]:
    # One file after another, so that the order is that of TFDS's slices such as train[80%:].
    config = tfds.ReadConfig(interleave_cycle_length=1)
    dataset = builder.as_dataset(split=split, shuffle_files=False, read_config=config)
    for batch in tfds.as_numpy(dataset.batch(_BATCH)):
        if source.image_shape is None:
            text = b"".join(sentence + b"\n" for sentence in batch["text"])
            yield {"text": np.frombuffer(text, np.uint8)}
        else:
            yield {"image": batch["image"], "label": batch["label"].astype(np.int32)}


def _counted(
    batches: Iterator[dict[str, np.ndarray]], split: str, progress: Progress | None
) -> Iterator[dict[str, np.ndarray]]:
    rows = 0
    for batch in batches:
        yield batch
        rows += len(next(iter(batch.values())))
        if progress is not None:
            progress(split, rows)
