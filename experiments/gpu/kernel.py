"""Step 1: the learned update on this chip: is it right, how fast is it, how near to the floor.

OUT=out experiments/gpu/01_kernel.sh

Right: against float64 on the CPU, tensors of rank 0 to 5, plain and by the kernel, and mapped over
theta. Fast: upstream's optimizer, Adam and a copy of the bytes beside it. The floor is the time in
which a copy moves what an update must read and write once.
"""

from __future__ import annotations

import functools
import logging
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import timing
from learned_optimization.learned_optimizers.adafac_mlp_lopt import AdafacMLPLOpt
from learned_update import Shapes, count, random_tree, resnet50
from reference import ReferenceRule

import comm_lopt
from comm_lopt.optimizers.learned import fused_kernel
from comm_lopt.optimizers.learned.ada_features import AdaFeatures
from comm_lopt.optimizers.learned.implementations import kernel_works
from comm_lopt.round_state import RoundState

K = 8
TINY = os.environ.get("SIZE") == "tiny"
OUT = pathlib.Path(os.environ["OUT"])
REPETITIONS = 1 if TINY else 9
SECONDS = float(os.environ.get("SECONDS_AT_MOST", 200))

RULES: Mapping[str, Callable[..., Any]] = {
    "LOpt": comm_lopt.LOpt,
    "LOptA": comm_lopt.LOptA,
    "LAggA": functools.partial(comm_lopt.LAggA, num_workers=K),
    # What steers γ is no part of the update that is timed.
    "LOptR": functools.partial(comm_lopt.LOptR, steering=False),
}
SHAPES = [(6, 4)]
if not TINY:
    SHAPES += [(), (5,), (1000,), (2, 3, 4), (70, 33), (3, 3, 16, 24), (48, 640), (2, 3, 4, 2, 5)]
ROUNDS = 3
IMPLEMENTATIONS = ("plain", "kernel")
# Arrays of the size of the weights that an update reads and writes at least once: weights, Δ and
# the accumulators; of LAggA the workers' deltas too.
MUST_MOVE = {"LOptA": 11, "LAggA": 11 + K, "LOptR": 11, "adam": 7}


def transformer(width: int = 1024, layers: int = 24, vocabulary: int = 50257) -> Shapes:
    """GPT-2 medium's shapes, the layers stacked as where a scan runs over them."""
    return {
        "tokens": (vocabulary, width), "positions": (1024, width),
        "attention_in": (layers, width, 3 * width), "attention_out": (layers, width, width),
        "up": (layers, width, 4 * width), "down": (layers, 4 * width, width),
        "scales": (layers, 2, width), "offsets": (layers, 2, width),
        "attention_bias": (layers, 3 * width), "up_bias": (layers, 4 * width),
    }  # fmt: skip


def update_of(learned_opt: Any, theta: Any) -> Callable[..., Any]:
    """(state, mean Δ, worker deltas) → state, by upstream's interface."""

    def update(state: Any, delta: Any, workers: Any) -> Any:
        seen = None if workers is None else RoundState(None, workers)
        return learned_opt.opt_fn(theta).update(state, delta, loss=jnp.float32(0), model_state=seen)

    return update


def random_theta(learned_opt: Any, seed: int) -> Any:
    """An initial theta with biases, as meta-training leaves them."""
    theta = learned_opt.init(jax.random.PRNGKey(seed))
    rng = np.random.default_rng(seed)
    mlp = {
        name: jnp.asarray(w + 0.1 * rng.normal(size=w.shape), jnp.float32)
        for name, w in theta["mlp"].items()
    }
    return {**theta, "mlp": mlp}


