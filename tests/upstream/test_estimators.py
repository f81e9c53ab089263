"""Tests of what is built differently for the two shapes of upstream."""

import itertools

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learned_optimization.learned_optimizers import base as learned_optimizers
from learned_optimization.outer_trainers.truncated_pes import TruncatedPES
from learned_optimization.tasks import quadratics

from comm_lopt import upstream
from comm_lopt.upstream.noise_reuse import TruncatedNRES

pytestmark = [
    # Main asks this of JAX with each gradient estimate.
    pytest.mark.filterwarnings(
        "ignore:jax.core.unsafe_am_i_under_a_jit_DO_NOT_USE is deprecated:DeprecationWarning"
    ),
    # Main donates the buffers that it stacks, which do not fit what they are stacked into.
    pytest.mark.filterwarnings("ignore:Some donated buffers were not usable:UserWarning"),
]


class SplitTask(upstream.Task):
    """Its loss is the data it sees, so a loss tells which split it was computed on."""

    datasets = upstream.Datasets(
        *(iter(lambda value=value: np.full([1], value, np.float32), None) for value in range(4))
    )

    def init(self, key):
        return jnp.zeros(())

    def loss(self, params, key, data):
        return jnp.mean(data) + 0.0 * params


class TwoSizesTask(upstream.Task):
    """One array is half the size of the other, so stacked it fits the other's buffer."""

    datasets = upstream.Datasets(
        *(
            itertools.repeat({"small": np.zeros(2, np.float32), "large": np.zeros(4, np.float32)})
            for _ in range(4)
        )
    )

    def init(self, key):
        return {"small": jnp.ones(2), "large": jnp.ones(4)}

    def loss(self, params, key, data):
        return sum(jnp.sum((params[name] - data[name]) ** 2) for name in params)


def make_pes(task_family=None, make=upstream.pes, **changes):
    arguments = {
        "num_tasks": 2,
        "trunc_length": 4,
        "steps_per_jit": 2,
        **changes,
    }
    return make(
        task_family or quadratics.FixedDimQuadraticFamily(3),
        learned_optimizers.LearnableSGD(),
        upstream.ConstantTruncationSchedule(10),
        **arguments,
    )


def two_sizes():
    return upstream.single_task_to_family(TwoSizesTask())


def estimate(estimator):
    learned_opt = learned_optimizers.LearnableSGD()
    learner = upstream.make_gradient_learner(learned_opt, upstream.Adam(1e-3), num_steps=5)
    state = learner.init(jax.random.PRNGKey(0))
    weights = learner.get_state_for_worker(state)
    unroll_state = estimator.init_worker_state(weights, jax.random.PRNGKey(1))
    out = upstream.gradient_worker_compute(
        weights, [estimator], [unroll_state], jax.random.PRNGKey(2), with_metrics=False
    )
    return learner, state, out


@pytest.mark.parametrize("stack_antithetic_samples", [False, True])
def test_meta_step_with_pes_changes_theta(stack_antithetic_samples):
    estimator = make_pes(two_sizes(), stack_antithetic_samples=stack_antithetic_samples)
    assert isinstance(estimator, upstream.GradientEstimator)
    learner, state, out = estimate(estimator)
    assert np.isfinite(out.to_put.mean_loss)
    gradient = jax.tree_util.tree_leaves(out.to_put.theta_grads)
    assert any(np.any(leaf != 0) for leaf in gradient)
    new_state, _ = learner.update(state, [out.to_put], key=jax.random.PRNGKey(3))
    before, after = upstream.meta_params(learner, state), upstream.meta_params(learner, new_state)
    assert float(before["log_lr"]) != float(after["log_lr"])


def test_one_state_for_both_signs_can_be_stacked_and_used_again():
    learner, state, _ = estimate(estimator := make_pes(two_sizes(), stack_antithetic_samples=True))
    weights = learner.get_state_for_worker(state)
    unroll_state = estimator.init_worker_state(weights, jax.random.PRNGKey(1))
    first, again = (
        estimator.compute_gradient_estimate(weights, jax.random.PRNGKey(2), unroll_state)[0].grad
        for _ in range(2)
    )
    jax.tree.map(np.testing.assert_array_equal, first, again)


@pytest.mark.skipif(upstream.FLAVOUR == "released", reason="0.0.1 stacks in other ways")
def test_other_estimators_stack_too():
    from learned_optimization.outer_trainers import full_es, truncated_es, truncation_schedule

    step = make_pes(two_sizes()).truncated_step
    common = {"steps_per_jit": 2, "stack_antithetic_samples": True}
    es = truncated_es.TruncatedES(step, unroll_length=4, **common)
    step = make_pes(two_sizes()).truncated_step
    step.trunc_sched = truncation_schedule.NeverEndingTruncationSchedule()
    full = full_es.FullES(step, upstream.ConstantTruncationSchedule(4), **common)
    for estimator in (es, full):
        assert np.isfinite(estimate(estimator)[2].to_put.mean_loss)


