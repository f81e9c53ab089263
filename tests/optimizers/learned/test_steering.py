"""How the local rate is steered, against NumPy, and rounds that are undone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_tasks import assert_trees_equal

from comm_lopt.optimizers.learned.relative import LOptR
from comm_lopt.optimizers.learned.steering import Steering, alignment
from comm_lopt.optimizers.local_rate import with_num_rounds
from comm_lopt.round_state import RoundState

SHAPES = {"vector": (6,), "matrix": (3, 4), "often_frozen": (2, 2, 3)}
LEARNED_OPT = LOptR(steering=Steering(pace=0.3, learned=True))


def theta_with(**steering):
    theta = LEARNED_OPT.init(jax.random.PRNGKey(0))
    return {**theta, "steering": {**theta["steering"], **steering}}


THETA = theta_with()


def params():
    rng = np.random.default_rng(9)
    return {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in SHAPES.items()}


def delta_of(seed, frozen=False):
    """Deltas that have a part in common."""
    same, rng = np.random.default_rng(99), np.random.default_rng(seed)
    deltas = {
        n: jnp.asarray(0.01 * (same.normal(size=s) + rng.normal(size=s)), jnp.float32)
        for n, s in SHAPES.items()
    }
    return {**deltas, "often_frozen": deltas["often_frozen"] * jnp.float32(not frozen)}


@functools.cache
def compiled(added):
    """A round, by the transformation or by the optimizer that adds in one pass."""

    @jax.jit
    def one(theta, params, state, delta, loss, start_loss=None):
        return LEARNED_OPT.after_round(
            theta, delta, state, params, added=added, value=loss, start_value=start_loss
        )

    return one


def start(num_rounds=None):
    return with_num_rounds(LEARNED_OPT.start(params()), num_rounds)


def go(theta, losses, deltas=None, num_rounds=None):
    """The states after each of some rounds; a loss may stand with that at the round's start."""
    w, state, states = params(), start(num_rounds), []
    for number, loss in enumerate(losses):
        delta = delta_of(number) if deltas is None else deltas[number]
        told = map(jnp.float32, loss if isinstance(loss, tuple) else (loss,))
        w, state = compiled(True)(theta, w, state, delta, *told)
        states.append(state)
    return states


def cosine(a, b):
    a, b = np.ravel(a), np.ravel(b)
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) if np.any(a) and np.any(b) else 0.0


@pytest.mark.parametrize("num_rounds", [None, 20, 1000])
def test_rounds_are_what_numpy_computes(num_rounds):
    """One whose loss is no number and one whose loss is too high among them."""
    weights, y, b = np.asarray([0.05, -0.03, 0.02]), 0.04, -0.01
    theta = theta_with(
        weights=jnp.asarray(weights, jnp.float32), loss=jnp.float32(y), bias=jnp.float32(b)
    )
    losses = [2.0, 1.7, np.nan, 9.0, 1.9, 0.2, 0.3]
    deltas = [delta_of(number, frozen=number in (1, 4)) for number in range(len(losses))]
    momenta = {n: [np.zeros(s)] * 3 for n, s in SHAPES.items()}
    log_r, last, highest, undone_rounds = 0.0, None, np.inf, []
    first = next(loss for loss in losses if np.isfinite(loss))
    states, falls = go(theta, losses, deltas, num_rounds), 0
    for loss, delta, state in zip(losses, deltas, states, strict=True):
        if not np.isfinite(loss) or loss > 2 * highest:
            undone_rounds.append(loss)
            log_r, highest = log_r - np.log(4.0), 1.5 * highest
        else:
            moved = [n for n in ("matrix", "often_frozen") if np.any(delta[n])]
            cosines = [np.mean([cosine(delta[n], momenta[n][i]) for n in moved]) for i in range(3)]
            change = (np.asarray([1, 0, 0]) + 10 * weights) @ cosines + 10 * b
            if last is not None:
                change += 10 * y * np.clip(np.log(loss / last), -1, 1)
            # T = 1000: a nineteenth of the pace downwards.
            pace = 0.3 / 19 if change < 0 and num_rounds == 1000 else 0.3
            falls += change < 0
            log_r += pace * np.clip(change, -2, 2)
            decayed = loss if np.isinf(highest) else 0.9 * highest
            seen = min(loss, max(highest, first))
            last, highest = loss, max(seen, decayed, first / 4)
            for n, averages in momenta.items():
                momenta[n] = [
                    beta * m + (1 - beta) * np.asarray(delta[n], np.float64)
                    for beta, m in zip((0.9, 0.99, 0.999), averages, strict=True)
                ]
        np.testing.assert_allclose(state.local_rate, np.exp(log_r), rtol=1e-4)
        np.testing.assert_allclose(state.highest_loss, highest, rtol=1e-5)
        np.testing.assert_allclose([state.last_loss, state.first_loss], [last, first], rtol=1e-6)
        assert state.rounds_undone == len(undone_rounds)
    assert len(undone_rounds) == 2 and 0 < falls < 5


