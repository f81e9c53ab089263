"""What one learned update costs, against upstream's `AdafacMLPLOpt`.

python experiments/benchmarks/learned_update.py --out learned_update.json

Two problems: 8 Fashion-MNIST MLPs 784-128-128-10 with a theta each, as in PES; and a tree shaped
like ResNet-50 (25.5 million parameters). Times are ratios within one run; temporaries are what
XLA allots beside arguments and results.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import timing
from learned_optimization.learned_optimizers.adafac_mlp_lopt import AdafacMLPLOpt

import comm_lopt
from comm_lopt.round_state import RoundState

MLP = {"w0": (784, 128), "b0": (128,), "w1": (128, 128), "b1": (128,), "w2": (128, 10), "b2": (10,)}
NUM_THETAS = 8
WORKERS = 8

Shapes = dict[str, tuple[int, ...]]


def resnet50(divide_channels_by: int = 1) -> Shapes:
    """The shapes of ResNet-50's parameters."""

    def conv(name: str, size: int, inputs: int, outputs: int) -> Shapes:
        return {
            name: (size, size, inputs, outputs),
            f"{name}_scale": (outputs,),
            f"{name}_offset": (outputs,),
        }

    base = 64 // divide_channels_by
    shapes = conv("first", 7, 3, base)
    inputs = base
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner, outputs = base * 2**stage, 4 * base * 2**stage
        for block in range(blocks):
            name = f"{stage}_{block}"
            shapes |= conv(f"{name}_a", 1, inputs, inner)
            shapes |= conv(f"{name}_b", 3, inner, inner)
            shapes |= conv(f"{name}_c", 1, inner, outputs)
            if block == 0:
                shapes |= conv(f"{name}_skip", 1, inputs, outputs)
            inputs = outputs
    return shapes | {"w": (inputs, 1000), "b": (1000,)}


def random_tree(shapes: Shapes, seed: int, leading: Sequence[int] = ()) -> dict[str, jax.Array]:
    key = jax.random.PRNGKey(seed)
    return {n: 0.1 * jax.random.normal(key, (*leading, *s)) for n, s in shapes.items()}


def count(shapes: Shapes) -> int:
    return sum(
        leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda: random_tree(shapes, 0)))
    )


def updater(
    learned_opt: Any, shapes: Shapes, num_thetas: int | None
) -> tuple[Callable[[], Any], dict[str, float]]:
    """A compiled update, and what it needs beside arguments and results.

    With `num_thetas` it is mapped over as many thetas, parameters and gradients.
    """
    leading = () if num_thetas is None else (num_thetas,)
    workers = getattr(learned_opt, "num_workers", None)
    gradients = random_tree(shapes, 1, leading)
    deltas = None if workers is None else random_tree(shapes, 2, (*leading, workers))

    def init(key: jax.Array, params: Any) -> Any:
        theta = learned_opt.init(key)
        return theta, learned_opt.opt_fn(theta).init(params, num_steps=10)

    def update(theta: Any, state: Any, gradient: Any, deltas: Any) -> Any:
        model_state = None if deltas is None else RoundState(None, deltas)
        return learned_opt.opt_fn(theta).update(
            state, gradient, loss=jnp.float32(0), model_state=model_state
        )

    key = jax.random.PRNGKey(0)
    if num_thetas is not None:
        init, update = jax.vmap(init), jax.vmap(update)
        key = jax.random.split(key, num_thetas)
    theta, state = jax.jit(init)(key, random_tree(shapes, 3, leading))
    compiled = jax.jit(update).lower(theta, state, gradients, deltas).compile()
    memory = compiled.memory_analysis()
    number = count(shapes) * (num_thetas or 1)
    return lambda: compiled(theta, state, gradients, deltas), {
        "temporary_floats_per_parameter": memory.temp_size_in_bytes / 4 / number,
        "megabytes_of_temporaries": memory.temp_size_in_bytes / 1e6,
    }


def compare(
    shapes: Shapes,
    num_thetas: int | None,
    repetitions: int,
    names: Sequence[str] = ("LOptA", "LAggA", "LOptR", "LOptA_plain"),
) -> dict[str, Any]:
    """Each learned optimizer against upstream's on a tree of these shapes."""
    optimizers = {
        "upstream": AdafacMLPLOpt(hidden_size=32),
        "LOptA": comm_lopt.LOptA(),
        "LAggA": comm_lopt.LAggA(num_workers=WORKERS),
        "LOptR": comm_lopt.LOptR(),
        "LOptA_plain": comm_lopt.LOptA(implementation="plain"),
    }
    functions, figures = {}, {}
    for name in ("upstream", *names):
        functions[name], figures[name] = updater(optimizers[name], shapes, num_thetas)
    seconds = timing.interleaved(functions, repetitions)
    number = count(shapes) * (num_thetas or 1)
    for name in figures:
        figures[name] |= {
            "times_faster_than_upstream": timing.median_ratio(seconds["upstream"], seconds[name]),
            "nanoseconds_per_parameter": 1e9 * timing.median(seconds[name]) / number,
            "upstreams_temporaries_over_these": figures["upstream"]["megabytes_of_temporaries"]
            / max(figures[name]["megabytes_of_temporaries"], 1e-6),
        }
    return {"parameters": number, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", help="file for the figures, as JSON")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument(
        "--divide_channels_by", type=int, default=1, help="a smaller ResNet-50, for a quick look"
    )
    arguments = parser.parse_args()
    figures = {
        "fashion_mnist_mlp_of_8_thetas": compare(MLP, NUM_THETAS, arguments.repetitions),
        "resnet50": compare(resnet50(arguments.divide_channels_by), None, arguments.repetitions),
    }
    timing.write(arguments.out, figures)


if __name__ == "__main__":
    main()