@pytest.mark.parametrize(
    ("make", "cls"), [(upstream.pes, TruncatedPES), (upstream.nres, TruncatedNRES)]
)
def test_pes_hands_every_setting_on(make, cls):
    estimator = make_pes(
        make=make,
        num_tasks=3,
        trunc_length=6,
        steps_per_jit=3,
        std=0.25,
        random_initial_iteration_offset=7,
        stack_antithetic_samples=True,
    )
    step = getattr(estimator, "truncated_step", estimator)
    assert type(estimator) is cls
    assert (step.num_tasks, step.random_initial_iteration_offset) == (3, 7)
    assert (estimator.trunc_length, estimator.steps_per_jit) == (6, 3)
    assert (estimator.std, estimator.stack_antithetic_samples) == (0.25, True)


@pytest.mark.parametrize("make", [upstream.pes, upstream.nres])
@pytest.mark.parametrize(("split", "meta_loss"), [(None, 0.0), ("outer_valid", 2.0)])
def test_meta_loss_is_computed_on_the_split_that_was_asked_for(split, meta_loss, make):
    family = upstream.single_task_to_family(SplitTask())
    _, _, out = estimate(make_pes(family, make, meta_loss_split=split))
    assert float(out.to_put.mean_loss) == pytest.approx(meta_loss)


def test_split_that_only_main_knows():
    if upstream.FLAVOUR == "released":
        with pytest.raises(ValueError, match="meta_loss_split='same_data'"):
            make_pes(meta_loss_split="same_data")
    else:
        assert make_pes(meta_loss_split="same_data").truncated_step.meta_loss_split == "same_data"


def test_steps_per_jit_must_divide_trunc_length():
    with pytest.raises(ValueError, match=r"steps_per_jit=3 must divide trunc_length=4"):
        make_pes(steps_per_jit=3)


@pytest.mark.usefixtures("fresh_gin")
def test_estimators_and_learner_follow_the_gin_file_for_this_upstream():
    gin.parse_config(f"include '{upstream.GIN_DIR / 'outer_training.gin'}'")
    gin.parse_config(
        """
        import learned_optimization.tasks.quadratics
        learned_optimizer = @LearnableSGD()
        theta_optimizer = @Adam()
        task_family = @FixedDimQuadraticFamily()
        FixedDimQuadraticFamily.dim = 3
        truncation_schedule = @ConstantTruncationSchedule()
        ConstantTruncationSchedule.total_length = 10
        truncation_length = 4
        steps_per_jit = 2
        num_tasks = 5
        perturbation_std = 0.125
        random_initial_iteration_offset = 3
        stack_antithetic_samples = True
        meta_loss_split = None
        num_meta_steps = 2
        num_estimators = 2
        """
    )
    estimators = upstream.build_gradient_estimators(jax.random.PRNGKey(0), 2)
    assert len(estimators) == 2
    for estimator in estimators:
        step = getattr(estimator, "truncated_step", estimator)
        assert isinstance(estimator, TruncatedPES)
        assert isinstance(step.task_family, quadratics.FixedDimQuadraticFamily)
        assert (step.num_tasks, step.random_initial_iteration_offset) == (5, 3)
        assert (estimator.trunc_length, estimator.steps_per_jit) == (4, 2)
        assert (estimator.std, estimator.stack_antithetic_samples) == (0.125, True)
    learner = upstream.configured_gradient_learner(num_steps=9)
    assert isinstance(learner, upstream.GradientLearner)
    assert learner._num_steps == 9
    theta = upstream.meta_params(learner, learner.init(jax.random.PRNGKey(0)))
    assert set(theta) == {"log_lr"}


def test_optax_optimizer_descends():
    import optax

    optimizer = upstream.OptaxOptimizer(optax.sgd(0.5))
    assert isinstance(optimizer, upstream.Optimizer)
    state = optimizer.init(jnp.asarray(1.0), num_steps=1)
    state = optimizer.update(state, jnp.asarray(1.0), loss=jnp.asarray(0.0))
    assert float(optimizer.get_params(state)) == 0.5


def test_every_public_name_exists_once():
    assert len(set(upstream.__all__)) == len(upstream.__all__)
    assert all(hasattr(upstream, name) for name in upstream.__all__)
