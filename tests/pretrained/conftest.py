"""A small theta that ships, made by the script that makes the real ones."""

import importlib.util
import json
import pathlib

import jax
import pytest

import comm_lopt
from comm_lopt.pretrained import folders

SHIP = pathlib.Path(__file__).resolve().parents[2] / "experiments" / "recipe" / "ship.py"
NAME = "lopt-r-7"
FAMILY = {
    "task": "digits_mlp",
    "num_workers": 2,
    "num_local_steps": 2,
    "local_optimizer": "local_sgd",
    "local_learning_rate": [0.05, 0.5],
    "local_state_persists": False,
}


@pytest.fixture(scope="session")
def ship():
    """The script's `main`."""
    if not SHIP.exists():
        pytest.skip("there are no experiments beside an installed package")
    spec = importlib.util.spec_from_file_location("ship", SHIP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def main(*arguments):
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return module.main(list(map(str, arguments)))

    return main


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """What a meta-training run of four meta-steps leaves behind, as far as it ships."""
    folder = tmp_path_factory.mktemp("recipe") / "runs" / "base_3"
    learned_opt = comm_lopt.LOptR(hidden_size=2)
    theta = learned_opt.init(jax.random.PRNGKey(0))
    comm_lopt.save_theta(
        folder / "theta", learned_opt, theta, {"meta_steps": 4, "families": [FAMILY]}
    )
    (folder / "config.gin").write_text("num_meta_steps = 4\n", encoding="utf-8")
    for done in (2, 4):
        info = {
            "progress": {"meta_step": done, "seconds": 1.5 * done},
            "num_meta_steps": 4,
            "settings": {"seed": "3"},
            "versions": comm_lopt.versions(),
        }
        state = folder / "checkpoints" / str(done) / "state"
        state.mkdir(parents=True)
        (state / "info.json").write_text(json.dumps({"info": info}), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def flags(run):
    """The script's flags for it, but for the folder that it goes to."""
    return [
        run, "--name", NAME, "--local_learning_rate", 0.1, "--machine", "2 cores",
        "--limit", "It was hardly trained.",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def small_folder(ship, flags, tmp_path_factory):
    """The folder of the small theta, beside no others. Read only."""
    out_dir = tmp_path_factory.mktemp("ships")
    assert ship(*flags, "--out_dir", out_dir) == 0
    return out_dir / NAME


@pytest.fixture
def small(small_folder, monkeypatch):
    """The name of the small theta, which is all that ships."""
    monkeypatch.setattr(folders, "_FOLDER", small_folder.parent)
    return NAME
