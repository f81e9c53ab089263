"""Tests of the gin files and hooks that drive either shape of upstream."""

import gin
import pytest

import comm_lopt
from comm_lopt import upstream
from comm_lopt.upstream.gin_config import _with_macros_expanded, expand_macros

pytestmark = pytest.mark.usefixtures("fresh_gin")


@gin.configurable(module="test_gin_config")
def consumer(value=None, other=None):
    return value, other


@gin.configurable(module="test_gin_config")
def producer(start=0):
    return [start]


def test_gin_dir_holds_the_file_for_this_upstream():
    assert upstream.GIN_DIR.name == upstream.FLAVOUR
    assert (upstream.GIN_DIR / "outer_training.gin").is_file()


def test_include_finds_the_file_for_this_upstream():
    comm_lopt.load_config(["experiments/digits.gin"])
    argument = {"released": "lopt", "main": "meta_init"}[upstream.FLAVOUR]
    assert f"GradientLearner.{argument} = %learned_optimizer" in gin.config_str()


def test_both_shapes_bind_the_same_macros():
    def macros(flavour):
        text = (upstream.GIN_DIR.parent / flavour / "outer_training.gin").read_text()
        return {line.split("%")[1] for line in text.splitlines() if "= %" in line}

    assert macros("released") == macros("main")
    assert {"learned_optimizer", "task_family", "meta_loss_split"} <= macros("main")


def test_trainer_finds_macros_expanded_wherever_they_stand_and_with_their_meaning():
    gin.parse_config(
        """
        a = 1
        b = %a
        made = @producer()
        producer.start = %b
        consumer.value = [%a, {'b': (%b, 'text')}]
        scope/consumer.value = %made
        scope/consumer.other = @producer
        """
    )
    before = consumer(), producer()
    with gin.config_scope("scope"):
        before_in_scope = consumer()
    gin.finalize()
    text = _with_macros_expanded(gin.config_str)(max_line_length=200)
    assert gin.config_is_locked()
    assert "consumer.value = [1, {'b': (1, 'text')}]" in text
    assert "scope/consumer.value = @producer()" in text
    assert "producer.start = 1" in text
    assert (consumer(), producer()) == before == (([1, {"b": (1, "text")}], None), [1])
    with gin.config_scope("scope"):
        value, other = consumer()
    assert value == before_in_scope[0] == [1]
    assert other() == [1]


def test_macro_bound_after_finalize_is_what_the_trainer_finds():
    gin.parse_config("m = 1\nconsumer.value = %m")
    gin.finalize()
    with gin.unlock_config():
        gin.parse_config("m = 16")
    assert consumer() == (16, None)
    assert "consumer.value = 16" in _with_macros_expanded(gin.config_str)()


def test_bindings_without_macros_are_left_alone_and_gin_reports_macros_without_value():
    gin.parse_config("consumer.value = [1, 2]\nconsumer.other = @producer()")
    assert expand_macros(gin.config._CONFIG) == {}
    gin.parse_config("consumer.value = %never_defined")
    assert expand_macros(gin.config._CONFIG) == {}
    with pytest.raises(ValueError, match="never_defined"):
        gin.finalize()


def test_heldout_split_is_a_flag_and_gin_can_set_it():
    assert upstream.heldout_split_to_flag(None) is False
    assert upstream.heldout_split_to_flag("outer_valid") is True
    gin.parse_config("heldout_split_to_flag.split = 'outer_valid'")
    assert upstream.heldout_split_to_flag() is True


def test_split_that_the_release_does_not_know_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"meta_loss_split='test'.*None.*'outer_valid'"):
        upstream.heldout_split_to_flag("test")
