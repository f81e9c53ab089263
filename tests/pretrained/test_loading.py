"""`comm_lopt.load`: by name, folder and file; cards and thetas that do not fit are refused."""

import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import optax
import pytest
from small_tasks import assert_trees_equal

import comm_lopt
from comm_lopt.pretrained.card import Card, card_text, read_card
from comm_lopt.theta import ThetaError

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "how_to" / "shipped.md"


@pytest.fixture
def copy(small_folder, tmp_path):
    """A copy of the folder, to be changed."""
    return shutil.copytree(small_folder, tmp_path / "copy")


def test_name_folder_and_file_are_the_same_theta(small, small_folder):
    by_name = comm_lopt.load(small)
    file = small_folder / "theta.safetensors"
    for found in (comm_lopt.load(small_folder), comm_lopt.load(str(file))):
        assert_trees_equal(found.theta, by_name.theta)
        assert (found.name, found.card, found.file) == (small, by_name.card, by_name.file)
    assert by_name.file["path"] == str(file)
    assert_trees_equal(comm_lopt.load_theta(small)[1], by_name.theta)


def test_theta_without_a_card_is_named_after_its_folder_or_file(copy):
    (copy / "card.json").unlink()
    assert (comm_lopt.load(copy).name, comm_lopt.load(copy).card) == ("copy", None)
    other = (copy / "theta.safetensors").rename(copy / "mine.safetensors")
    assert (comm_lopt.load(other).name, comm_lopt.load(other).card) == ("mine", None)


def test_path_wins_over_a_name(small, copy, monkeypatch):
    (copy / "card.json").unlink()
    copy.rename(copy.with_name(small))
    monkeypatch.chdir(copy.parent)
    assert comm_lopt.load(small).card is None


def test_unknown_name_is_told_what_ships_and_the_nearest(small, tmp_path):
    with pytest.raises(ValueError, match=r"ships, but lopt-r-7; did you mean 'lopt-r-7'\?"):
        comm_lopt.load("LOpt-R-1")
    with pytest.raises(ValueError, match=r"ships, but lopt-r-7; pass one of these"):
        comm_lopt.load("something")
    with pytest.raises(FileNotFoundError, match="no theta at .*none"):
        comm_lopt.load(tmp_path / "none")


def test_own_optimizer_without_a_transformation_says_what_to_use(small):
    found = comm_lopt.Pretrained("mine", object(), {}, None, {}, {})
    with pytest.raises(TypeError, match="has no method `transformation`"):
        found.transformation()


def test_card_comes_back_as_it_was(small_folder):
    text = (small_folder / "card.json").read_text(encoding="utf-8")
    card = read_card(small_folder)
    assert card_text(card) == text
    assert Card.from_json(json.loads(text)) == card
    assert card.training.meta_seed == 3 and card.limits == ("It was hardly trained.",)


def test_card_of_before_other_local_optimizers_is_of_sgd(copy):
    card = json.loads((copy / "card.json").read_text(encoding="utf-8"))
    assert card["recommended"].pop("local_optimizer") == card["check"].pop("local_optimizer")
    assert card["recommended"].pop("steps_power") == card["recommended"].pop("workers_power") == 0.0
    (copy / "card.json").write_text(json.dumps(card), encoding="utf-8")
    assert read_card(copy).recommended.local_optimizer == "local_sgd"


def change(path, value):
    """Changes the value at a path of keys in a card's JSON."""

    def changed(card):
        inner = card
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        return card

    return changed


DAMAGES = {
    "no card": (lambda card: [card], "format version None"),
    "newer": (change(["format_version"], 2), "format version 2, this comm_lopt reads 1"),
    "missing": (lambda card: card.pop("check") and card, "it must have name, rule"),
    "unknown": (change(["check", "more"], 1), "card.check is .*it must have num_workers"),
    "name": (change(["name"], "LOptR"), "'LOptR' must be lower case"),
    "digest": (change(["sha256"], "00"), "64 hexadecimal digits"),
    "rate": (change(["recommended", "local_learning_rate"], 0.0), "lies outside"),
    "power": (change(["recommended", "steps_power"], 0.5), "lies outside"),
    "workers' power": (change(["recommended", "workers_power"], -0.5), "lies outside"),
    "number": (change(["check", "seed"], True), "card.check.seed is True"),
    "not finite": (change(["training", "seconds"], float("inf")), "card.training.seconds is inf"),
    "list": (change(["limits"], "none"), "card.limits is 'none'"),
    "control characters": (change(["limits"], ["\x1b[2J"]), r"card.limits\[0\] is"),
    "deep": (change(["tested"], [[[]]]), r"card.tested\[0\] is"),
}


@pytest.mark.parametrize(("damage", "told"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_card_is_refused_and_says_where(copy, damage, told):
    path = copy / "card.json"
    card = damage(json.loads(path.read_text(encoding="utf-8")))
    path.write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(ThetaError, match=told) as refused:
        comm_lopt.load(copy)
    assert "card" in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b" " * (1 << 21)])
def test_card_that_is_no_json_is_refused(copy, content):
    (copy / "card.json").write_bytes(content)
    with pytest.raises(ThetaError, match=r"card\.json"):
        comm_lopt.load(copy)


def test_theta_that_is_not_the_cards_is_refused(copy):
    learned_opt = comm_lopt.LOptR(hidden_size=2)
    comm_lopt.save_theta(copy, learned_opt, learned_opt.init(jax.random.PRNGKey(1)), {})
    with pytest.raises(ThetaError, match="is of another theta than .*SHA-256"):
        comm_lopt.load(copy)


def loss(params, target):
    return jnp.sum(jnp.square(params["w"] - target))


def test_loop_of_the_documentation_trains_with_workers(ordinary_promotion):
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    (text,) = [block for block in blocks if "def one_round" in block]
    names = {}
    exec(compile(text, str(DOCS), "exec"), names)
    assert names["loss"] < 0.2  # It starts at 1.


def test_ten_lines_train_alone(small):
    opt = comm_lopt.every_h_steps(optax.sgd(0.05), comm_lopt.load(small).transformation(), 2)
    params = {"w": jnp.zeros((2, 3))}
    state = opt.init(params)

    @jax.jit
    def one_step(params, state):
        updates, state = opt.update(jax.grad(loss)(params, 1.0), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(10):
        params, state = one_step(params, state)
    assert loss(params, 1.0) < 0.5 * 6