@pytest.mark.parametrize(("num_rounds", "decay"), [(8, 1.0), (8, 0.5), (8, 0.0), (None, 1.0)])
def test_the_rate_decays_over_the_rounds_that_are_told(num_rounds, decay):
    """To 1/T and no further in rounds beyond them; by that alone at pace 0, whatever agrees."""
    steering = Steering(pace=0.0, decay=decay)
    state = with_num_rounds(steering.start(None, jnp.int32(0), {}), num_rounds)
    cut = 1.0
    for t in range(1, 11):
        undone = t == 3
        cut /= 4.0 if undone else 1.0
        aligned = jnp.full(3, 0.9)
        rate, *_ = steering.after({}, state, aligned, None, jnp.asarray(undone))
        left = max(1 - t / num_rounds, 1 / num_rounds) if num_rounds else 1.0
        np.testing.assert_allclose(rate, cut * left**decay, rtol=1e-5)
        state = state._replace(local_rate=rate, count=state.count + 1)


def test_the_rate_stays_within_its_bounds():
    steering = Steering(low=0.9, high=1.1, learned=True)
    state, theta = steering.start(None, jnp.int32(0), {}), steering.init(3)
    for cosines, expected in ((1.0, 1.1), (-1.0, 0.9)):
        aligned = jnp.full(3, cosines)
        rate, *_ = steering.after(theta, state, aligned, None, jnp.asarray(False))
        np.testing.assert_allclose(rate, expected, rtol=1e-6)


NO_ROUNDS = {
    "no number in delta": (jnp.nan, 1.0),
    "delta infinite": (jnp.inf, 1.0),
    "delta too large to square": (1e25, 1.0),
    "loss no number": (0.0, jnp.nan),
    "loss infinite": (0.0, jnp.inf),
    "loss explodes": (0.0, 50.0),
}


@pytest.mark.parametrize("case", NO_ROUNDS)
@pytest.mark.parametrize("added", [True, False])
def test_a_round_gone_wrong_goes_back_and_changes_but_count_rate_and_bound(case, added):
    w = params()
    out, state = compiled(added)(THETA, w, start(), delta_of(0), jnp.float32(1.2))
    before, w = w, out if added else jax.tree.map(jnp.add, w, out)
    wrong, loss = NO_ROUNDS[case]
    delta = delta_of(1)
    if wrong:
        delta["vector"] = delta["vector"].at[2].set(wrong)
    out, new = compiled(added)(THETA, w, state, delta, jnp.float32(loss))
    assert_trees_equal(out, before if added else jax.tree.map(jnp.subtract, before, w))
    expected = state._replace(
        count=state.count + 1,
        local_rate=state.local_rate / 4,
        highest_loss=1.5 * state.highest_loss,
        rounds_undone=jnp.int32(1),
    )
    assert_trees_equal(new, expected)


def test_a_second_round_gone_wrong_goes_back_no_further():
    w, state, seen = params(), start(), []
    for number, loss in enumerate((1.2, 1.1, np.nan, 60.0, 1.1)):
        seen.append(w)
        w, state = compiled(True)(THETA, w, state, delta_of(number), jnp.float32(loss))
    assert_trees_equal(seen[3], seen[1])
    assert_trees_equal(seen[4], seen[1])
    assert_trees_equal(state.previous, seen[1])
    assert not np.array_equal(w["matrix"], seen[1]["matrix"])


def test_a_first_round_may_go_wrong():
    states = go(THETA, [np.nan, 1.0])
    assert [int(state.rounds_undone) for state in states] == [1, 1]
    assert np.isinf(states[0].highest_loss) and float(states[1].highest_loss) == 1.0


def test_a_lasting_jump_of_the_loss_is_accepted_after_a_few_rounds():
    undone = [int(state.rounds_undone) for state in go(THETA, [1.0, *[10.0] * 6])]
    # 1.4 · 1.5⁵ > 10, and the jump is then what is high of late.
    assert undone == [0, 1, 2, 3, 4, 5, 5]


def test_losses_that_climb_little_by_little_are_stopped_above_the_first():
    losses = [2.0, 1.0, *[1.2**n for n in range(1, 8)]]
    undone = [int(state.rounds_undone) for state in go(THETA, losses)]
    assert losses[-3] < 1.4 * 2.0 < losses[-2]
    assert undone[-3:] == [0, 1, 1]


def test_a_loss_that_rises_by_half_has_its_round_undone():
    assert int(go(THETA, [3.4, 3.3, 5.0])[-1].rounds_undone) == 1
    assert int(go(THETA, [3.4, 3.3, 4.2])[-1].rounds_undone) == 0


def test_losses_that_are_small_beside_the_first_may_jump():
    losses = [1.0, *[0.01] * 30, 0.3, 0.01, 3.0]
    undone = [int(state.rounds_undone) for state in go(THETA, losses)]
    assert undone == [0] * (len(losses) - 1) + [1]


