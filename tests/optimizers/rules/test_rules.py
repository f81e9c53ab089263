"""The hand-designed rules against the equations of their papers, in plain NumPy."""

import functools

import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_tasks import assert_trees_close

from comm_lopt.optimizers import rules

SHAPES = {"scalar": (), "vector": (4,), "matrix": (3, 5)}
NUM_ROUNDS = 3


def make_tree(seed, scale=1.0):
    """Random tensors of rank 0 to 2, and a leaf that is None."""
    rng = np.random.default_rng(seed)
    tensors = {n: np.float32(scale * rng.normal(size=shape)) for n, shape in SHAPES.items()}
    return {**tensors, "frozen": None}


PARAMS = make_tree(0)
DELTAS = [make_tree(seed, 0.1) for seed in range(1, NUM_ROUNDS + 1)]


def averaging(w, deltas):
    for delta in deltas:
        yield (w := w - delta)


def outer_sgd(w, deltas, learning_rate):
    for delta in deltas:
        yield (w := w - learning_rate * delta)


def slowmo(w, deltas, momentum, slow_learning_rate, local_rate=0.3):
    u = 0.0
    for delta in deltas:
        u = momentum * u + delta / local_rate
        yield (w := w - slow_learning_rate * local_rate * u)


def momentum_sgd(w, deltas, learning_rate, momentum):
    v = 0.0
    for delta in deltas:
        v = momentum * v + delta
        yield (w := w - learning_rate * v)


def nesterov(w, deltas, learning_rate, momentum):
    b = 0.0
    for delta in deltas:
        b = momentum * b + delta
        yield (w := w - learning_rate * (momentum * b + delta))


def fedadam(w, deltas, learning_rate, b1, b2, tau):
    m, v = 0.0, tau**2
    for delta in deltas:
        m = b1 * m + (1 - b1) * delta
        v = b2 * v + (1 - b2) * delta**2
        yield (w := w - learning_rate * m / (np.sqrt(v) + tau))


def fedyogi(w, deltas, learning_rate, b1, b2, tau):
    m, v = 0.0, tau**2
    for delta in deltas:
        m = b1 * m + (1 - b1) * delta
        v = v - (1 - b2) * delta**2 * np.sign(v - delta**2)
        yield (w := w - learning_rate * m / (np.sqrt(v) + tau))


def ema_nesterov(w, deltas, lookahead, decay):
    theta, m = w, 0.0
    for delta in deltas:
        new = (theta + lookahead * m) - delta  # the round, from the point ahead
        m = decay * m + (1 - decay) * (new - theta)
        theta = new
        yield theta + lookahead * m


def gpa(w, deltas, learning_rate, train_interp_coeff, eval_interp_coeff):
    x = z = w
    for delta in deltas:
        z = z - learning_rate * delta
        x = eval_interp_coeff * x + (1 - eval_interp_coeff) * z
        yield train_interp_coeff * x + (1 - train_interp_coeff) * z


def decayed_sgd(w, deltas, learning_rate, momentum, weight_decay):
    b = 0.0
    for delta in deltas:
        b = momentum * b + delta + weight_decay * w
        yield (w := w - learning_rate * b)


def adamw(w, deltas, learning_rate, b1, b2, epsilon, weight_decay):
    m = v = 0.0
    for t, delta in enumerate(deltas, 1):
        m = b1 * m + (1 - b1) * delta
        v = b2 * v + (1 - b2) * delta**2
        adam = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + epsilon)
        yield (w := w - learning_rate * (adam + weight_decay * w))


FEDOPT = {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "tau": 0.03}
SGD = {"learning_rate": 0.3, "momentum": 0.6}
# Name in gin: the rule, its equations, hyperparameters.
RULES = {
    "LocalSGD": (rules.averaging, averaging, {}),
    "OuterSGD": (rules.outer_sgd, outer_sgd, {"learning_rate": 1.3}),
    "SlowMo": (rules.slowmo, slowmo, {"momentum": 0.7, "slow_learning_rate": 0.6}),
    "FedAvgM": (rules.fedavgm, momentum_sgd, SGD),
    "Nesterov": (rules.nesterov, nesterov, SGD),
    "FedAdam": (rules.fedadam, fedadam, FEDOPT),
    "FedYogi": (rules.fedyogi, fedyogi, FEDOPT),
    "EMANesterov": (rules.ema_nesterov, ema_nesterov, {"lookahead": 0.4, "decay": 0.8}),
    "GPA": (
        rules.gpa,
        gpa,
        {"learning_rate": 1.5, "train_interp_coeff": 0.7, "eval_interp_coeff": 0.8},
    ),
    "DataParallelSGD": (rules.data_parallel_sgd, decayed_sgd, {**SGD, "weight_decay": 0.1}),
    "DataParallelSGDM": (rules.data_parallel_sgdm, decayed_sgd, {**SGD, "weight_decay": 0.1}),
    "DataParallelAdam": (
        rules.data_parallel_adam,
        adamw,
        {"learning_rate": 0.05, "b1": 0.8, "b2": 0.95, "epsilon": 1e-3, "weight_decay": 0.1},
    ),
}


