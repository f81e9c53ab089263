"""Rounds and whole runs on meshes: the same numbers on four devices, or an error that says why."""

import os
import subprocess
import sys

PROGRAM = """
import contextlib
import warnings
import jax, numpy as np
import comm_lopt
from comm_lopt.meta_test import Problem, run
from comm_lopt.tasks.local_round import WORKER_AXIS, local_round

assert jax.device_count() == 4
family = comm_lopt.digits_mlp(datasets=comm_lopt.digits_datasets(batch_size=8))
task = family.sample_task(jax.random.PRNGKey(0))
params = task.init(jax.random.PRNGKey(1))

def batches_of(num_workers):
    return family.datasets.train.batches(0, num_workers * 3).reshape(num_workers, 3, 8)

def one_round(params, batches):
    return local_round(
        task, params, None, jax.random.PRNGKey(2), batches, comm_lopt.local_sgd(0.5),
        len(batches), 3, worker_squares=True,
    )

batches = batches_of(8)
plain = jax.jit(one_round)(params, batches)
assert len(plain.losses.sharding.device_set) == 1
for kind in (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit):
    mesh = jax.make_mesh((4,), (WORKER_AXIS,), (kind,))
    with jax.set_mesh(mesh):
        sharded = jax.jit(one_round)(params, batches)
    for leaf in jax.tree.leaves(sharded.worker_deltas):
        assert leaf.sharding.spec[0] == WORKER_AXIS, leaf.sharding
    for leaf in jax.tree.leaves((sharded.delta, sharded.worker_squares)):
        assert leaf.sharding.is_fully_replicated, leaf.sharding
    for one, other in zip(jax.tree.leaves(sharded), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    print("same on four devices", kind)

def compiled(mesh=None):
    with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
        return jax.jit(one_round).lower(params, batches).compile()

auto = jax.make_mesh((4,), (WORKER_AXIS,), (jax.sharding.AxisType.Auto,))
# Of one device.
programs = [compiled(mesh) for mesh in (auto, None)]
operations = [program.cost_analysis()["flops"] for program in programs]
assert operations[0] < 0.4 * operations[1], operations
# Means and squares are summed where they are; nobody receives another's deltas.
text = programs[0].as_text()
assert "all-reduce" in text and "all-gather" not in text

problem = Problem(family, 4, 1, 2)
method = comm_lopt.hand_designed("SlowMo", local_learning_rate=0.5)
alone = run(problem, method, (3,), evaluations="end")
with jax.set_mesh(auto):
    together = run(problem, method, (3,), evaluations="end")
for name in ("train_loss", "loss_at_weights", "heldout_loss"):
    one, other = getattr(together, name), getattr(alone, name)
    np.testing.assert_allclose(one, other, rtol=1e-5, err_msg=name)
print("whole run is the same")

def refused():
    try:
        one_round(params, batches_of(6))
    except ValueError as error:
        print(error)

with jax.set_mesh(mesh):
    refused()
warnings.simplefilter("ignore")
with mesh:
    refused()
"""


def test_four_devices_give_the_same_rounds_and_runs_and_what_cannot_be_divided_is_refused():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("same on four devices") == 2
    assert "whole run is the same" in result.stdout
    assert "'workers' is Explicit, so that every device takes the local steps" in result.stderr
    assert "num_workers=6 cannot be divided among the 4 devices" in result.stdout
    assert "called inside `with mesh:`" in result.stdout
