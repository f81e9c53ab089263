"""What one meta-step costs, against upstream's way of doing it and against its local rounds alone.

python experiments/benchmarks/meta_step.py --out meta_step.json

The problem: MLP 784-128-128-10 on 60,000 images of 28x28, K = 8, H = 4, B = 128, PES on 2 tasks
with truncations of 10 rounds, so that a meta-step has 40 rounds. Upstream's way is the same
wrapped family with upstream's `AdafacMLPLOpt`, float images made on the host, and upstream's
defaults otherwise. Times are ratios within one run; compiling is timed apart.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timing
from learned_optimization.learned_optimizers.adafac_mlp_lopt import AdafacMLPLOpt

import comm_lopt
from comm_lopt import upstream
from comm_lopt.data.sources.images import LabelledImages, image_datasets
from comm_lopt.data.sources.splits import percent_splits
from comm_lopt.tasks.image_classification import image_family
from comm_lopt.upstream import Datasets

WORKERS, STEPS, BATCH, TASKS, ROUNDS = 8, 4, 128, 2, 10
NETWORK = comm_lopt.mlp((128, 128))
PERCENTS = {"train": (0, 80), "inner_valid": (80, 85), "outer_valid": (85, 90), "test": (90, 100)}


def images(count: int = 60_000) -> LabelledImages:
    rng = np.random.default_rng(0)
    return LabelledImages(
        rng.integers(0, 256, (count, 28, 28, 1), dtype=np.uint8),
        rng.integers(0, 10, count).astype(np.int32),
    )


class FloatImages(comm_lopt.ImageClassificationTask):
    """The same network on batches of float images that the host has made."""

    def examples(self, data: Any) -> dict[str, jax.Array]:
        return data

    def inputs_and_targets(self, examples: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return examples["image"], examples["label"]

    def with_batches(self, batches: Datasets) -> FloatImages:
        """The same task, fed from `batches`; its first weights are made as before."""
        indexed = comm_lopt.ImageClassificationTask(self.datasets, NETWORK, "indices")
        self.datasets, self.init_with_state = batches, indexed.init_with_state
        return self


def float_batches(everything: LabelledImages) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    while True:
        rows = rng.integers(0, len(everything.labels), BATCH)
        image = everything.images[rows].astype(np.float32) / np.float32(255)
        yield {"image": image, "label": everything.labels[rows]}


def datasets_of(everything: LabelledImages) -> comm_lopt.ExampleDatasets:
    parts = percent_splits(len(everything.labels), PERCENTS)
    return image_datasets({n: everything[part] for n, part in parts.items()}, 10, BATCH, seed=0)


def indexed_family(everything: LabelledImages) -> upstream.TaskFamily:
    """The network on indices of images that are on the device, not yet wrapped."""
    return image_family("indices", datasets_of(everything), NETWORK)


def host_fed_family(everything: LabelledImages) -> upstream.TaskFamily:
    """The same network on batches of float images from the host."""
    batch = next(float_batches(everything))
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    streams = [float_batches(everything) for _ in range(4)]
    batches = Datasets(*streams, extra_info={"num_classes": 10}, abstract_batch=abstract)
    task = FloatImages(datasets_of(everything), NETWORK, "floats").with_batches(batches)
    return upstream.single_task_to_family(task)


def family(everything: LabelledImages, host_floats: bool, workers: int, steps: int) -> Any:
    inner = host_fed_family(everything) if host_floats else indexed_family(everything)
    return comm_lopt.LocalSGDTaskFamily(inner, workers, steps, comm_lopt.local_sgd(0.5))


def meta_stepper(
    task_family: Any, learned_opt: Any, stacked: bool, tasks: int = TASKS, rounds: int = ROUNDS
) -> tuple[Callable[[], Any], float]:
    """A function that takes one meta-step, and the seconds until the first one was done.

    Args:
      task_family: a wrapped family.
      learned_opt: what is meta-trained.
      stacked: whether antithetic samples are computed side by side.
      tasks: number of tasks.
      rounds: in a truncation, all in one program.
    """
    begin = time.perf_counter()
    schedule = upstream.LogUniformLengthSchedule(min_length=100, max_length=1000)
    estimator = upstream.pes(
        task_family, learned_opt, schedule, num_tasks=tasks, trunc_length=rounds,
        steps_per_jit=rounds, random_initial_iteration_offset=1000,
        stack_antithetic_samples=stacked,
    )  # fmt: skip
    learner = upstream.make_gradient_learner(learned_opt, upstream.Adam(1e-3), num_steps=1000)
    state = {"learner": learner.init(jax.random.PRNGKey(0)), "key": jax.random.PRNGKey(1)}
    weights = learner.get_state_for_worker(state["learner"])
    state["unroll"] = [estimator.init_worker_state(weights, jax.random.PRNGKey(2))]

    def step() -> Any:
        state["key"], gradient_key, update_key = jax.random.split(state["key"], 3)
        out = upstream.gradient_worker_compute(
            learner.get_state_for_worker(state["learner"]),
            [estimator],
            state["unroll"],
            gradient_key,
            with_metrics=False,
        )
        state["unroll"] = out.unroll_states
        state["learner"], _ = learner.update(state["learner"], [out.to_put], key=update_key)
        return out.to_put.mean_loss

    jax.block_until_ready(step())
    return step, time.perf_counter() - begin


def local_rounds(
    task_family: Any, tasks: int = TASKS, num_rounds: int = ROUNDS
) -> Callable[[], Any]:
    """The local rounds of a meta-step alone: those of 2 signs × `tasks`, by Local SGD."""
    task = task_family.task_fn(task_family.sample(jax.random.PRNGKey(0)))
    count = 2 * tasks

    def train(params: Any, key: jax.Array, batches: Any) -> Any:
        def one_round(params: Any, inputs: Any) -> Any:
            loss, delta = jax.value_and_grad(task.loss)(params, *inputs)
            return jax.tree.map(jnp.subtract, params, delta), loss

        return jax.lax.scan(one_round, params, (jax.random.split(key, num_rounds), batches))

    params = jax.vmap(task.init)(jax.random.split(jax.random.PRNGKey(0), count))
    compiled = jax.jit(jax.vmap(train, in_axes=(0, 0, 1)))
    keys = jax.random.split(jax.random.PRNGKey(1), count)

    def rounds() -> Any:
        batches = [
            [next(task_family.datasets.train) for _ in range(count)] for _ in range(num_rounds)
        ]
        return compiled(params, keys, np.asarray(batches))

    return rounds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="file for the figures, as JSON")
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    everything = images()
    ours = family(everything, False, WORKERS, STEPS)
    functions, first = {}, {}
    functions["ours"], first["ours"] = meta_stepper(ours, comm_lopt.LOptA(), stacked=True)
    functions["ours_not_stacked"], first["ours_not_stacked"] = meta_stepper(
        ours, comm_lopt.LOptA(), stacked=False
    )
    functions["upstreams_way"], first["upstreams_way"] = meta_stepper(
        family(everything, True, WORKERS, STEPS), AdafacMLPLOpt(hidden_size=32), stacked=False
    )
    _, first["ours_at_H_32"] = meta_stepper(
        family(everything, False, WORKERS, 32), comm_lopt.LOptA(), stacked=True
    )
    functions["local_rounds"] = local_rounds(ours)
    seconds = timing.interleaved(functions, arguments.repetitions)
    workers = {
        f"K={k}": meta_stepper(family(everything, False, k, STEPS), comm_lopt.LOptA(), True)[0]
        for k in (8, 64)
    }
    more = timing.interleaved(workers, max(3, arguments.repetitions // 2))
    timing.write(
        arguments.out,
        {
            "times_faster_than_upstreams_way": timing.median_ratio(
                seconds["upstreams_way"], seconds["ours"]
            ),
            "over_local_rounds_alone": timing.median_ratio(
                seconds["ours"], seconds["local_rounds"]
            ),
            "stacked_over_not_stacked": timing.median_ratio(
                seconds["ours"], seconds["ours_not_stacked"]
            ),
            "seconds_to_first_meta_step": first,
            "first_step_at_H_32_over_H_4": first["ours_at_H_32"] / first["ours"],
            "cost_of_K_64_over_8_times_K_8": timing.median_ratio(more["K=64"], more["K=8"]) / 8,
            "seconds_per_meta_step": {k: timing.median(v) for k, v in seconds.items()},
        },
    )


if __name__ == "__main__":
    main()
