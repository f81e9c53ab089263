"""Tests of the names that JAX removed and upstream is shown."""

import types
import warnings

import jax
import jax.core
import jax.lib
import jax.numpy as jnp
import pytest

from comm_lopt.upstream import jax_view
from comm_lopt.upstream.jax_view import JaxView, as_upstream_sees

SEEN = as_upstream_sees(jax)


def test_names_upstream_needs_are_seen_and_mean_what_they_meant():
    assert SEEN.tree_map(lambda x: x + 1, {"a": 1}) == {"a": 2}
    assert SEEN.tree_multimap(lambda x, y: x + y, {"a": 1}, {"a": 2}) == {"a": 3}
    assert SEEN.tree_util.tree_multimap is jax.tree_util.tree_map
    leaves, structure = SEEN.tree_flatten({"a": 1, "b": 2})
    assert leaves == SEEN.tree_leaves({"a": 1, "b": 2}) == [1, 2]
    assert structure == SEEN.tree_structure({"a": 0, "b": 0})
    assert SEEN.tree_unflatten(structure, leaves) == {"a": 1, "b": 2}
    assert SEEN.ShapedArray((2,), jnp.dtype("float32")).shape == (2,)
    assert SEEN.core.ShapedArray is SEEN.ShapedArray
    assert isinstance(jax.devices()[0], SEEN.lib.xla_client.Device)


def test_all_else_is_jax_itself_even_if_it_is_changed_later(monkeypatch):
    assert (SEEN.numpy, SEEN.Array, SEEN.__path__) == (jnp, jax.Array, jax.__path__)
    assert SEEN.tree_util.tree_map is jax.tree_util.tree_map
    assert as_upstream_sees(jnp) is jnp
    monkeypatch.setattr(jax, "device_count", lambda: 7)
    assert SEEN.device_count() == 7
    with pytest.raises(AttributeError, match="no attribute 'never_there'"):
        _ = SEEN.never_there


@pytest.mark.filterwarnings("ignore:jax.core.unsafe_am_i_under_a_jit:DeprecationWarning")
def test_jit_probe_tells_tracing_for_jit_from_everything_else():
    seen = {}

    def probe(name):
        def function(x):
            seen[name] = (
                SEEN.core.unsafe_am_i_under_a_jit_DO_NOT_USE(),
                jax_view._under_a_jit(),
            )
            return x

        return function

    probe("eager")(0.0)
    jax.jit(probe("jit"))(0.0)
    jax.vmap(probe("vmap"))(jnp.zeros(2))
    jax.lax.scan(lambda c, x: (probe("scan")(c), x), 0.0, jnp.zeros(2))
    expected = {"eager": False, "jit": True, "vmap": False, "scan": True}
    assert seen == {name: (value, value) for name, value in expected.items()}


def test_present_names_are_kept_even_deprecated_ones():
    class Deprecating(types.ModuleType):
        def __getattr__(self, name):
            if name != "old":
                raise AttributeError(name)
            warnings.warn("old is deprecated", DeprecationWarning, stacklevel=2)
            return "the old one"

    module = Deprecating("pretend")
    module.present = "kept"
    names = {"old": "changed", "present": "changed", "missing": "added"}
    view = JaxView(module, {name: lambda value=value: value for name, value in names.items()})
    assert (view.present, view.missing) == ("kept", "added")
    with pytest.warns(DeprecationWarning, match="old is deprecated"):
        assert view.old == "the old one"
    assert not hasattr(module, "missing")
