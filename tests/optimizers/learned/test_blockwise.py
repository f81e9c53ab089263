"""The views and tiles that the blockwise update cuts tensors into."""

import jax.numpy as jnp
import numpy as np
import pytest

from comm_lopt.optimizers.learned.blockwise import tile_shape
from comm_lopt.optimizers.learned.features import View, rows_of

SHAPES = [(), (50,), (6, 8), (40, 1), (6, 2, 9), (9, 7, 2), (3, 2, 4, 6), (2, 2, 7, 5)]


@pytest.mark.parametrize("shape", SHAPES)
def test_view_and_back_is_the_tensor(shape):
    tensor = np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)
    views = [rows_of(shape)]
    if len(shape) >= 2:
        views += [View(shape, (a, b)) for b in range(len(shape)) for a in range(b)]
    for view in views:
        seen = view.of(view.arrange(jnp.asarray(tensor)))
        assert seen.shape == (1, *view.sizes)
        np.testing.assert_array_equal(view.back(seen[0]), tensor)
        if view.axes is not None:
            assert view.sizes[1:] == tuple(shape[axis] for axis in view.axes)


@pytest.mark.parametrize(
    ("sizes", "target", "expected"),
    [
        ((1, 784, 128), 4096, (1, 28)),  # The largest divisor below 32.
        ((1, 1009, 128), 4096, (1, 32)),  # A prime: one row is left over.
        ((9, 1009, 128), 4096, (1, 1)),
        ((9, 64, 64), 16384, (3, 64)),
        ((9, 64, 64), 4096, (1, 64)),
        ((1, 3, 10000), 4096, (1, 1)),
        ((1, 1, 1), 4096, (1, 1)),
    ],
)
def test_tiles_are_as_large_as_divides_the_tensor(sizes, target, expected):
    assert tile_shape(sizes, target) == expected
