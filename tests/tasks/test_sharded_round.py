"""The one local round gives the same numbers when its workers are spread over devices."""

import os
import subprocess
import sys

PROGRAM = """
import jax, numpy as np
import comm_lopt
from comm_lopt.tasks.local_round import WORKER_AXIS, local_round

assert jax.device_count() == 4
family = comm_lopt.digits_mlp(datasets=comm_lopt.digits_datasets(batch_size=8))
task = family.sample_task(jax.random.PRNGKey(0))
params = task.init(jax.random.PRNGKey(1))
batches = family.datasets.train.take(8 * 3).reshape(8, 3, 8)

@jax.jit
def one_round(params, batches):
    return local_round(
        task, params, None, jax.random.PRNGKey(2), batches, comm_lopt.local_sgd(0.5), 8, 3
    )

plain = one_round(params, batches)
assert len(plain.losses.sharding.device_set) == 1
with jax.set_mesh(jax.make_mesh((4,), (WORKER_AXIS,), (jax.sharding.AxisType.Auto,))):
    sharded = one_round(params, batches)
for leaf in jax.tree.leaves(sharded.worker_deltas):
    assert leaf.sharding.spec[0] == WORKER_AXIS, leaf.sharding
for one, other in zip(jax.tree.leaves(sharded), jax.tree.leaves(plain), strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
print("same on four devices")
"""


def test_workers_sharded_over_four_devices_give_the_same_round():
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
    assert "same on four devices" in result.stdout