def test_a_first_round_is_bounded_by_the_loss_at_its_start():
    """What is far too large a γ leaves the weights alone, however large a loss it makes finite."""
    w, state = params(), start()
    rates = []
    for number, loss in enumerate((1e20, 1e4, 30.0, 2.5)):
        told = jnp.float32(loss), jnp.float32(2.0)
        w, state = compiled(True)(THETA, w, state, delta_of(number), *told)
        rates.append(float(state.local_rate))
        if number < 3:
            assert_trees_equal(w, params())
    assert rates[:3] == [0.25, 0.0625, 0.015625]
    assert int(state.rounds_undone) == 3 and float(state.last_loss) == 2.5
    assert not np.array_equal(w["matrix"], params()["matrix"])


def test_local_steps_that_went_wrong_undo_no_step_before_them():
    told = [(2.0, 2.0), (1.8, 1.9), (50.0, 1.8), (50.0, 40.0)]
    w, state, seen = params(), start(), []
    for number, losses in enumerate(told):
        seen.append(w)
        w, state = compiled(True)(THETA, w, state, delta_of(number), *map(jnp.float32, losses))
    # The third round's weights were right, and those of the last, which are the same, are not.
    assert_trees_equal(seen[3], seen[2])
    assert_trees_equal(w, seen[1])
    assert int(state.rounds_undone) == 2


@pytest.mark.parametrize("added", [True, False])
def test_a_round_whose_weights_stay_is_a_step_of_nothing(added):
    losses = jnp.float32(1e9), jnp.float32(2.0)
    out, _ = compiled(added)(THETA, params(), start(), delta_of(0), *losses)
    assert_trees_equal(out, params() if added else jax.tree.map(jnp.zeros_like, params()))


@pytest.mark.parametrize("loss", [-3.0, 0.0, None])
def test_where_a_loss_says_nothing_by_its_ratio_delta_alone_decides(loss):
    state = start()
    for number in range(3):
        later = None if loss is None else jnp.float32(loss * (number + 1))
        _, state = compiled(True)(THETA, params(), state, delta_of(number), later)
        assert state.rounds_undone == 0
        assert np.isfinite(state.local_rate) and state.local_rate > 0
    bad = {**delta_of(3), "matrix": jnp.full((3, 4), jnp.nan)}
    assert compiled(True)(THETA, params(), state, bad, later)[1].rounds_undone == 1


def test_alignment_is_over_matrices_if_there_are_any():
    rng = np.random.default_rng(0)
    deltas = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((4,), (2, 3), (0, 3), ())]
    momenta = [jnp.stack([d, -d, 1e-25 * d]) for d in deltas]
    np.testing.assert_allclose(alignment(deltas, momenta), [1, -1, 1], rtol=1e-5)
    momenta[1] = jnp.zeros_like(momenta[1])
    np.testing.assert_array_equal(alignment(deltas, momenta), np.zeros(3))
    np.testing.assert_allclose(alignment(deltas[:1], momenta[:1]), [1, -1, 1], rtol=1e-5)
    assert float(alignment([], [])) == 0.0


def test_what_a_round_left_in_other_states_is_undone_with_it():
    """Such as workers' momenta or averages of a BatchNorm, which would never be numbers again."""
    opt = LEARNED_OPT.opt_fn(THETA)
    update = jax.jit(lambda s, loss: opt.update(s, delta_of(0), loss=loss, model_state=after))
    before = RoundState({"average": jnp.ones(2)}, local_opt_states=jnp.ones((3, 2)))
    after = jax.tree.map(lambda leaf: 5 * leaf, before)
    state = opt.init(params(), before)
    for loss, expected in ((1.0, after), (jnp.nan, before)):
        kept = opt.get_state(update(state, jnp.float32(loss)))
        assert_trees_equal(kept._replace(local_rate=None), expected)
        assert (float(kept.local_rate) == 0.25) == np.isnan(loss)


@pytest.mark.parametrize(
    "arguments",
    [{"pace": -0.1}, {"decay": -1.0}, {"low": 0.0}, {"low": 2.0, "high": 1.0}, {"cut": 1.0}],
)
def test_argument_that_makes_no_sense_is_an_error(arguments):
    with pytest.raises(ValueError, match="lies outside"):
        Steering(**arguments)


@pytest.mark.parametrize("undone", [False, True])
def test_steering_that_is_not_learned_steers_as_one_that_was_not_meta_trained(undone):
    learned, fixed = Steering(learned=True), Steering()
    assert fixed.init(2) == {}
    state = learned.start((), jnp.int32(0), {})._replace(last_loss=jnp.float32(1.0))
    seen = jnp.asarray([0.5, -0.2], jnp.float32), jnp.float32(0.8), jnp.asarray(undone)
    expected = learned.after(learned.init(2), state, *seen)
    np.testing.assert_array_equal(fixed.after({}, state, *seen), expected)
    np.testing.assert_allclose(expected[0], 0.25 if undone else np.exp(0.1), rtol=1e-6)


def test_whether_steering_is_learned_is_told_with_theta():
    rule = LOptR(steering=Steering(learned=True))
    assert LOptR.from_hparams(rule.hparams()).steering == rule.steering
