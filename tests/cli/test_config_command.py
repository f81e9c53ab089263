"""`comm-lopt config` tells what would run, and runs nothing."""

import gin
import jax
import pytest

import comm_lopt
from comm_lopt.cli import main


@pytest.fixture(autouse=True)
def _as_users_have_it(ordinary_promotion, tmp_path, monkeypatch, small_data_folder):
    monkeypatch.setenv("COMM_LOPT_DATA", str(small_data_folder))
    monkeypatch.chdir(tmp_path)
    yield
    gin.clear_config()


def test_config_is_a_gin_file_of_all_that_would_run(tmp_path, capsys):
    flags = ["--config_file", "experiments/digits.gin", "--gin_bindings", "num_workers = 3"]
    assert main(["config", *flags, "--gin_bindings", "LOptA.hidden_size = 5"]) == 0
    printed = capsys.readouterr().out
    assert "# problem: digits_mlp, 2,410 parameters\n" in printed
    assert "# K = 3 workers, H = 4 local steps, B = 16, T = 100 rounds; held out: test\n" in printed
    theta = comm_lopt.LOptA(hidden_size=5).init(jax.random.PRNGKey(0))
    size = sum(leaf.size for leaf in jax.tree.leaves(theta))
    assert f"# theta: LOptA, {size:,} numbers in " in printed
    assert "# LOptA: hidden_size = 5, hidden_layers = 2, " in printed
    for default in ("meta_train.checkpoint_every = 100", "ThetaAdamW.weight_decay = 0.0001"):
        assert default in printed
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "all.gin").write_text(printed, encoding="utf-8")
    assert main(["config", "--config_file", "all.gin"]) == 0
    assert capsys.readouterr().out == printed


def test_config_of_a_task_alone_tells_the_problem(capsys):
    assert main(["config", "--config_file", "tasks/imagenet32_conv.gin"]) == 0
    printed = capsys.readouterr().out
    assert "# problem: imagenet32_conv, 121,320 parameters" in printed and "theta:" not in printed
    assert "imagenet_datasets.batch_size = 128" in printed


def test_config_of_a_mixture_tells_each_family(capsys):
    assert main(["config", "--config_file", "experiments/mixture.gin"]) == 0
    printed = capsys.readouterr().out
    told = [line for line in printed.splitlines() if line.startswith("# meta-training: ")]
    assert ["task = digits_mlp" in told[0], "task = transformer_lm" in told[1]] == [True, True]
