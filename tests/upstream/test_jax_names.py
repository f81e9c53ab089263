"""Tests of the names that JAX removed and upstream needs."""

import types
import warnings

import jax
import jax.numpy as jnp
import pytest

from comm_lopt.upstream import jax_names


def test_names_upstream_needs_are_there_and_mean_what_they_meant():
    assert jax.tree_map(lambda x: x + 1, {"a": 1}) == {"a": 2}
    assert jax.tree_multimap(lambda x, y: x + y, {"a": 1}, {"a": 2}) == {"a": 3}
    leaves, structure = jax.tree_flatten({"a": 1, "b": 2})
    assert leaves == jax.tree_leaves({"a": 1, "b": 2}) == [1, 2]
    assert structure == jax.tree_structure({"a": 0, "b": 0})
    assert jax.tree_unflatten(structure, leaves) == {"a": 1, "b": 2}
    assert jax.ShapedArray((2,), jnp.dtype("float32")).shape == (2,)
    assert jax.core.ShapedArray is jax.ShapedArray
    assert isinstance(jax.devices()[0], jax.lib.xla_client.Device)


@pytest.mark.filterwarnings("ignore:jax.core.unsafe_am_i_under_a_jit:DeprecationWarning")
def test_jit_probe_tells_tracing_for_jit_from_everything_else():
    seen = {}

    def probe(name):
        def function(x):
            seen[name] = (
                jax.core.unsafe_am_i_under_a_jit_DO_NOT_USE(),
                jax_names._under_a_jit(),
            )
            return x

        return function

    probe("eager")(0.0)
    jax.jit(probe("jit"))(0.0)
    jax.vmap(probe("vmap"))(jnp.zeros(2))
    jax.lax.scan(lambda c, x: (probe("scan")(c), x), 0.0, jnp.zeros(2))
    expected = {"eager": False, "jit": True, "vmap": False, "scan": True}
    assert seen == {name: (value, value) for name, value in expected.items()}


def test_present_names_are_kept_even_deprecated_ones_and_asking_does_not_warn(monkeypatch):
    class Deprecating(types.ModuleType):
        def __getattr__(self, name):
            if name != "old":
                raise AttributeError(name)
            warnings.warn("old is deprecated", DeprecationWarning, stacklevel=2)
            return "the old one"

    module = Deprecating("pretend")
    module.present = "kept"
    monkeypatch.setattr(
        jax_names,
        "_NAMES",
        (
            (module, "old", lambda: "changed"),
            (module, "present", lambda: "changed"),
            (module, "missing", lambda: "added"),
        ),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert jax_names.add_missing_jax_names() == ["pretend.missing"]
        assert jax_names.add_missing_jax_names() == []
    assert vars(module)["missing"] == "added"
    assert vars(module)["present"] == "kept"
    assert "old" not in vars(module)