def correctness() -> list[dict[str, Any]]:
    """Largest difference to float64 after three rounds, over the largest step: for each shape."""
    found = []
    rng = np.random.default_rng()
    for name, rule in [*RULES.items()][: 1 if TINY else None]:
        # Small, so that rounding of the weights is small beside a step.
        params = {str(s): (0.01 * rng.normal(size=s)).astype(np.float32) for s in SHAPES}
        rounds = [
            {
                n: (0.1 * rng.normal(size=(K, *p.shape))).astype(np.float32)
                for n, p in params.items()
            }
            for _ in range(ROUNDS)
        ]
        stacked_rounds = jax.tree.map(lambda *r: jnp.stack(r), *rounds)
        thetas = [random_theta(rule(), seed) for seed in range(2)]
        expected = [by_reference(name, theta, params, rounds) for theta in thetas]
        for implementation in IMPLEMENTATIONS:
            learned_opt = rule(implementation=implementation)

            def train(theta: Any, params: Any, rounds: Any, learned_opt: Any = learned_opt) -> Any:
                state = learned_opt.opt_fn(theta).init(params, num_steps=ROUNDS)
                update = update_of(learned_opt, theta)

                def one_round(state: Any, workers: Any) -> Any:
                    mean = jax.tree.map(lambda delta: delta.mean(0), workers)
                    return update(state, mean, workers), None

                state, _ = jax.lax.scan(one_round, state, rounds)
                return learned_opt.opt_fn(theta).get_params(state)

            with jax.default_matmul_precision("highest"):
                alone = jax.jit(train)(thetas[0], params, stacked_rounds)
                stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *thetas)
                mapped = jax.jit(jax.vmap(train, (0, None, None)))(stacked, params, stacked_rounds)
            for shape in params:
                old = params[shape].astype(np.float64)
                ways = {
                    "alone": (alone[shape][None], expected[:1]),
                    "mapped": (mapped[shape], expected),
                }
                for way, (new, wanted) in ways.items():
                    exact = np.stack([w[shape] for w in wanted])
                    largest = np.max(np.abs(exact - old))
                    error = np.max(np.abs(np.asarray(new, np.float64) - exact)) / largest
                    found.append(
                        {"rule": name, "implementation": implementation, "way": way,
                         "shape": shape, "error": float(error)}
                    )  # fmt: skip
    return found


def by_reference(name: str, theta: Any, params: Any, rounds: Any) -> dict[str, np.ndarray]:
    """The tensors after the rounds, in float64."""
    new = {}
    for shape, param in params.items():
        rule = ReferenceRule(name != "LOpt", name == "LOptR", name == "LAggA", theta["mlp"])
        value = param.astype(np.float64)
        for workers in rounds:
            value = value + rule.step(value, workers[shape])
        new[shape] = value
    return new


def copy_rate(megabytes: float) -> float:
    """Bytes a second, read and written, of a copy on the device."""
    array = jax.random.normal(jax.random.PRNGKey(0), (int(megabytes * 1e6 / 4),))
    copied = jax.jit(lambda x: x + 1.0).lower(array).compile()
    seconds = timing.interleaved({"copy": lambda: copied(array)}, max(REPETITIONS, 3))["copy"]
    return 2 * 4 * array.size / timing.median(seconds)


def matmul_rate(precision: str, size: int) -> float:
    """Floating-point operations a second of a float32 matrix product."""
    a, b = (jax.random.normal(jax.random.PRNGKey(i), (size, size)) for i in range(2))
    product = jax.jit(functools.partial(jnp.dot, precision=precision)).lower(a, b).compile()
    seconds = timing.interleaved({"product": lambda: product(a, b)}, REPETITIONS)["product"]
    return 2 * size**3 / timing.median(seconds)


def contestants() -> dict[str, Any]:
    """By name, what makes the update that is timed; the more that is asked, the later."""
    everything = {
        "adam": optax.adam(1e-3),
        "LOptA kernel": comm_lopt.LOptA(implementation="kernel"),
        "LOptR kernel": comm_lopt.LOptR(implementation="kernel", steering=False),
        "upstream": AdafacMLPLOpt(hidden_size=32),
        "LOptA plain": comm_lopt.LOptA(implementation="plain"),
        "LOptR plain": comm_lopt.LOptR(implementation="plain", steering=False),
        "LAggA kernel": comm_lopt.LAggA(num_workers=K, implementation="kernel"),
    }
    return {name: everything[name] for name in ("adam", "upstream")} if TINY else everything


