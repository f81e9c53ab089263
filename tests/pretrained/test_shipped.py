"""Every theta that ships, and a small one in their place: it is what its card says."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import comm_lopt
from comm_lopt.pretrained.check_run import check_losses
from comm_lopt.pretrained.folders import shipped
from comm_lopt.pretrained.model_card import readme
from comm_lopt.theta import theta_file

CHECKOUT = pathlib.Path(__file__).resolve().parents[2] / "comm_lopt" / "pretrained"
SHIPPED = sorted(shipped().values())
FILES = {"theta.safetensors", "card.json", "config.gin", "README.md"}


@pytest.fixture(params=[None, *SHIPPED], ids=["small", *(path.name for path in SHIPPED)])
def folder(request):
    return request.param or request.getfixturevalue("small_folder")


def test_theta_is_the_one_of_its_card_and_makes_an_optimizer(folder):
    found = comm_lopt.load(folder)
    assert {path.name for path in folder.iterdir()} == FILES
    assert found.name == found.card.name == folder.name
    assert found.card.sha256 == theta_file(folder)["sha256"]
    assert found.card.rule == type(found.learned_opt).__name__
    assert isinstance(found.transformation(), optax.GradientTransformation)


def test_readme_is_what_the_card_says(folder):
    card = comm_lopt.load(folder).card
    assert (folder / "README.md").read_text(encoding="utf-8") == readme(card)


def test_check_run_has_the_recorded_losses(folder, ordinary_promotion):
    found = comm_lopt.load(folder)
    losses = check_losses(found.learned_opt, found.theta, found.card.check)
    assert len(losses) == found.card.check.num_rounds > 3
    np.testing.assert_allclose(losses, found.card.check.losses, rtol=1e-4)


def test_check_run_is_around_the_local_optimizer_that_it_says(small_folder, ordinary_promotion):
    found = comm_lopt.load(small_folder)
    around_muon = dataclasses.replace(found.card.check, local_optimizer="local_muon")
    losses = check_losses(found.learned_opt, found.theta, around_muon)
    # The first round's losses are mostly of its start.
    assert abs(losses[-1] - found.card.check.losses[-1]) > 0.01


@pytest.mark.parametrize("rate", [1e-3, 10.0, 1000.0])
@pytest.mark.parametrize("name", ["lopt-r-1", "lagg-r-1"])
def test_a_rate_far_from_right_costs_rounds_and_not_the_run(name, rate, ordinary_promotion):
    """Linear regression, whose local steps bear no γ of 10."""
    optimizer = comm_lopt.every_h_steps(optax.sgd(rate), comm_lopt.load(name).transformation(), 4)
    target = jax.random.normal(jax.random.PRNGKey(0), (8, 4))

    def loss_fn(params, x):
        return jnp.mean((x @ (params["w"] - target) + params["b"]) ** 2)

    def step(carry, key):
        params, state = carry
        x = jax.random.normal(key, (16, 8))
        loss, gradient = jax.value_and_grad(loss_fn)(params, x)
        updates, state = optimizer.update(gradient, state, params, value=loss)
        return (optax.apply_updates(params, updates), state), loss

    params = {"w": jnp.zeros((8, 4)), "b": jnp.zeros(4)}
    keys = jax.random.split(jax.random.PRNGKey(1), 320)
    start = params, optimizer.init(params)
    _, losses = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))(start)
    assert losses[-4:].mean() < 0.01 * losses[0]


def test_all_that_ships_is_installed():
    if not CHECKOUT.exists():
        pytest.skip("there is no checkout beside an installed package")
    there = {path.relative_to(CHECKOUT) for path in CHECKOUT.glob("*-[0-9]*/*")}
    installed = {path.relative_to(f.parent) for f in SHIPPED for path in f.iterdir()}
    assert installed == there
