"""Convolutions as products of matrices give what the ordinary ones give."""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from comm_lopt.tasks.networks.convolution import convolutions_for_device, matrix_convolution

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (4, 4), (2, 1)])
@pytest.mark.parametrize("window", [(1, 1), (3, 3), (7, 7), (4, 4), (2, 3)])
def test_equals_the_ordinary_convolution_and_its_gradients(window, stride, padding):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(2, 9, 11, 3)).astype(np.float32))
    kernel = jnp.asarray(rng.normal(size=(*window, 3, 5)).astype(np.float32))

    def ordinary(images, kernel):
        return jax.lax.conv_general_dilated(
            images, kernel, stride, padding, dimension_numbers=DIMENSIONS
        )

    def product(images, kernel):
        return matrix_convolution(images, kernel, stride, padding)

    shape = jax.eval_shape(ordinary, images, kernel).shape
    assert jax.eval_shape(product, images, kernel).shape == shape
    cotangent = jnp.asarray(rng.normal(size=shape).astype(np.float32))

    @jax.jit
    def both(images, kernel, cotangent):
        results = []
        for convolution in (product, ordinary):
            result, pull_back = jax.vjp(convolution, images, kernel)
            results.append((result, *pull_back(cotangent)))
        return results

    for one, other in zip(*both(images, kernel, cotangent), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


def _network(images):
    images = hk.Conv2D(4, 3, stride=2)(images)
    images = hk.Conv2D(4, 3, with_bias=False, padding="VALID")(images)
    return hk.Conv2D(4, 3, rate=2)(images)


def test_a_network_keeps_its_parameters_and_results():
    def on_device(images):
        with convolutions_for_device():
            return _network(images)

    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), jnp.float32)
    key = jax.random.PRNGKey(0)
    plain = hk.without_apply_rng(hk.transform(_network))
    fast = hk.without_apply_rng(hk.transform(on_device))
    params = jax.jit(plain.init)(key, images)
    jax.tree.map(np.testing.assert_array_equal, params, jax.jit(fast.init)(key, images))
    both = jax.jit(lambda *arguments: (fast.apply(*arguments), plain.apply(*arguments)))
    np.testing.assert_allclose(*both(params, images), rtol=1e-5, atol=1e-5)


def test_no_convolution_is_left_in_the_program_but_the_one_that_is_not_plain():
    def on_device(images):
        with convolutions_for_device():
            return _network(images)

    fast = hk.without_apply_rng(hk.transform(on_device))
    images = jnp.zeros((2, 16, 16, 3))
    params = fast.init(jax.random.PRNGKey(0), images)
    program = str(jax.make_jaxpr(fast.apply)(params, images))
    assert program.count("conv_general_dilated[") == 1
