"""What is read from gin's inner structures."""

import gin
import numpy as np
import pytest

import comm_lopt
from comm_lopt import gin_state
from comm_lopt.meta_train.settings import require_same_settings


@pytest.fixture(autouse=True)
def _clean_gin():
    gin.clear_config()
    yield
    gin.clear_config()


@gin.configurable(module="test_gin_state")
def reader_of_values(value=None, other=1, made=print):
    return value, other


@gin.configurable(module="test_gin_state")
def maker_of_lists(start=0):
    return [start]


def _settings():
    return {setting.name: setting.text for setting in gin_state.operative_settings()}


def test_settings_are_what_was_called_with_its_defaults_and_macros_by_their_values():
    gin.parse_config(
        """
        a = 4
        b = [%a, 'text', {'x': (%a, None), 'w': True}]
        reader_of_values.value = %b
        inner/reader_of_values.value = @maker_of_lists()
        reader_of_values.other = 'never called'
        """
    )
    assert _settings() == {}
    with gin.config_scope("inner"):
        reader_of_values(other=3)
    reader_of_values()
    assert _settings() == {
        "reader_of_values.value": "[4, 'text', {'w': True, 'x': (4, None)}]",
        "reader_of_values.other": "'never called'",
        "inner/reader_of_values.value": "@maker_of_lists()",
        "inner/maker_of_lists.start": "0",
    }
    (setting,) = (
        s for s in gin_state.operative_settings() if s.name == "inner/reader_of_values.value"
    )
    assert (setting.binding, setting.configurable.__name__) == (
        "reader_of_values.value",
        "reader_of_values",
    )


@pytest.mark.parametrize(
    "value", [0.5, (1,) * 60, "text " * 60, {f"key {n}": [n] * 20 for n in range(20)}]
)
def test_settings_are_those_of_checkpoints_that_were_read_from_gins_text(value):
    gin.bind_parameter("reader_of_values.value", value)
    reader_of_values()
    assert gin.config.parse_value(_settings()["reader_of_values.value"]) == value
    if not isinstance(value, str):
        assert "\n" not in _settings()["reader_of_values.value"]


def test_numbers_of_numpy_are_numbers_and_objects_are_left_out():
    gin.bind_parameter("reader_of_values.value", np.float32(0.5))
    gin.bind_parameter("reader_of_values.other", object())
    reader_of_values()
    assert _settings() == {"reader_of_values.value": "0.5"}


def test_place_of_data_may_change_though_it_is_given_through_a_macro_of_ones_own():
    def settings(path):
        gin.clear_config()
        gin.parse_config(f"my_data = '{path}'\nnpz_datasets.path = %my_data\n")
        with pytest.raises(FileNotFoundError):
            comm_lopt.npz_datasets(batch_size=4)
        return _settings()

    here, there = settings("/here/x.npz"), settings("/there/x.npz")
    assert here != there
    require_same_settings(here, there, "here")
