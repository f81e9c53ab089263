"""Upstream's estimators through the wrapper, against exact meta-gradients of quadratics."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learned_optimization.learned_optimizers.base import LearnableSGD
from learned_optimization.outer_trainers.full_es import FullES
from small_tasks import assert_trees_close

from comm_lopt import upstream
from comm_lopt.optimizers.as_upstream import as_upstream
from comm_lopt.tasks.data_parallel import DataParallelTaskFamily
from comm_lopt.tasks.local_optimizers import local_sgd
from comm_lopt.tasks.local_sgd import LocalSGDTaskFamily
from comm_lopt.upstream import Datasets, Task, single_task_to_family

CURVATURE = np.asarray([0.4, 1.0, 1.8])
START = np.asarray([1.0, -2.0, 0.5])
NUM_WORKERS, NUM_LOCAL_STEPS, LOCAL_RATE = 2, 2, 0.3
TRUNCATION, STD, NUM_TASKS, NUM_KEYS = 3, 0.01, 2048, 24
GLOBAL_RATE = 0.6
# In one truncation the meta-gradients of local SGD and of data-parallel SGD are too close at 0.6.
FULL_ES_RATE = 1.2

pytestmark = pytest.mark.usefixtures("ordinary_promotion")


class Quadratic(Task):
    """½ Σ c p², from a fixed start and without noise."""

    def init(self, key):
        return jnp.asarray(START, jnp.float32)

    def loss(self, params, key, data):
        return 0.5 * jnp.sum(jnp.asarray(CURVATURE, jnp.float32) * jnp.square(params))


class QuadraticWithAverage(Quadratic):
    """Its model state is a running mean of the parameters, which the loss reads, as BatchNorm's."""

    def init_with_state(self, key):
        return self.init(key), jnp.zeros(3)

    def loss_with_state(self, params, state, key, data):
        loss = self.loss(params, key, data) + jnp.sum(params * state)
        return loss, 0.5 * state + 0.5 * params

    def loss_with_state_and_aux(self, params, state, key, data):
        return self.loss_with_state(params, state, key, data)[0], state, {}


class QuadraticWithData(Quadratic):
    """A batch is a factor of the loss: 1 in training, 3 where it is held out."""

    def __init__(self):
        factors = (1.0, 1.0, 3.0, 1.0)
        self.datasets = Datasets(*(itertools.repeat(np.float32(f)) for f in factors))

    def loss(self, params, key, data):
        return data * super().loss(params, key, data)


class SGDOnWorkerDeltas(LearnableSGD):
    """Steps along half of a worker's delta and of √q with Δ's sign, and not along Δ.

    Without noise both workers' deltas are Δ, and q is Δ².
    """

    def opt_fn(self, theta, is_training=False):
        def update(delta, state, params=None, *, worker_deltas, worker_squares, **extra):
            rate = jnp.exp(theta["log_lr"])
            root = jnp.sign(delta) * jnp.sqrt(worker_squares)
            return -rate * 0.5 * (worker_deltas[1] + root), state

        return as_upstream(
            optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)
        )


def local_steps(params, state):
    """Losses, weights and running mean of a round; without a running mean it is None."""
    losses = []
    for _ in range(NUM_LOCAL_STEPS):
        average = 0.0 if state is None else state
        losses.append(0.5 * np.sum(CURVATURE * params**2) + np.sum(params * average))
        gradient = CURVATURE * params + average
        state = None if state is None else 0.5 * state + 0.5 * params
        params = params - LOCAL_RATE * gradient
    return np.mean(losses), params, state


def wrapped_round(params, state=None):
    """Loss of a round, Δ and the new state."""
    loss, after, state = local_steps(params, state)
    return loss, params - after, state


def data_parallel_round(params, state=None):
    return 0.5 * np.sum(CURVATURE * params**2), CURVATURE * params, state


def heldout_loss(params):
    return 1.5 * np.sum(CURVATURE * params**2)


