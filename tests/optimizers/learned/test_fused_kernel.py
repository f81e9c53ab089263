"""The kernels for GPUs, on a machine without one: they lower for CUDA, and what depends on one."""

import inspect
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import comm_lopt
from comm_lopt.optimizers.learned import fused_kernel, implementations
from comm_lopt.optimizers.learned.ada_features import AdaFeatures
from comm_lopt.optimizers.learned.features import time_features
from comm_lopt.optimizers.learned.momentum_features import MomentumFeatures
from comm_lopt.optimizers.learned.per_parameter_mlp import init_mlp

K = 3


def with_triton(test):
    """Skips a test where JAX has no Triton; JAX 0.12 warns that it will go."""
    test = pytest.mark.skipif(fused_kernel.triton() is None, reason="this JAX has no Triton")(test)
    announced = "ignore:The Pallas Triton backend is deprecated:DeprecationWarning"
    return pytest.mark.filterwarnings(announced)(test)


def a_tensor(features, shape, num_gradients):
    param = jnp.ones(shape)
    gradients = jnp.ones((num_gradients, *shape))
    return features.init(param), param, param, gradients


def kernel_update(features, hidden_size, shape, num_gradients):
    """A kernel's update as a function of theta and a tensor, and both."""
    theta = init_mlp(
        jax.random.PRNGKey(0), features.num_features(num_gradients) + 11, hidden_size, 2
    )
    tensor = a_tensor(features, shape, num_gradients)

    def update(theta, tensor):
        return fused_kernel.fused_step(
            theta,
            features.parts(*tensor),
            time_features(jnp.asarray(1)),
            lambda direction, magnitude: -direction * jnp.exp(magnitude),
            num_gradients,
        )

    return update, theta, tensor


def lowered_for_cuda(function, *arguments):
    """The program for a GPU, as text. JAX 0.12 wants to know which one, and 0.9 less of it."""
    told = {"device_kind": "NVIDIA H100", "num_cores": None, "platform": "gpu"}
    known = inspect.signature(jax.sharding.AbstractDevice).parameters
    device = jax.sharding.AbstractDevice(**{n: v for n, v in told.items() if n in known})
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(function).trace(*arguments)
        return traced.lower(lowering_platforms=("cuda",)).as_text()


@with_triton
@pytest.mark.parametrize("features", [AdaFeatures(), MomentumFeatures()])
@pytest.mark.parametrize("shape", [(), (50,), (24, 40), (3, 3, 5, 7)])
@pytest.mark.parametrize(("num_gradients", "hidden_size"), [(1, 32), (K, 20)])
def test_kernels_lower_for_cuda(features, shape, num_gradients, hidden_size):
    update, theta, tensor = kernel_update(features, hidden_size, shape, num_gradients)
    program = lowered_for_cuda(update, theta, tensor)
    assert program.count("@__gpu$xla.gpu.triton") == 2  # The squares, and the step.


@with_triton
def test_kernels_mapped_over_tasks_lower_for_cuda():
    update, *arguments = kernel_update(AdaFeatures(), 32, (24, 40), 1)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), arguments)
    program = lowered_for_cuda(jax.vmap(update), *stacked)
    assert program.count("@__gpu$xla.gpu.triton") == 2


def test_a_tensor_that_indices_cannot_tell_apart_is_an_error():
    update, theta, _ = kernel_update(MomentumFeatures(), 32, (), 1)
    tensor = jax.eval_shape(lambda: a_tensor(MomentumFeatures(), (1 << 20, 1 << 9), 1))
    with pytest.raises(ValueError, match="3221225472 elements are more than .* int32"):
        jax.eval_shape(update, theta, tensor)


def test_without_triton_kernels_are_refused_and_interpreted_ones_work(monkeypatch):
    monkeypatch.setattr(fused_kernel, "triton", lambda: None)
    features = MomentumFeatures()
    tensor = a_tensor(features, (4, 5), 1)
    mean_squares = fused_kernel.fused_mean_squares(features.parts(*tensor), interpret=True)
    np.testing.assert_allclose(mean_squares[:2], 1.0)  # The gradient and the parameter.
    with pytest.raises(NotImplementedError, match="no longer compiles Pallas kernels with Triton"):
        fused_kernel.fused_mean_squares(features.parts(*tensor))


@pytest.fixture
def pretend_gpu(monkeypatch):
    """JAX says that there is a GPU, and its kernels run interpreted."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    run = fused_kernel.fused_step
    monkeypatch.setattr(
        implementations, "fused_step", lambda *arguments: run(*arguments[:-1], True)
    )
    implementations.kernel_works.cache_clear()
    yield monkeypatch
    implementations.kernel_works.cache_clear()


def step_of(implementation):
    """The update of a matrix, traced inside a jit and a vmap as meta-training does."""
    learned_opt = comm_lopt.LOptA(implementation=implementation)
    params = {"w": jnp.full((2, 6, 8), 0.5)}

    def update(theta, params):
        opt = learned_opt.opt_fn(theta)
        return opt.update(opt.init(params), params).params

    theta = jax.vmap(learned_opt.init)(jax.random.split(jax.random.PRNGKey(0), 2))
    return jax.make_jaxpr(jax.jit(jax.vmap(update)))(theta, params)


def test_auto_is_the_kernel_on_a_gpu_that_computes_it_right(pretend_gpu):
    assert implementations.kernel_works()
    assert "pallas_call" in str(step_of("auto"))


def test_auto_is_plain_on_a_gpu_that_cannot_compile_the_kernel(pretend_gpu, caplog):
    def broken(*arguments):
        raise NotImplementedError("no such instruction")

    pretend_gpu.setattr(implementations, "fused_step", broken)
    with caplog.at_level(logging.WARNING):
        assert "pallas_call" not in str(step_of("auto"))
    assert "NotImplementedError: no such instruction" in caplog.text


def test_auto_is_plain_on_a_gpu_that_computes_the_kernel_wrong(pretend_gpu, caplog):
    right = implementations.fused_step
    pretend_gpu.setattr(implementations, "fused_step", lambda *arguments: 1.1 * right(*arguments))
    with caplog.at_level(logging.WARNING):
        assert "pallas_call" not in str(step_of("auto"))
    assert "it is wrong by" in caplog.text


def test_auto_is_blockwise_on_a_cpu_and_the_kernel_is_only_taken_if_asked_for():
    assert not implementations.kernel_works()
    assert "pallas_call" not in str(step_of("auto"))
    assert "pallas_call" in str(step_of("kernel"))


def test_the_kernel_is_refused_where_it_cannot_run(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    with pytest.raises(ValueError, match="implementation='kernel' is for GPUs .* is a tpu; pass"):
        step_of("kernel")
    assert "pallas_call" not in str(step_of("auto"))
