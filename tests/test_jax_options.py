"""Options of JAX with which a run cannot work are refused before it starts."""

import gin
import jax
import pytest

import comm_lopt
from comm_lopt import meta_test
from comm_lopt.meta_train import meta_train
from comm_lopt.methods import hand_designed


@pytest.fixture(autouse=True)
def _clean_gin():
    yield
    gin.clear_config()


@pytest.mark.parametrize("option", ["jax_enable_custom_prng", "jax_disable_jit"])
def test_meta_training_says_so_at_the_start(tmp_path, option):
    comm_lopt.load_config(["experiments/digits.gin"])
    jax.config.update(option, True)
    try:
        with pytest.raises(ValueError, match=f"{option.upper()} is set, and .*; unset it"):
            meta_train(tmp_path / "run")
    finally:
        jax.config.update(option, False)
    assert not (tmp_path / "run").exists()


def test_meta_testing_says_so_at_the_start():
    comm_lopt.load_config(["tasks/digits_mlp.gin"])
    problem = meta_test.meta_test_problem()
    with jax.disable_jit(), pytest.raises(ValueError, match="JAX_DISABLE_JIT is set"):
        meta_test.run(problem, hand_designed("LocalSGD"), [0])