@dataclasses.dataclass(frozen=True)
class Exact:
    """Sum of the mean losses of truncations of p ← p − exp(log_lr) · (Δ or gradient).

    Attributes:
      one_round: of weights and state.
      heldout: the loss is this, of the weights after the rule's step, if given.
      state: at the start.
      truncations: how many.
      rate: exp(log_lr).
    """

    one_round: object
    heldout: object = None
    state: object = None
    truncations: int = 2
    rate: float = GLOBAL_RATE

    def meta_loss(self, log_lr):
        params, state, losses = START, self.state, []
        for _ in range(self.truncations * TRUNCATION):
            loss, step, state = self.one_round(params, state)
            params = params - np.exp(log_lr) * step
            losses.append(loss if self.heldout is None else self.heldout(params))
        return np.sum(losses) / TRUNCATION

    @property
    def gradient(self):
        """Central difference in float64; its error is far below that of any sample."""
        at, h = np.log(self.rate), 1e-5
        return (self.meta_loss(at + h) - self.meta_loss(at - h)) / (2 * h)


def make_family(task=None, cls=LocalSGDTaskFamily, **arguments):
    inner = single_task_to_family(task or Quadratic())
    return cls(inner, NUM_WORKERS, NUM_LOCAL_STEPS, local_sgd(LOCAL_RATE), **arguments)


def mean_and_standard_error(estimator, learned_opt, calls):
    """Of the meta-gradient that so many calls one after another add up to."""
    weights = upstream.WorkerWeights(learned_opt.init(jax.random.PRNGKey(0)), None, None)
    samples = []
    for seed in range(NUM_KEYS):
        init_key, *keys = jax.random.split(jax.random.PRNGKey(seed), 1 + calls)
        state = estimator.init_worker_state(weights, init_key)
        total = 0.0
        for key in keys:
            out, _ = estimator.compute_gradient_estimate(weights, key, state)
            state = out.unroll_state
            total += float(out.grad["log_lr"])
        samples.append(total)
    return np.mean(samples), np.std(samples, ddof=1) / np.sqrt(NUM_KEYS)


def pes(family, learned_opt, num_tasks=NUM_TASKS, **arguments):
    estimator = upstream.pes(
        family,
        learned_opt,
        upstream.ConstantTruncationSchedule(100),
        num_tasks=num_tasks,
        trunc_length=TRUNCATION,
        steps_per_jit=TRUNCATION,
        std=STD,
        **arguments,
    )
    return mean_and_standard_error(estimator, learned_opt, calls=2)


def full_es(family, learned_opt):
    arguments = {"std": STD, "steps_per_jit": TRUNCATION}
    if upstream.FLAVOUR == "released":
        estimator = FullES(family, learned_opt, NUM_TASKS, unroll_length=TRUNCATION, **arguments)
    else:
        from learned_optimization.outer_trainers import lopt_truncated_step, truncation_schedule

        steps = lopt_truncated_step.VectorizedLOptTruncatedStep(
            family, learned_opt, truncation_schedule.NeverEndingTruncationSchedule(), NUM_TASKS
        )
        schedule = upstream.ConstantTruncationSchedule(TRUNCATION)
        estimator = FullES(steps, schedule, **arguments)
    return mean_and_standard_error(estimator, learned_opt, calls=1)


