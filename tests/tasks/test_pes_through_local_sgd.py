"""PES through the wrapper, against the exact meta-gradient of a quadratic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learned_optimization.learned_optimizers.base import LearnableSGD

from comm_lopt import upstream
from comm_lopt.tasks.data_parallel import DataParallelTaskFamily
from comm_lopt.tasks.local_optimizers import local_sgd
from comm_lopt.tasks.local_sgd import LocalSGDTaskFamily
from comm_lopt.upstream import Task, single_task_to_family

CURVATURE = np.asarray([0.4, 1.0, 1.8])
START = np.asarray([1.0, -2.0, 0.5])
NUM_WORKERS, NUM_LOCAL_STEPS, LOCAL_RATE = 2, 2, 0.3
TRUNCATION, STD, NUM_TASKS, NUM_KEYS = 3, 0.01, 2048, 24
GLOBAL_RATE = 0.6

pytestmark = pytest.mark.usefixtures("ordinary_promotion")


class Quadratic(Task):
    """½ Σ c p², from a fixed start and without noise."""

    def init(self, key):
        return jnp.asarray(START, jnp.float32)

    def loss(self, params, key, data):
        return 0.5 * jnp.sum(jnp.asarray(CURVATURE, jnp.float32) * jnp.square(params))


def wrapped_round(params):
    """Loss of a round and Δ: H steps multiply each coordinate by 1 − γ c."""
    shrink = 1 - LOCAL_RATE * CURVATURE
    steps = [params * shrink**h for h in range(NUM_LOCAL_STEPS + 1)]
    loss = np.mean([0.5 * np.sum(CURVATURE * p**2) for p in steps[:-1]])
    return loss, params - steps[-1]


def data_parallel_round(params):
    return 0.5 * np.sum(CURVATURE * params**2), CURVATURE * params


def meta_loss(one_round, log_lr):
    """Sum of the mean losses of two truncations of p ← p − exp(log_lr) · (Δ or gradient)."""
    params, losses = START, []
    for _ in range(2 * TRUNCATION):
        loss, step = one_round(params)
        losses.append(loss)
        params = params - np.exp(log_lr) * step
    return np.mean(losses[:TRUNCATION]) + np.mean(losses[TRUNCATION:])


def exact_gradient(one_round):
    """Central difference in float64; its error is far below that of any sample."""
    at, h = np.log(GLOBAL_RATE), 1e-5
    return (meta_loss(one_round, at + h) - meta_loss(one_round, at - h)) / (2 * h)


def pes_mean_and_standard_error(family):
    learned_opt = LearnableSGD(GLOBAL_RATE)
    estimator = upstream.pes(
        family,
        learned_opt,
        upstream.ConstantTruncationSchedule(100),
        num_tasks=NUM_TASKS,
        trunc_length=TRUNCATION,
        steps_per_jit=TRUNCATION,
        std=STD,
    )
    weights = upstream.WorkerWeights(learned_opt.init(jax.random.PRNGKey(0)), None, None)
    samples = []
    for seed in range(NUM_KEYS):
        init_key, *keys = jax.random.split(jax.random.PRNGKey(seed), 3)
        state = estimator.init_worker_state(weights, init_key)
        total = 0.0
        for key in keys:
            out, _ = estimator.compute_gradient_estimate(weights, key, state)
            state = out.unroll_state
            total += float(out.grad["log_lr"])
        samples.append(total)
    return np.mean(samples), np.std(samples, ddof=1) / np.sqrt(NUM_KEYS)


@pytest.fixture(scope="module")
def family():
    inner = single_task_to_family(Quadratic())
    return LocalSGDTaskFamily(inner, NUM_WORKERS, NUM_LOCAL_STEPS, local_sgd(LOCAL_RATE))


def test_pes_mean_is_the_exact_meta_gradient_of_local_sgd(family):
    mean, error = pes_mean_and_standard_error(family)
    exact = exact_gradient(wrapped_round)
    assert error < 0.02 * abs(exact)
    assert abs(mean - exact) < 3 * error
    assert abs(mean - exact_gradient(data_parallel_round)) > 10 * error


def test_pes_mean_of_the_data_parallel_twin_is_another_meta_gradient(family):
    mean, error = pes_mean_and_standard_error(DataParallelTaskFamily.of(family))
    exact = exact_gradient(data_parallel_round)
    assert error < 0.02 * abs(exact)
    assert abs(mean - exact) < 3 * error
    assert abs(mean - exact_gradient(wrapped_round)) > 10 * error
