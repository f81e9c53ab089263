"""Step 2: a PES meta-step of the paper's problem on this chip, and where its time goes.

OUT=out experiments/gpu/02_meta_step.sh

The problem: Fashion-MNIST's sizes at 28x28, MLP 128-128, K 8, H 4, B 128, 8 tasks, truncations of
50 rounds, LOptA. The floor is the time of its matrix products alone, at the rate that a large
product has here.
"""

from __future__ import annotations

import collections
import gzip
import json
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import meta_step
import timing
from kernel import matmul_rate

import comm_lopt

TINY = os.environ.get("SIZE") == "tiny"
OUT = pathlib.Path(os.environ["OUT"])
NAME = os.environ.get("NAME", "meta_step")
RULES = os.environ.get("RULES", "LOptA,LOptR,LOptA_plain").split(",")
TASKS, ROUNDS, REPETITIONS = (1, 2, 1) if TINY else (8, 50, 5)
KERNELS_SHOWN = 25

# Multiplications and additions of the three products of each layer, forwards and backwards, for
# one example; the first layer has no gradient of its input.
LAYERS = ((784, 128), (128, 128), (128, 10))
FLOPS_PER_EXAMPLE = 6 * sum(a * b for a, b in LAYERS) - 2 * LAYERS[0][0] * LAYERS[0][1]


def flops() -> int:
    """Of all matrix products of the local steps in a meta-step."""
    examples = meta_step.BATCH * meta_step.WORKERS * meta_step.STEPS
    return FLOPS_PER_EXAMPLE * examples * ROUNDS * TASKS * 2


def kernels(function: Any) -> dict[str, Any]:
    """What ran on the device in one call: seconds and launches, in all and by kernel."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(function())
        (path,) = pathlib.Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    devices = {
        e["pid"]
        for e in events
        if e.get("name") == "process_name" and "/device:" in e["args"].get("name", "")
    }
    streams = {
        (e["pid"], e["tid"])
        for e in events
        if e.get("name") == "thread_name" and "Stream" in e["args"].get("name", "")
    }
    total: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0.0])
    spans = []
    for e in events:
        if e.get("ph") == "X" and e["pid"] in devices and (e["pid"], e["tid"]) in streams:
            total[e["name"]][0] += e["dur"] / 1e6
            total[e["name"]][1] += 1
            spans.append((e["ts"], e["ts"] + e["dur"]))
    longest = sorted(total.items(), key=lambda item: -item[1][0])[:KERNELS_SHOWN]
    return {
        "busy_seconds": sum(seconds for seconds, _ in total.values()),
        "launches": int(sum(number for _, number in total.values())),
        "span_seconds": (max(e for _, e in spans) - min(b for b, _ in spans)) / 1e6 if spans else 0,
        "longest": {n: {"seconds": s, "launches": int(c)} for n, (s, c) in longest},
    }


def main() -> None:
    everything = meta_step.images(1000 if TINY else 60_000)
    family = meta_step.family(everything, False, meta_step.WORKERS, meta_step.STEPS)
    rules = {
        "LOptA": comm_lopt.LOptA(),
        "LOptR": comm_lopt.LOptR(),
        "LOptA_plain": comm_lopt.LOptA(implementation="plain"),
    }
    rules = {name: rules[name] for name in RULES}
    size = 64 if TINY else 8192
    figures: dict[str, Any] = {
        "flops": flops(),
        "floor_seconds": {p: flops() / matmul_rate(p, size) for p in ("default", "highest")},
        "flags": os.environ.get("XLA_FLAGS", ""),
        "seconds_to_first_meta_step": {},
    }
    functions = {"local_rounds": meta_step.local_rounds(family, TASKS, ROUNDS)}
    for name, rule in rules.items():
        stepper = meta_step.meta_stepper(family, rule, True, TASKS, ROUNDS)
        functions[name], figures["seconds_to_first_meta_step"][name] = stepper
        print(name, figures["seconds_to_first_meta_step"], flush=True)
        seconds = timing.interleaved(functions, REPETITIONS)
        figures["seconds"] = {name: timing.median(times) for name, times in seconds.items()}
        figures[f"profile_of_{name}"] = kernels(functions[name])
        write(figures)
    figures["profile_of_local_rounds"] = kernels(functions["local_rounds"])
    write(figures)
    print(table(figures))


def write(figures: Mapping[str, Any]) -> None:
    """What came out so far, into its file."""
    (OUT / f"{NAME}.json").write_text(timing.as_json(figures), encoding="utf-8")


def table(figures: Mapping[str, Any]) -> str:
    """What came out, in short."""
    lines = [f"{name}: {1e3 * s:.1f} ms" for name, s in figures["seconds"].items()]
    lines += [f"floor, {p}: {1e3 * s:.1f} ms" for p, s in figures["floor_seconds"].items()]
    for name in figures["seconds"]:
        profile = figures[f"profile_of_{name}"]
        lines.append(
            f"{name}: {1e3 * profile['busy_seconds']:.1f} ms busy in a span of "
            f"{1e3 * profile['span_seconds']:.1f} ms, {profile['launches']} kernels; the longest:"
        )
        for kernel, found in [*profile["longest"].items()][:12]:
            lines.append(f"  {1e3 * found['seconds']:8.2f} ms {found['launches']:6} {kernel[:90]}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
