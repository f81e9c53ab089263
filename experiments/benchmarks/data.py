"""What data costs: gathering images on the device, and waiting for a stream.

python experiments/benchmarks/data.py --out data.json

gather_share: gathering and normalising uint8 images (and adding two images), as a share of a local
step (MLP 784-128-128-10, B = 128).
against_ready_images: that local step's time, over one on images that are there as floats.
stream_wait_share: share of the time that training (K = 8, H = 4, B = 128, MLP 128-128-128 at
64x64, ImageNet's size) waits for a stream from files.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timing

import comm_lopt
from comm_lopt.data.sources.images import LabelledImages, image_datasets
from comm_lopt.data.sources.splits import percent_splits

WORKERS, STEPS, BATCH = 8, 4, 128


def synthetic(
    count: int, size: int, channels: int, resident: bool, folder: pathlib.Path
) -> comm_lopt.ExampleDatasets:
    """Random images in a file, divided into splits."""
    path = folder / f"images{size}.npy"
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, size, size, channels))
    rng = np.random.default_rng(0)
    for start in range(0, count, 1000):
        part = images[start : start + 1000]
        part[:] = rng.integers(0, 256, part.shape, dtype=np.uint8)
    labels = rng.integers(0, 10, count).astype(np.int32)
    everything = LabelledImages(np.load(path, mmap_mode="r"), labels)
    percents = {"train": (0, 80), "inner_valid": (80, 85), "outer_valid": (85, 90)}
    parts = percent_splits(count, {**percents, "test": (90, 100)})
    splits = {name: everything[part] for name, part in parts.items()}
    return image_datasets(splits, 10, BATCH, seed=0, resident=resident)


class ReadyImages(comm_lopt.ImageClassificationTask):
    """The same task on float images that are there already."""

    def examples(self, data: Any) -> dict[str, jax.Array]:
        return data

    def inputs_and_targets(self, examples: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return examples["image"], examples["label"]


def gather_share(folder: pathlib.Path, repetitions: int) -> dict[str, Any]:
    """Local steps of K workers on indices, against the same on ready images."""
    datasets = synthetic(70_000, 28, 1, True, folder)
    network = comm_lopt.mlp((128, 128))
    task = comm_lopt.ImageClassificationTask(datasets, network, "gathered")
    ready = ReadyImages(datasets, network, "ready")
    indices = datasets.train.take(WORKERS * STEPS).reshape(WORKERS, STEPS, BATCH)
    examples = jax.jit(jax.vmap(jax.vmap(task.examples)))(indices)
    images = {"image": examples["image"] / jnp.float32(255), "label": examples["label"]}
    params = task.init(jax.random.PRNGKey(0))

    def rounds(task: Any, batches: Any) -> Any:
        @jax.jit
        def run(batches: Any) -> Any:
            # Many rounds in one program, so that calling it costs nothing in comparison.
            def one(params: Any, _: None) -> Any:
                out = comm_lopt.local_round(
                    task, params, None, jax.random.PRNGKey(0), batches,
                    comm_lopt.local_sgd(0.1), WORKERS, STEPS,
                )  # fmt: skip
                return jax.tree.map(jnp.subtract, params, out.delta), out.losses.mean()

            return jax.lax.scan(one, params, None, length=5)

        return lambda: run(batches)

    def gathered_images(batch: jax.Array) -> jax.Array:
        return task.inputs_and_targets(task.examples(batch))[0]

    @jax.jit
    def only_gather(batches: jax.Array) -> jax.Array:
        # Adding to the images before makes sure that all are made, and counts against them.
        def one_step(before: jax.Array, step_batches: jax.Array) -> Any:
            return 0.5 * before + jax.vmap(gathered_images)(step_batches), None

        steps = jnp.concatenate([batches.swapaxes(0, 1)] * 5)
        return jax.lax.scan(one_step, images["image"][:, 0], steps)[0]

    seconds = timing.interleaved(
        {
            "gathered": rounds(task, indices),
            "ready": rounds(ready, images),
            "only_gather": lambda: only_gather(indices),
        },
        repetitions,
    )
    return {
        "gather_share": timing.median_ratio(seconds["only_gather"], seconds["gathered"]),
        "against_ready_images": timing.median_ratio(seconds["gathered"], seconds["ready"]),
        "seconds_per_local_step": timing.median(seconds["gathered"]) / (5 * STEPS * WORKERS),
        "device_megabytes_of_images": 70_000 * 28 * 28 / 1e6,
    }


def stream_wait_share(folder: pathlib.Path, num_rounds: int) -> dict[str, Any]:
    """Rounds on a stream: how long training waits for batches."""
    datasets = synthetic(20_000, 64, 3, False, folder)
    network = comm_lopt.mlp((128, 128, 128))
    task = comm_lopt.ImageClassificationTask(datasets, network, "streamed")
    family = comm_lopt.LocalSGDTaskFamily(
        comm_lopt.upstream.single_task_to_family(task), WORKERS, STEPS
    )
    rounds = family.datasets.train

    @jax.jit
    def step(params: Any, batches: Any) -> Any:
        out = comm_lopt.local_round(
            task, params, None, jax.random.PRNGKey(0), batches,
            comm_lopt.local_sgd(0.1), WORKERS, STEPS,
        )  # fmt: skip
        return jax.tree.map(jnp.subtract, params, out.delta)

    params = step(task.init(jax.random.PRNGKey(0)), next(rounds))
    waited, begin = 0.0, time.perf_counter()
    for _ in range(num_rounds):
        before = time.perf_counter()
        batches = next(rounds)
        waited += time.perf_counter() - before
        params = jax.block_until_ready(step(params, batches))
    total = time.perf_counter() - begin
    megabytes = num_rounds * WORKERS * STEPS * BATCH * 64 * 64 * 3 / 1e6
    begin = time.perf_counter()
    for number in range(num_rounds):
        rounds.round(number)
    reading = time.perf_counter() - begin
    return {
        "stream_wait_share": waited / total,
        "stream_megabytes_per_second_used": megabytes / total,
        "stream_megabytes_per_second_read_alone": megabytes / reading,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="file for the figures, as JSON")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--num_rounds", type=int, default=40)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        figures = {
            **gather_share(folder, arguments.repetitions),
            **stream_wait_share(folder, arguments.num_rounds),
        }
    timing.write(arguments.out, figures)


if __name__ == "__main__":
    main()