def timed(shapes: Shapes, maker: Any) -> dict[str, Any]:
    """Seconds of one update of a tree, and what it needs beside arguments and results."""
    delta, params = random_tree(shapes, 1), random_tree(shapes, 3)
    if isinstance(maker, optax.GradientTransformation):
        state = (params, maker.init(params))
        workers = None

        def update(state: Any, delta: Any, workers: Any) -> Any:
            del workers
            params, inner = state
            steps, inner = maker.update(delta, inner, params)
            return optax.apply_updates(params, steps), inner

    else:
        workers = random_tree(shapes, 2, (K,)) if getattr(maker, "num_workers", None) else None
        theta = maker.init(jax.random.PRNGKey(0))
        state = jax.jit(lambda p: maker.opt_fn(theta).init(p, num_steps=10))(params)
        update = update_of(maker, theta)
    del params
    begin = time.perf_counter()
    compiled = jax.jit(update, donate_argnums=0).lower(state, delta, workers).compile()
    compile_seconds = time.perf_counter() - begin
    # The state is donated, as in a training loop.
    held = [state]
    del state

    def run() -> Any:
        held[0] = compiled(held[0], delta, workers)
        return jax.block_until_ready(held[0])

    seconds = timing.interleaved({"update": run}, REPETITIONS)["update"]
    return {
        "seconds": timing.median(seconds),
        "temporary_megabytes": compiled.memory_analysis().temp_size_in_bytes / 1e6,
        "compile_seconds": compile_seconds,
    }


def kernel_variants(shapes: Shapes) -> dict[str, Any]:
    """LOptA's and LOptR's kernels with other blocks, warps and products, to choose by."""
    found: dict[str, Any] = {}
    settings: list[tuple[Any, int, int]] = [
        (precision, block, warps)
        for precision in (fused_kernel._PRECISION, jax.lax.Precision.DEFAULT)
        for block, warps in ((128, 4), (64, 2), (64, 4), (128, 8), (256, 8))
    ]
    settings.append((jax.lax.Precision.HIGHEST, 128, 4))
    names = ("_PRECISION", "_MLP_BLOCK", "_WARPS")
    before = [getattr(fused_kernel, name) for name in names]
    try:
        for setting in settings[: 0 if TINY else None]:
            for name, value in zip(names, setting, strict=True):
                setattr(fused_kernel, name, value)
            for rule in ("LOptA", "LOptR"):
                told = attempt(shapes, contestants()[f"{rule} kernel"])
                precision, block, warps = setting
                found[f"{rule}, {precision.name}, block {block}, {warps} warps"] = told
    finally:
        for name, value in zip(names, before, strict=True):
            setattr(fused_kernel, name, value)
    return found


def parts(shape: tuple[int, int]) -> dict[str, float]:
    """Seconds of what comes before the step, for one matrix: the accumulators, the mean squares."""
    features = AdaFeatures()
    param, delta = random_tree({"param": shape, "delta": shape}, 0).values()
    theta, accumulators = features.init_theta(), features.init(param)
    update = jax.jit(features.update).lower(theta, accumulators, delta).compile()

    def squares(accumulators: Any, param: jax.Array, delta: jax.Array) -> jax.Array:
        found = features.parts(accumulators, param, delta, delta[None])
        return fused_kernel.fused_mean_squares(found, jax.default_backend() == "cpu")

    compiled = jax.jit(squares).lower(accumulators, param, delta).compile()
    functions = {
        "accumulators": lambda: update(theta, accumulators, delta),
        "mean_squares": lambda: compiled(accumulators, param, delta),
    }
    seconds = timing.interleaved(functions, REPETITIONS)
    return {name: timing.median(times) for name, times in seconds.items()}


