"""Compiled programs take the data as an argument, and nothing else changes."""

import contextlib
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.interpreters.mlir import LoweringParameters
from small_data import labelled_examples
from small_tasks import assert_trees_equal

from comm_lopt.data.feeding.as_arguments import data_as_arguments
from comm_lopt.data.feeding.device import DeviceDatasets
from comm_lopt.tasks.image_classification import image_family
from comm_lopt.tasks.local_optimizers import local_sgd
from comm_lopt.tasks.local_sgd import LocalSGDTaskFamily
from comm_lopt.tasks.networks.mlp import mlp

pytestmark = pytest.mark.skipif(
    jax.__version_info__ < (0, 10), reason="before JAX 0.10 programs hold the data"
)
KEY = jax.random.PRNGKey(0)
IMAGE_BYTES = 4003 * 64


@pytest.fixture(scope="module")
def round_of_images():
    """Loss and delta of a local round of 2 workers and 3 steps, and its arguments."""
    examples = labelled_examples((4000, 1, 1, 1), shape=(8, 8, 1))
    info = {"num_classes": 3, "largest_value": 255}
    images = image_family("images", DeviceDatasets(examples, 4, 0, info), mlp((5,)))
    family = LocalSGDTaskFamily(images, 2, 3, local_sgd(0.1))
    task = family.task_fn(family.sample(KEY))
    params, state = task.init_with_state(KEY)

    def loss_and_delta(params, state, batch):
        return jax.value_and_grad(task.loss_with_state, has_aux=True)(params, state, KEY, batch)

    return loss_and_delta, (params, state, next(family.datasets.train))


def tasks_side_by_side(function):
    """As upstream's meta-step: each of three tasks either takes a step or starts afresh."""

    def step_or_reset(is_done, arguments):
        zeros = jax.tree.map(
            lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(function, *arguments)
        )
        return jax.lax.cond(is_done, lambda _: zeros, lambda a: function(*a), arguments)

    def three(*arguments):
        done = jnp.asarray([False, True, False])
        return jax.vmap(step_or_reset, in_axes=(0, None))(done, arguments)

    return three


@pytest.mark.parametrize("mapped", [lambda function: function, tasks_side_by_side])
def test_program_of_a_round_does_not_hold_the_data_and_gives_the_same_bits(round_of_images, mapped):
    function, arguments = round_of_images
    function = mapped(function)
    jitted = jax.jit(function)
    outside = jitted.lower(*arguments)
    expected = jitted(*arguments)
    with data_as_arguments():
        inside = jitted.lower(*arguments)
        compiled = inside.compile()
        found = jitted(*arguments)
    assert_trees_equal(found, expected)
    assert_trees_equal(compiled(*arguments), expected)
    # Four hexadecimal digits or so for each word of the images.
    assert len(outside.as_text()) > IMAGE_BYTES
    assert len(inside.as_text()) < len(outside.as_text()) - IMAGE_BYTES
    before, after = outside.compile().memory_analysis(), compiled.memory_analysis()
    more = after.argument_size_in_bytes - before.argument_size_in_bytes
    assert IMAGE_BYTES <= more < IMAGE_BYTES + 100
    assert after.temp_size_in_bytes < before.temp_size_in_bytes + 100


def test_small_arrays_stay_constants(round_of_images):
    table = jnp.arange(1000, dtype=jnp.float32)
    with data_as_arguments():
        program = jax.jit(lambda i: table[i]).lower(np.int32(3)).compile()
    assert program.memory_analysis().argument_size_in_bytes == 4


def num_arguments():
    """Number of arguments of a program that closes over a table."""
    table = jnp.arange(1 << 17, dtype=jnp.float32)
    program = jax.jit(lambda i: table[i]).lower(np.int32(3)).compile()
    return 1 if program.memory_analysis().argument_size_in_bytes == 4 else 2


def test_what_is_compiled_outside_and_in_other_threads_stays_as_it_was():
    found = []
    with data_as_arguments():
        thread = threading.Thread(target=lambda: found.append(num_arguments()))
        thread.start()
        thread.join()
        found.append(num_arguments())
    found.append(num_arguments())
    assert found == [1, 2, 1]


def test_a_thread_that_is_done_first_changes_nothing_for_another_or_for_what_comes_after():
    defaults = LoweringParameters.__init__.__defaults__
    begun, first_is_done, found = threading.Event(), threading.Event(), []

    def second():
        with data_as_arguments():
            begun.set()
            first_is_done.wait(60)
            found.append(num_arguments())

    thread = threading.Thread(target=second)
    with data_as_arguments():
        thread.start()
        assert begun.wait(60)
    first_is_done.set()
    thread.join()
    assert found == [2]
    assert LoweringParameters.__init__.__defaults__ == defaults


def test_where_jax_has_lost_the_option_programs_hold_the_data():
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as later:
            later.delattr("jax._src.config.use_simplified_jaxpr_constants")
            stack.enter_context(data_as_arguments())
        assert num_arguments() == 1
