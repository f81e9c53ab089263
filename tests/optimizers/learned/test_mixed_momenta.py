"""LOptM: by hand in NumPy, in other units, with and without T, and where Δ is noise."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_tasks import assert_trees_close, assert_trees_equal

from comm_lopt.optimizers.learned.mixed_momenta import LOptM
from comm_lopt.optimizers.learned.momentum_features import MomentumFeatures
from comm_lopt.optimizers.local_rate import local_rate_of
from comm_lopt.optimizers.rules import nesterov

ROUNDS = 4
SHAPES = {"r0": (), "r1": (5,), "r2": (3, 4), "r4": (2, 3, 2, 2)}
DECAYS = (0.6, 0.95)
# A bound that some of the steps are below, and others above.
LONGEST, AGREEMENT = 0.5, 0.5
LEARNED_OPT = LOptM(
    MomentumFeatures(DECAYS), hidden_size=3, initial=(0.4, 0.7, 0.2), longest=LONGEST,
    agreement=AGREEMENT,
)  # fmt: skip


def random_theta(seed=4):
    """An initial theta and a little noise everywhere, as all that is 0 at first is learned."""
    leaves, treedef = jax.tree.flatten(LEARNED_OPT.init(jax.random.PRNGKey(seed)))
    rng = np.random.default_rng(seed)
    return treedef.unflatten(
        [leaf + jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves]
    )


def random_tree(seed, size):
    rng = np.random.default_rng(seed)
    return {n: jnp.asarray(size * rng.normal(size=s), jnp.float32) for n, s in SHAPES.items()}


@functools.cache
def compiled():
    def one(theta, delta, params, state):
        steps, state = LEARNED_OPT.transformation(theta).update(delta, state, params)
        return jax.tree.map(jnp.add, params, steps), state

    return jax.jit(one)


def train(theta, num_rounds=None, c=1.0):
    """Parameters after each round, where all lengths are times c; and the local rates."""
    scaled = functools.partial(jax.tree.map, lambda x: c * x)
    params = scaled(random_tree(0, 1.0))
    state = LEARNED_OPT.transformation(theta, num_rounds=num_rounds).init(params)
    course, rates = [params], []
    for number in range(ROUNDS):
        params, state = compiled()(theta, scaled(random_tree(number + 1, 0.05)), params, state)
        course.append(params)
        rates.append(float(local_rate_of(state)))
    return course, rates


def rms(array):
    return np.sqrt(np.mean(np.square(array)))


def slow_course(theta, name, num_rounds):
    """The course of one tensor, in float64: its momenta as sums over all rounds.

    Also for each round whether the step was shortened, and whether it might be longer than LONGEST.
    """
    mlp = {n: np.asarray(w, np.float64) for n, w in theta["mlp"].items()}
    param, past = np.asarray(random_tree(0, 1.0)[name], np.float64), []
    course, shortened, longer = [param], [], []
    for number in range(ROUNDS):
        delta = np.asarray(random_tree(number + 1, 0.05)[name], np.float64)
        past.insert(0, delta)
        sums = [sum(b**i * d for i, d in enumerate(past)) for b in DECAYS]
        momenta = [(1 - b) * s for b, s in zip(DECAYS, sums, strict=True)]
        logs = [np.log(rms(s) / rms(delta)) for s in sums]
        cosines = [np.mean(m * delta) / (rms(m) * rms(delta)) for m in momenta]
        left = 1.0 if num_rounds is None else max(1 - number / num_rounds, 1 / num_rounds)
        inputs = np.array([*logs, *cosines, np.log(rms(delta) / rms(param)) / 4, left])
        hidden = np.maximum(inputs @ mlp["w0"] + mlp["b0"], 0)
        a = np.array([0.4, 0.7, 0.2]) + hidden @ mlp["w1"] + mlp["b1"]
        mixed = a[0] * delta + sum(w * m for w, m in zip(a[1:], momenta, strict=True))
        longest = LONGEST + AGREEMENT * (1 - left) * max(cosines[-1], 0)
        shortened.append(rms(mixed) > longest * rms(delta))
        longer.append(longest > 1.05 * LONGEST)
        param = param - mixed * (longest * rms(delta) / rms(mixed) if shortened[-1] else 1.0)
        course.append(param)
    return course, set(zip(shortened, longer, strict=True))


# A run of three rounds that goes on: the fourth is as the third.
@pytest.mark.parametrize("num_rounds", [None, 3])
def test_rounds_are_those_of_the_slow_version(num_rounds):
    theta = random_theta()
    course, _ = train(theta, num_rounds)
    seen = set()
    for name in SHAPES:
        expected, bounds = slow_course(theta, name, num_rounds)
        seen.update(bounds)
        moved = np.max(np.abs(expected[-1] - expected[0]))
        assert moved > 1e-2
        for found, slow in zip(course, expected, strict=True):
            np.testing.assert_allclose(found[name], slow, atol=1e-4 * moved, rtol=0)
    assert {shortened for shortened, _ in seen} == {False, True}
    # Without T no round is late enough to have a longer step.
    assert ((True, True) in seen) == (num_rounds is not None)


def test_steps_are_in_units_of_delta():
    course, _ = train(random_theta())
    for c in (1e-3, 100.0):
        scaled, _ = train(random_theta(), c=c)
        assert_trees_close(
            jax.tree.map(lambda p, c=c: p / c, scaled[-1]), course[-1], rtol=1e-4, atol=1e-5
        )


def test_the_local_rate_falls_in_a_line_to_a_last_round_of_one_part_of_t():
    _, rates = train(random_theta(), num_rounds=ROUNDS)
    np.testing.assert_allclose(rates, [0.75, 0.5, 0.25, 0.25], rtol=1e-6)


def test_the_local_rate_stays_where_t_is_not_known():
    assert train(random_theta())[1] == [1.0] * ROUNDS


def test_an_initial_theta_is_nesterovs_momentum_but_for_what_is_random():
    """With one average of decay μ it is η (Δ + μ Σ μ^i Δ), as outside of MuLoCo."""
    rate, decay = 0.5, 0.6
    initial = rate, rate * decay / (1 - decay)
    learned_opt = LOptM(MomentumFeatures((decay,)), initial=initial, longest=10.0)
    theta = jax.tree.map(jnp.zeros_like, learned_opt.init(jax.random.PRNGKey(0)))
    ours, theirs = learned_opt.transformation(theta), nesterov(rate, momentum=decay)
    params = random_tree(0, 1.0)
    states = [ours.init(params), theirs.init(params)]
    for number in range(3):
        delta = random_tree(number + 1, 0.05)
        found, states[0] = ours.update(delta, states[0], params)
        expected, states[1] = theirs.update(delta, states[1], params)
        assert_trees_close(found, expected, rtol=1e-4, atol=1e-7)


def test_late_steps_are_longer_where_rounds_agree_and_early_ones_are_not():
    """Where all rounds are the same, a step is as long as the bound lets it be."""
    learned_opt = LOptM(initial=(9.0, 0.0, 0.0, 0.0), longest=1.0, agreement=2.0)
    theta = jax.tree.map(jnp.zeros_like, learned_opt.init(jax.random.PRNGKey(0)))
    ours, delta = learned_opt.transformation(theta, num_rounds=4), random_tree(1, 0.05)
    state, params = ours.init(delta), random_tree(0, 1.0)
    lengths = []
    for _ in range(4):
        steps, state = ours.update(delta, state, params)
        lengths.append(float(rms(steps["r2"]) / rms(delta["r2"])))
    np.testing.assert_allclose(lengths, [1.0, 1.5, 2.0, 2.5], rtol=1e-5)
    turned = jax.tree.map(jnp.negative, delta)
    steps, _ = ours.update(turned, state, params)
    np.testing.assert_allclose(rms(steps["r2"]), rms(delta["r2"]), rtol=1e-5)


def test_a_tensor_whose_delta_is_zero_stays():
    theta, params = random_theta(), random_tree(0, 1.0)
    state = LEARNED_OPT.transformation(theta).init(params)
    moved, state = compiled()(theta, random_tree(1, 0.05), params, state)
    frozen = {**random_tree(2, 0.05), "r2": jnp.zeros(SHAPES["r2"])}
    after, _ = compiled()(theta, frozen, moved, state)
    assert_trees_equal(after["r2"], moved["r2"])
    assert np.all(np.asarray(after["r1"]) != np.asarray(moved["r1"]))


def test_every_part_of_theta_changes_the_rounds():
    theta = random_theta()
    leaves, treedef = jax.tree.flatten(theta)
    expected = train(theta)[0][-1]
    assert len(leaves) == 4
    for number in range(len(leaves)):
        changed = [leaf + 0.1 * (i == number) for i, leaf in enumerate(leaves)]
        found = train(treedef.unflatten(changed))[0][-1]
        assert rms(found["r4"] - expected["r4"]) > 1e-5, number


def test_its_arguments_make_it_anew():
    again = LOptM.from_hparams(LEARNED_OPT.hparams())
    assert again.hparams() == LEARNED_OPT.hparams()
    assert (again.features, again.initial) == (LEARNED_OPT.features, LEARNED_OPT.initial)
    assert (again.longest, again.agreement) == (LONGEST, AGREEMENT)
    assert again.steering == LEARNED_OPT.steering and again.steering.decay == 1.0


def test_a_theta_of_before_steps_could_be_longer_keeps_its_steps():
    hparams = LEARNED_OPT.hparams()
    del hparams["agreement"]
    assert LOptM.from_hparams(hparams).agreement == 0.0 != LOptM().agreement


def test_arguments_that_make_no_sense_are_errors():
    with pytest.raises(ValueError, match=r"3 averages take one number each"):
        LOptM(initial=(0.5, 0.8))
    with pytest.raises(ValueError, match=r"longest=0.0 lies outside"):
        LOptM(longest=0.0)
    with pytest.raises(ValueError, match=r"agreement=-1.0 lies outside"):
        LOptM(agreement=-1.0)