@pytest.fixture(params=RULES)
def name(request):
    """Each rule in turn; optax's Adam fails under strict promotion."""
    if request.param == "DataParallelAdam":
        request.getfixturevalue("ordinary_promotion")
    return request.param


def by_hand(name, scale=1):
    """Weights after each round, in float64, with all hyperparameters times `scale`."""
    _, equations, hparams = RULES[name]
    hparams = {n: scale * value for n, value in hparams.items()}
    start = {n: np.asarray(PARAMS[n], np.float64) for n in SHAPES}
    each = {
        n: list(equations(w, [np.asarray(d[n], np.float64) for d in DELTAS], **hparams))
        for n, w in start.items()
    }
    return [{**{n: each[n][t] for n in SHAPES}, "frozen": None} for t in range(NUM_ROUNDS)]


def weights_of_rounds(rule, num_rounds=NUM_ROUNDS):
    """Weights after each round, stacked, with the rounds scanned."""

    def one_round(carry, delta):
        params, state = carry
        updates, state = rule.update(delta, state, params, worker_deltas=None, loss=1.0)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    deltas = jax.tree.map(lambda *leaves: jnp.stack(leaves), *DELTAS[:num_rounds])
    params = jax.tree.map(jnp.asarray, PARAMS)
    return jax.lax.scan(one_round, (params, rule.init(params)), deltas)[1]


def test_rounds_follow_the_equations_of_the_paper(name):
    make, _, hparams = RULES[name]
    rule = make(**hparams)
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = rule.init(params)
    for delta, expected in zip(DELTAS, by_hand(name), strict=True):
        updates, state = rule.update(jax.tree.map(jnp.asarray, delta), state, params)
        params = optax.apply_updates(params, updates)
        assert_trees_close(params, expected, rtol=1e-5, atol=1e-6)