def attempt(shapes: Shapes, maker: Any) -> dict[str, Any]:
    """`timed`, or what went wrong."""
    try:
        return timed(shapes, maker)
    except Exception as error:  # An update that the chip cannot do leaves the others.
        return {"error": f"{type(error).__name__}: {str(error)[:2000]}"}


def main() -> None:
    begin = time.monotonic()
    logging.basicConfig(level=logging.WARNING)
    big = 1 if TINY else 8000
    figures: dict[str, Any] = {
        "copy_bytes_per_second": copy_rate(big),
        "matmul_flops": {p: matmul_rate(p, 64 if TINY else 8192) for p in ("default", "highest")},
        "kernel_works": kernel_works(),
    }

    def write() -> None:
        (OUT / "kernel.json").write_text(timing.as_json(figures), encoding="utf-8")

    trees = {
        "transformer": {"w": (9, 7)} if TINY else transformer(),
        "resnet50": {"b": (5,)} if TINY else resnet50(),
    }
    figures["sizes"] = {name: count(shapes) for name, shapes in trees.items()}
    figures["updates"] = {name: {} for name in trees}

    def enough_time() -> bool:
        return time.monotonic() - begin < SECONDS

    def time_all(tree: str) -> None:
        for contestant, maker in contestants().items():
            if enough_time():
                figures["updates"][tree][contestant] = attempt(trees[tree], maker)
                print(tree, contestant, figures["updates"][tree][contestant], flush=True)
                write()

    one = {"w": (20, 33)} if TINY else {"w": (8192, 8192)}
    figures["one_matrix"] = count(one)
    time_all("transformer")
    figures["parts"] = parts(one["w"])
    if enough_time():
        figures["variants"] = kernel_variants(one)
        write()
    if enough_time():
        figures["correctness"] = correctness()
    write()
    time_all("resnet50")
    write()
    print(table(figures))


def table(figures: Mapping[str, Any]) -> str:
    """What came out, in short."""
    lines = [
        f"copy {figures['copy_bytes_per_second'] / 1e12:.2f} TB/s; float32 products "
        + ", ".join(f"{p} {r / 1e12:.0f} TFLOP/s" for p, r in figures["matmul_flops"].items())
        + f"; the kernel works: {figures['kernel_works']}"
    ]
    for rule in RULES:
        for implementation in IMPLEMENTATIONS:
            errors = [
                e["error"] for e in figures.get("correctness", ())
                if (e["rule"], e["implementation"]) == (rule, implementation)
            ]  # fmt: skip
            if errors:
                worst = np.max(np.asarray(errors))  # Not a number where one is.
                lines.append(
                    f"{rule} {implementation}: {worst:.1e} of the largest step from float64"
                )
    for tree, updates in figures["updates"].items():
        for name, found in updates.items():
            lines.append(f"{tree}, {name}: {told(figures, tree, name, found)}")
    for name, seconds in figures.get("parts", {}).items():
        lines.append(f"one matrix, {name}: {1e3 * seconds:.2f} ms")
    for name, found in figures.get("variants", {}).items():
        lines.append(
            f"{name}: {found.get('error', '')[:100]} {1e3 * found.get('seconds', 0):.2f} ms"
        )
    return "\n".join(lines)


def told(figures: Mapping[str, Any], tree: str, name: str, found: Mapping[str, Any]) -> str:
    """One update's line."""
    if "error" in found:
        return str(found["error"])[:200]
    parts = [f"{1e3 * found['seconds']:.3f} ms", f"compiled in {found['compile_seconds']:.0f} s"]
    moved = MUST_MOVE.get(name.split()[0])
    if moved:
        rate = 4 * moved * figures["sizes"][tree] / found["seconds"]
        parts.append(f"{rate / figures['copy_bytes_per_second']:.2f} of the copy's rate")
    upstreams = figures["updates"][tree].get("upstream", {}).get("seconds")
    if upstreams:
        parts.append(f"{upstreams / found['seconds']:.1f}x upstream")
    return ", ".join(parts)


if __name__ == "__main__":
    main()
