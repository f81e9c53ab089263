"""Noise-reuse evolution strategies beside PES, on a problem whose meta-gradient is known."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learned_optimization.learned_optimizers.base import LearnableSGD
from learned_optimization.outer_trainers.truncated_es import TruncatedES

from comm_lopt import upstream
from comm_lopt.long_runs.checkpoints import Checkpoints
from comm_lopt.optimizers.as_upstream import as_upstream
from comm_lopt.upstream.noise_reuse import TruncatedNRES

CURVATURE = np.asarray([0.4, 1.0, 1.8])
START = np.asarray([1.0, -2.0, 0.5])
SHIFT = np.asarray([0.3, -0.1, 0.2])
RATE, STD = 0.8, 0.5
NUM_KEYS, NUM_TASKS = 256, 32


class Quadratic(upstream.Task):
    """½ Σ c p², from a fixed start."""

    def init(self, key):
        return jnp.asarray(START, jnp.float32)

    def loss(self, params, key, data):
        return 0.5 * jnp.sum(jnp.asarray(CURVATURE, jnp.float32) * jnp.square(params))


class LearnableShift(LearnableSGD):
    """p ← p − rate · gradient + shift. Theta, the shift, is forgotten at the rate of descent.

    The losses are quadratic in it, so that smoothing by a Gaussian leaves their gradient as it is.
    """

    def init(self, key):
        return {"shift": jnp.asarray(SHIFT, jnp.float32)}

    def opt_fn(self, theta, is_training=False):
        def update(delta, state, params=None, **extra):
            return -RATE * delta + theta["shift"], state

        return as_upstream(
            optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
        )


LEARNED_OPT = LearnableShift()
WEIGHTS = upstream.WorkerWeights(LEARNED_OPT.init(None), None, None)


def estimator_of(make, length, truncation, **arguments):
    return make(
        upstream.single_task_to_family(Quadratic()),
        LEARNED_OPT,
        upstream.ConstantTruncationSchedule(length),
        trunc_length=truncation,
        std=STD,
        **{"num_tasks": NUM_TASKS, "steps_per_jit": truncation, **arguments},
    )


def truncated_es(length, truncation):
    """Upstream's estimator that forgets the perturbations of earlier truncations."""
    beside = estimator_of(upstream.pes, length, truncation)
    arguments = {"unroll_length": truncation, "steps_per_jit": truncation, "std": STD}
    if upstream.FLAVOUR == "main":
        return TruncatedES(beside.truncated_step, **arguments)
    schedule = upstream.ConstantTruncationSchedule(length)
    return TruncatedES(beside.task_family, LEARNED_OPT, schedule, NUM_TASKS, **arguments)


def estimates(estimator, truncations):
    """Meta-gradients [keys, truncations, 3] of successive truncations from the start, compiled."""
    compute = estimator.compute_gradient_estimate
    # Main's PES wants the batches of its calls brought along under jit; this task has none.
    batches = "datas_list" in inspect.signature(compute).parameters
    arguments = {"datas_list": [(), ()]} if batches else {}

    def next_truncation(state, key):
        out, _ = compute(WEIGHTS, key, state, **arguments)
        return out.unroll_state, out.grad["shift"]

    def from_the_start(key):
        start, key = jax.random.split(key)
        state = estimator.init_worker_state(WEIGHTS, start)
        state = jax.tree.map(lambda x: jnp.asarray(x, x.dtype), state)  # No weak types.
        return jax.lax.scan(next_truncation, state, jax.random.split(key, truncations))[1]

    keys = jax.random.split(jax.random.PRNGKey(0), NUM_KEYS)
    return np.asarray(jax.jit(jax.vmap(from_the_start))(keys))


def exact(length, truncation, truncations):
    """The gradient [truncations, 3] of each truncation's mean loss, by the chain rule."""
    params, slope, found = START, 0.0, []
    for step in range(truncation * truncations):
        # An episode's `length` steps are followed by one in which the next begins.
        if step % (length + 1) == length:
            params, slope = START, 0.0
            found.append(np.full(3, np.nan))
            continue
        found.append(CURVATURE * params * slope)
        params = params - RATE * CURVATURE * params + SHIFT
        slope = (1 - RATE * CURVATURE) * slope + 1
    return np.nanmean(np.reshape(found, (truncations, truncation, 3)), axis=1)


def standard_errors_from(mean, samples):
    """By how many standard errors the mean of the samples differs, at each place."""
    error = np.std(samples, axis=0, ddof=1) / np.sqrt(len(samples))
    return np.abs(np.mean(samples, axis=0) - mean) / error


@pytest.mark.parametrize(
    ("length", "truncation", "steps_per_jit", "stacked"),
    [
        (5, 4, 2, True),  # An episode ends with the first compiled call but one, then inside one.
        (2, 8, 8, False),  # Two or three end in each truncation.
    ],
)
def test_mean_is_the_exact_meta_gradient_wherever_episodes_end(
    length, truncation, steps_per_jit, stacked
):
    estimator = estimator_of(
        upstream.nres, length, truncation,
        steps_per_jit=steps_per_jit, stack_antithetic_samples=stacked,
    )  # fmt: skip
    samples, expected = estimates(estimator, 3), exact(length, truncation, 3)
    error = np.std(samples, axis=0, ddof=1) / np.sqrt(NUM_KEYS)
    assert np.all(error < 0.03 * np.abs(expected).max())
    assert standard_errors_from(expected, samples).max() < 4