def test_scanned_rounds_of_a_sweep_agree_with_the_equations(name):
    make, _, hparams = RULES[name]
    sweep = {n: jnp.asarray([value, value / 2], jnp.float32) for n, value in hparams.items()}
    run = jax.jit(lambda hparams: weights_of_rounds(make(**hparams)))
    actual = jax.vmap(run)(sweep) if sweep else jax.tree.map(lambda w: w[None], run({}))
    for i, scale in enumerate((1, 0.5) if sweep else (1,)):
        expected = jax.tree.map(lambda *weights: np.stack(weights), *by_hand(name, scale))
        ith = jax.tree.map(lambda w, i=i: w[i], actual)
        assert_trees_close(ith, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("x64", [False, True])
def test_float32_stays_float32(name, x64):
    make, _, hparams = RULES[name]
    with jax.enable_x64(x64):
        params, delta = (jax.tree.map(jnp.asarray, tree) for tree in (PARAMS, DELTAS[0]))
        for rule in (make(), make(**hparams)):
            state = rule.init(params)
            updates, new_state = rule.update(delta, state, params)
            for tree in (state, new_state, updates):
                assert {leaf.dtype.name for leaf in jax.tree.leaves(tree)} <= {"float32", "int32"}
            types = [jax.tree.map(jax.typeof, tree) for tree in (state, new_state)]
            assert types[0] == types[1]


def test_takes_extra_arguments_and_masks(name):
    make, _, hparams = RULES[name]
    mask = {**dict.fromkeys(SHAPES, True), "vector": False, "frozen": None}
    rule = optax.masked(make(**hparams), mask)
    assert isinstance(rule, optax.GradientTransformationExtraArgs)
    params, delta = (jax.tree.map(jnp.asarray, tree) for tree in (PARAMS, DELTAS[0]))
    updates, _ = rule.update(delta, rule.init(params), params, worker_deltas=None)
    np.testing.assert_array_equal(updates["vector"], delta["vector"])
    new = optax.apply_updates(params, updates)
    assert_trees_close(new["matrix"], by_hand(name)[0]["matrix"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("OuterSGD", {"learning_rate": 0.0}, r"learning_rate=0.0 lies outside \(0.0"),
        ("SlowMo", {"momentum": 1.0}, r"momentum=1.0 lies outside \[0.0, 1.0\)"),
        ("SlowMo", {"slow_learning_rate": 0.0}, r"slow_learning_rate=0.0 lies outside \(0.0"),
        ("FedAvgM", {"learning_rate": 0.0}, r"learning_rate=0.0 lies outside \(0.0"),
        ("FedAvgM", {"momentum": -0.1}, r"momentum=-0.1 lies outside \[0.0, 1.0\)"),
        ("Nesterov", {"learning_rate": 0.0}, r"learning_rate=0.0 lies outside \(0.0"),
        ("Nesterov", {"momentum": 1.0}, r"momentum=1.0 lies outside \[0.0, 1.0\)"),
        ("FedAdam", {"tau": 0.0}, r"tau=0.0 lies outside \(0.0"),
        ("FedAdam", {"b2": 1.0}, r"b2=1.0 lies outside \[0.0, 1.0\)"),
        ("FedYogi", {"b1": 1.0}, r"b1=1.0 lies outside \[0.0, 1.0\)"),
        ("FedYogi", {"learning_rate": 0.0}, r"learning_rate=0.0 lies outside \(0.0"),
        ("EMANesterov", {"lookahead": 1.0}, r"lookahead=1.0 lies outside \[0.0, 1.0\)"),
        ("EMANesterov", {"decay": 1.0}, r"decay=1.0 lies outside \[0.0, 1.0\)"),
        ("GPA", {"learning_rate": 0.0}, r"learning_rate=0.0 lies outside \(0.0"),
        ("GPA", {"train_interp_coeff": 1.1}, r"train_interp_coeff=1.1 lies outside \[0.0, 1.0\]"),
        ("GPA", {"eval_interp_coeff": 1.0}, r"eval_interp_coeff=1.0 lies outside \[0.0, 1.0\)"),
        ("DataParallelSGD", {"learning_rate": 0.0}, r"learning_rate=0.0 lies outside \(0.0"),
        ("DataParallelSGD", {"clip_norm": 0.0}, r"clip_norm=0.0 lies outside \(0.0"),
        ("DataParallelSGDM", {"learning_rate": 0.0}, r"learning_rate=0.0 lies outside \(0.0"),
        ("DataParallelSGDM", {"momentum": 1.0}, r"momentum=1.0 lies outside \[0.0, 1.0\)"),
        ("DataParallelAdam", {"learning_rate": 0.0}, r"learning_rate=0.0 lies outside \(0.0"),
        ("DataParallelAdam", {"epsilon": -1.0}, r"epsilon=-1.0 lies outside \[0.0"),
        ("DataParallelAdam", {"weight_decay": -1.0}, r"weight_decay=-1.0 lies outside \[0.0"),
    ],
)
def test_hyperparameter_out_of_range_is_an_error(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        RULES[name][0](**arguments)


@pytest.mark.parametrize("name", [name for name in RULES if name != "LocalSGD"])
def test_gin_binds_hyperparameters_by_the_published_name(name):
    hparam = next(iter(RULES[name][2]))
    try:
        gin.parse_config(f"{name}.{hparam} = -3.0")
        with pytest.raises(ValueError, match=f"{hparam}=-3.0 lies outside"):
            RULES[name][0]()
    finally:
        gin.clear_config()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (functools.partial(rules.slowmo, 0.0, 1.0), rules.averaging),
        (functools.partial(rules.ema_nesterov, 0.0), rules.averaging),
        (functools.partial(rules.gpa, 0.8, 0.7, 0.0), functools.partial(rules.outer_sgd, 0.8)),
        # Primal averaging with one constant is Nesterov's method; DiLoCo's rate is 0.7.
        (functools.partial(rules.gpa, 7.0, 0.9, 0.9), rules.nesterov),
    ],
)
def test_rules_fall_together_where_their_papers_say_so(one, other):
    assert_trees_close(weights_of_rounds(one()), weights_of_rounds(other()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [rules.data_parallel_sgd, rules.data_parallel_adam])
def test_data_parallel_rules_clip_the_global_norm(make, ordinary_promotion):
    gradient = DELTAS[0]
    norm = np.sqrt(sum(np.sum(np.square(gradient[n])) for n in SHAPES))
    clipped = jax.tree.map(lambda g: jnp.asarray(g * (1e-2 / norm), jnp.float32), gradient)
    params = jax.tree.map(jnp.asarray, PARAMS)
    arguments = {"epsilon": 1e-2} if make is rules.data_parallel_adam else {}
    clips, plain = make(clip_norm=1e-2, **arguments), make(**arguments)
    updates, _ = clips.update(jax.tree.map(jnp.asarray, gradient), clips.init(params), params)
    expected, _ = plain.update(clipped, plain.init(params), params)
    assert_trees_close(updates, expected, rtol=1e-5, atol=1e-7)
