"""The relative rules: by hand in NumPy, in other units, and with any number of workers."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow_features import TIME_SCALES, SlowAda, mlp_outputs
from small_tasks import assert_trees_close

from comm_lopt.optimizers.learned.relative import LAggR, LOptR
from comm_lopt.optimizers.learned.relative_features import RelativeAdaFeatures
from comm_lopt.optimizers.learned.step_size import (
    AlphaFromStatistics,
    ConstantAlpha,
    LearnedAlpha,
    MomentumAlpha,
)
from comm_lopt.tasks.averages import mean_of_squares

K, ROUNDS = 3, 4
SHAPES = {"r0": (), "r1": (5,), "r2": (3, 4), "r3": (2, 4, 3), "r4": (2, 3, 2, 2)}
# Together both rules with every form of α.
CASES = {
    "LOptR-learned": LOptR(step_size=LearnedAlpha(0.7)),
    "LOptR-momentum": LOptR(step_size=MomentumAlpha(0.8, (0.5, 0.25, 0.0), 0.3, 2.5), time=True),
    "LAggR-statistics": LAggR(step_size=AlphaFromStatistics(), learned_decays=True),
    "LAggR-constant": LAggR(step_size=ConstantAlpha(1.5), hidden_layers=1),
}
# Of these each rank has both rules.
RANKS_OF = {
    "LOptR-learned": ("r0", "r2", "r4"),
    "LOptR-momentum": ("r1", "r3"),
    "LAggR-statistics": ("r0", "r1", "r3"),
    "LAggR-constant": ("r2", "r4"),
}
EACH_CASE = pytest.mark.parametrize("name", CASES)


def random_theta(learned_opt, seed=4):
    """An initial theta and a little noise everywhere, as all that is 0 at first is learned."""
    leaves, treedef = jax.tree.flatten(learned_opt.init(jax.random.PRNGKey(seed)))
    rng = np.random.default_rng(seed)
    return treedef.unflatten(
        [leaf + jnp.asarray(0.03 * rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves]
    )


def random_params(ranks=SHAPES):
    rng = np.random.default_rng(0)
    return {n: jnp.asarray(rng.normal(size=SHAPES[n]), jnp.float32) for n in ranks}


def random_workers(seed, ranks=SHAPES):
    """Worker deltas that agree in part, so that not all ratios to σ are small."""
    rng = np.random.default_rng(seed)
    return {
        n: jnp.asarray(
            0.02 * rng.normal(size=SHAPES[n]) + 0.01 * rng.normal(size=(K, *SHAPES[n])),
            jnp.float32,
        )
        for n in ranks
    }


def mean_of(workers):
    return jax.tree.map(lambda w: jnp.mean(w, axis=0), workers)


@functools.cache
def compiled(name):
    """A round of a case: parameters and state after it."""
    learned_opt = CASES[name]

    @jax.jit
    def one(theta, params, state, workers, loss):
        steps, state = learned_opt.transformation(theta).update(
            mean_of(workers), state, params, worker_deltas=workers, value=loss
        )
        return jax.tree.map(jnp.add, params, steps), state

    return one


def train(name, theta, c=1.0):
    """Parameters and state after some rounds, where all lengths are times c."""
    params = jax.tree.map(lambda p: c * p, random_params(RANKS_OF[name]))
    state = CASES[name].transformation(theta).init(params)
    for number in range(ROUNDS):
        workers = jax.tree.map(lambda d: c * d, random_workers(number, RANKS_OF[name]))
        loss = jnp.float32(1.0 + 0.1 * number)
        params, state = compiled(name)(theta, params, state, workers, loss)
    return params, state


def rms(array):
    return np.sqrt(np.mean(np.square(array)))


class SlowTensor:
    """A tensor under a relative rule, in float64."""

    def __init__(self, learned_opt, theta, param):
        self.learned_opt, self.theta = learned_opt, theta
        features = RelativeAdaFeatures().init_theta()
        self.ada = SlowAda({"features": theta.get("features", features)}, param.shape)
        self.param, self.past = np.asarray(param, np.float64), []

    def step(self, workers, rounds_done):
        workers = np.asarray(workers, np.float64)
        delta = workers.mean(0)
        self.past.insert(0, delta)
        self.ada.update(delta)
        size, spread = rms(delta), workers.std(0)
        gradients = [delta]
        if isinstance(self.learned_opt, LAggR):
            gradients += [spread, size * np.clip(delta / spread, -10, 10)]
        gradients = np.stack(gradients)
        ada = copy.copy(self.ada)
        ada.momenta = [m / size for m in ada.momenta]
        ada.second = ada.second / size**2
        ada.squares = [s / size**2 for s in ada.squares]
        indices = np.ndindex(delta.shape)
        param, scaled, others = self.param / size, delta / size, gradients / size
        features = {i: np.asarray(ada.features(i, param, others, scaled)) for i in indices}
        time = [np.tanh(rounds_done / x - 1) for x in TIME_SCALES] if self.learned_opt.time else []
        u = np.zeros(delta.shape)
        for i, (out,) in mlp_outputs(self.theta["mlp"], features, time).items():
            u[i] = out
        self.param = self.param - self.alpha(delta, spread) * size * u / rms(u)

    def alpha(self, delta, spread):
        form, theta = self.learned_opt.step_size, self.theta["step_size"]
        theta = {n: np.asarray(value, np.float64) for n, value in theta.items()}
        if isinstance(form, ConstantAlpha):
            return form.value
        if isinstance(form, LearnedAlpha):
            return form.initial * np.exp(10 * theta["shift"])
        sums = [sum(b**i * d for i, d in enumerate(self.past)) for b in self.ada.b_momentum]
        logs = np.log([rms(s) / rms(delta) for s in sums])
        if isinstance(form, MomentumAlpha):
            exponents = np.asarray(form.exponents) + 10 * theta["exponents"]
            alpha = form.initial * np.exp(10 * theta["shift"] + exponents @ logs)
            return np.clip(alpha, form.low, form.high)
        cosines = [np.mean(m * delta) / (rms(m) * rms(delta)) for m in self.ada.momenta]
        ratios = [np.log(rms(delta) / rms(self.param)) / 4, np.log(rms(spread) / rms(delta))]
        hidden = np.concatenate([logs, cosines, ratios]) @ theta["w0"] + theta["b0"]
        (out,) = np.maximum(hidden, 0) @ theta["w1"] + theta["b1"]
        middle, half = np.sqrt(form.low * form.high), 0.5 * np.log(form.high / form.low)
        return middle * np.exp(half * np.tanh(out))


@EACH_CASE
def test_rounds_are_those_of_the_slow_version(name):
    learned_opt = CASES[name]
    theta, params = random_theta(learned_opt), random_params(RANKS_OF[name])
    state = learned_opt.transformation(theta).init(params)
    slow = {n: SlowTensor(learned_opt, theta, param) for n, param in params.items()}
    for number in range(ROUNDS):
        workers, before = random_workers(number, RANKS_OF[name]), params
        params, state = compiled(name)(theta, params, state, workers, jnp.float32(1.0))
        for n in slow:
            slow[n].step(workers[n], number)
            moved = np.max(np.abs(params[n] - before[n]))
            assert moved > 1e-3
            assert np.max(np.abs(params[n] - slow[n].param)) < 1e-4 * moved, (n, number)


@EACH_CASE
def test_steps_are_in_units_of_delta(name):
    """Δ and p times c give steps times c, and the same local rate."""
    found = {}
    for c in (1.0, 1e-3, 100.0):
        params, state = train(name, random_theta(CASES[name]), c)
        found[c] = jax.tree.map(lambda p, c=c: p / c, params), state.inner.local_rate
    assert abs(float(found[1.0][1]) - 1.0) > 1e-3
    for c in (1e-3, 100.0):
        assert_trees_close(found[c], found[1.0], rtol=1e-4, atol=1e-5)


@EACH_CASE
def test_every_part_of_theta_changes_the_rounds(name):
    theta = random_theta(CASES[name])
    leaves, treedef = jax.tree.flatten(theta)
    expected = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(train(name, theta))])
    for number in range(len(leaves)):
        changed = [leaf + 0.02 * (i == number) for i, leaf in enumerate(leaves)]
        found = jax.tree.leaves(train(name, treedef.unflatten(changed)))
        assert np.any(np.concatenate([np.ravel(leaf) for leaf in found]) != expected), number


def test_an_initial_step_is_along_delta_and_its_momentum_with_alpha_times_its_size():
    """But for what is random in theta."""
    params, workers = random_params(["r2"]), workers_of_a_matrix()
    learned_opt = LOptR(steering=False, step_size=ConstantAlpha(1.5))
    rule = learned_opt.transformation(learned_opt.init(jax.random.PRNGKey(0)))
    steps, _ = jax.jit(rule.update)(mean_of(workers), rule.init(params), params)
    for n, delta in mean_of(workers).items():
        np.testing.assert_allclose(rms(steps[n]), 1.5 * rms(delta), rtol=1e-5)
        assert -np.mean(steps[n] * delta) > 0.9 * rms(steps[n]) * rms(delta)


@jax.jit
def step_of_lagg_r(delta, **of_workers):
    learned_opt = LAggR(steering=False)
    rule = learned_opt.transformation(random_theta(learned_opt))
    params = random_params(["r2"])
    return rule.update(delta, rule.init(params), params, **of_workers)[0]


def workers_of_a_matrix(seed=0):
    return random_workers(seed, ["r2"])


def test_one_theta_serves_any_number_of_workers():
    workers = workers_of_a_matrix()
    step = step_of_lagg_r(mean_of(workers), worker_deltas=workers)
    twice = jax.tree.map(lambda w: jnp.concatenate([w, w]), workers)
    found = step_of_lagg_r(mean_of(workers), worker_deltas=twice)
    assert_trees_close(found, step, rtol=1e-4, atol=1e-7)


def test_an_absent_worker_is_as_if_it_were_not_there():
    workers = workers_of_a_matrix()
    there = jax.tree.map(lambda w: w[::2], workers)
    expected = step_of_lagg_r(mean_of(there), worker_deltas=there)
    poisoned = jax.tree.map(lambda w: w.at[1].set(jnp.nan), workers)
    weights = jnp.asarray([1.0, 0.0, 1.0])
    found = step_of_lagg_r(mean_of(there), worker_deltas=poisoned, worker_weights=weights)
    assert_trees_close(found, expected, rtol=1e-4, atol=1e-7)


def test_given_squares_are_those_of_the_deltas():
    workers = workers_of_a_matrix()
    squares = mean_of_squares(workers)
    found = step_of_lagg_r(mean_of(workers), worker_squares=squares)
    expected = step_of_lagg_r(mean_of(workers), worker_deltas=workers)
    assert_trees_close(found, expected, rtol=1e-4, atol=1e-7)


def test_one_worker_agrees_with_itself_and_rounding_of_its_squares_changes_little():
    delta = mean_of(workers_of_a_matrix())
    alone = step_of_lagg_r(delta, worker_deltas=jax.tree.map(lambda d: d[None], delta))
    squares = jax.tree.map(jnp.square, delta)
    for rounded in (1.0, 1 + 2e-7):
        given = jax.tree.map(lambda q, r=rounded: q * r, squares)
        found = step_of_lagg_r(delta, worker_squares=given)["r2"]
        assert rms(found - alone["r2"]) < 0.1 * rms(alone["r2"])


def test_lagg_r_without_anything_of_the_workers_says_what_to_pass():
    with pytest.raises(ValueError, match=r"LAggR needs the second .*worker_squares=True"):
        step_of_lagg_r(mean_of(workers_of_a_matrix()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LOptR(hidden_size=1), "hidden_size=1: a relative rule starts with 2"),
        (lambda: ConstantAlpha(0.0), "value=0.0 lies outside"),
        (lambda: AlphaFromStatistics(low=2.0, high=2.0), "high=2.0 lies outside"),
        (lambda: MomentumAlpha(exponents=(1.0,)).init(None, 3, 7), "1 exponents of 3 momenta"),
    ],
)
def test_argument_that_makes_no_sense_is_an_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