def test_truncated_es_has_the_bias_that_noise_reuse_has_not():
    samples, expected = estimates(truncated_es(100, 3), 3), exact(100, 3, 3)
    assert standard_errors_from(expected, samples)[0].max() < 4  # Nothing was cut off yet.
    assert standard_errors_from(expected, samples)[1:].max() > 20


def exact_variances(truncations, truncation):
    """Traces of the covariance of one problem's estimate in its last truncation: NRES's, PES's.

    They follow from the gradients with respect to the theta of each truncation alone.
    """
    params, slopes, losses = START, np.zeros((truncations, 3)), []
    for step in range(truncations * truncation):
        losses.append(CURVATURE * params * slopes)
        params = params - RATE * CURVATURE * params + SHIFT
        slopes = (1 - RATE * CURVATURE) * slopes
        slopes[step // truncation] += 1
    gradients = np.mean(losses[-truncation:], axis=0)
    whole = np.sum(gradients.sum(axis=0) ** 2)
    return 4 * whole, 3 * truncations * np.sum(gradients**2) + whole


def test_variance_of_a_late_truncation_is_as_derived_and_far_below_that_of_pes():
    truncation, truncations = 8, 12
    expected = exact_variances(truncations, truncation)
    assert expected[1] > 5 * expected[0]
    measured = []
    for make in (upstream.nres, upstream.pes):
        last = estimates(estimator_of(make, 100, truncation), truncations)[:, -1]
        measured.append(NUM_TASKS * np.var(last, axis=0, ddof=1).sum())
    # The standard error of a variance of 256 normal samples is 9 % of it.
    np.testing.assert_allclose(measured, expected, rtol=0.3)


@pytest.fixture(scope="module")
def one_step():
    """An estimator that takes truncations of one step, on problems that do not run in step."""
    with jax.numpy_dtype_promotion("standard"):
        return estimator_of(upstream.nres, 4, 1, random_initial_iteration_offset=4)


def test_perturbation_changes_in_the_step_in_which_a_problem_begins_afresh_and_in_no_other(
    one_step,
):
    state = one_step.init_worker_state(WEIGHTS, jax.random.PRNGKey(0))
    weights, began, before = WEIGHTS, [], None
    for number in range(12):
        # Theta moves between truncations; the perturbation does not move with it.
        weights = weights.replace(theta=jax.tree.map(lambda leaf: leaf + 0.1, weights.theta))
        out, _ = one_step.compute_gradient_estimate(weights, jax.random.PRNGKey(number), state)
        state = out.unroll_state
        after = np.asarray(state.perturbation["shift"])
        if before is not None:
            began.append(np.asarray(out.unroll_info.iteration[0]) == 0)
            np.testing.assert_array_equal((after != before).any(axis=1), began[-1])
        before = after
    assert np.all(np.sum(began, axis=0) >= 2)
    assert any(0 < np.sum(problems) < NUM_TASKS for problems in began)


def test_truncation_of_nothing_but_beginnings_is_finite(one_step):
    state = one_step.init_worker_state(WEIGHTS, jax.random.PRNGKey(0))
    in_step = jnp.full_like(state.unrolls.inner_step, 3)
    state = state.replace(unrolls=state.unrolls.replace(inner_step=in_step))
    first, begun = [], []
    for losses in (first, begun):
        out, _ = one_step.compute_gradient_estimate(WEIGHTS, jax.random.PRNGKey(0), state)
        state = out.unroll_state
        losses += [float(out.mean_loss), *out.grad["shift"]]
    assert first[0] == pytest.approx(np.sum(CURVATURE * START**2) / 2)
    assert np.all(np.asarray(begun) == 0)


def test_saved_state_goes_on_as_the_one_that_was_not(one_step, tmp_path):
    state = one_step.init_worker_state(WEIGHTS, jax.random.PRNGKey(0))

    def estimate(seed, state):
        return one_step.compute_gradient_estimate(WEIGHTS, jax.random.PRNGKey(seed), state)[0]

    template, state = state, estimate(0, state).unroll_state
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state, {})
    checkpoints.wait()
    restored = checkpoints.restore(lambda meta_step, info: template).state
    checkpoints.close()
    for seed in range(1, 4):
        one, other = estimate(seed, state), estimate(seed, restored)
        jax.tree.map(np.testing.assert_array_equal, one, other)
        state, restored = one.unroll_state, other.unroll_state


@pytest.mark.skipif(upstream.FLAVOUR == "released", reason="0.0.1's PES has no such setting")
def test_setting_of_pes_alone_is_refused():
    step = estimator_of(upstream.nres, 1, 1).truncated_step
    with pytest.raises(ValueError, match=r"sign_delta_loss_scalar=0.5: NRES has none"):
        TruncatedNRES(step, sign_delta_loss_scalar=0.5)