CASES = {
    "local SGD": lambda: (
        pes(make_family(), LearnableSGD(GLOBAL_RATE)), Exact(wrapped_round)
    ),
    "data-parallel": lambda: (
        pes(make_family(cls=DataParallelTaskFamily), LearnableSGD(GLOBAL_RATE)),
        Exact(data_parallel_round),
    ),
    "model state that the loss reads": lambda: (
        pes(make_family(QuadraticWithAverage()), LearnableSGD(GLOBAL_RATE)),
        Exact(wrapped_round, state=np.zeros(3)),
    ),
    "worker deltas": lambda: (
        pes(make_family(worker_deltas=True, worker_squares=True), SGDOnWorkerDeltas(GLOBAL_RATE)),
        Exact(wrapped_round),
    ),
    "held-out meta-objective": lambda: (
        pes(
            make_family(QuadraticWithData()), LearnableSGD(GLOBAL_RATE), num_tasks=256,
            meta_loss_split="outer_valid",
        ),
        Exact(wrapped_round, heldout_loss),
    ),
    "FullES": lambda: (
        full_es(make_family(), LearnableSGD(FULL_ES_RATE)),
        Exact(wrapped_round, truncations=1, rate=FULL_ES_RATE),
    ),
    "FullES with model state": lambda: (
        full_es(make_family(QuadraticWithAverage()), LearnableSGD(FULL_ES_RATE)),
        Exact(wrapped_round, state=np.zeros(3), truncations=1, rate=FULL_ES_RATE),
    ),
    "FullES with worker deltas": lambda: (
        full_es(
            make_family(worker_deltas=True, worker_squares=True), SGDOnWorkerDeltas(FULL_ES_RATE)
        ),
        Exact(wrapped_round, truncations=1, rate=FULL_ES_RATE),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_mean_of_the_estimates_is_the_exact_meta_gradient(case):
    (mean, error), exact = CASES[case]()
    assert error < 0.02 * abs(exact.gradient)
    assert abs(mean - exact.gradient) < 3 * error
    # And it can be told from that of another way of training.
    other = wrapped_round if exact.one_round is data_parallel_round else data_parallel_round
    confused = dataclasses.replace(exact, one_round=other)
    assert abs(mean - confused.gradient) > 10 * error


def test_what_upstream_differentiates_with_auxiliary_values_is_the_round():
    for task in (
        make_family(QuadraticWithAverage()).task_fn(0),
        make_family(QuadraticWithAverage(), DataParallelTaskFamily).task_fn(0),
    ):
        params, state = task.init_with_state(jax.random.PRNGKey(0))

        def with_aux(params, state, task=task):
            loss, state, _ = task.loss_with_state_and_aux(params, state, jax.random.PRNGKey(0), ())
            return loss, state

        def plain(params, state, task=task):
            return task.loss_with_state(params, state, jax.random.PRNGKey(0), ())

        for function in (lambda f: f, jax.jit, lambda f: jax.vmap(f, axis_size=2, in_axes=None)):
            trained = function(jax.value_and_grad(with_aux, has_aux=True))(params, state)
            expected = function(jax.value_and_grad(plain, has_aux=True))(params, state)
            assert_trees_close(trained, expected)
            _, same = function(with_aux)(params, state)
            assert not np.any(same)


def test_reparametrised_task_of_upstream_trains_by_rounds():
    from learned_optimization.tasks.task_augmentation import ReparamWeights

    inner = make_family().task_fn(0)
    task = ReparamWeights(inner, jnp.full(3, 2.0))
    params = jnp.asarray(START, jnp.float32) / 2

    def loss(params):
        return task.loss_with_state(params, None, jax.random.PRNGKey(0), ())[0]

    _, delta, _ = wrapped_round(START)
    np.testing.assert_allclose(jax.grad(loss)(params), 2 * delta, rtol=1e-5)


@pytest.mark.parametrize("cls", [LocalSGDTaskFamily, DataParallelTaskFamily])
def test_differentiating_through_a_round_is_refused_with_the_reason(cls):
    task = make_family(cls=cls).task_fn(0)

    def after_two_rounds(log_rate):
        params = jnp.asarray(START, jnp.float32)
        for _ in range(2):
            delta = jax.grad(task.loss)(params, jax.random.PRNGKey(0), ())
            params = params - jnp.exp(log_rate) * delta
        return task.loss(params, jax.random.PRNGKey(0), ())

    assert np.isfinite(after_two_rounds(0.0))
    with pytest.raises(NotImplementedError, match="differentiated through.*looks at losses alone"):
        jax.jit(jax.grad(after_two_rounds))(0.0)
