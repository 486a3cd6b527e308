"""Where rows lie: layouts are permutations, undone exactly, refused where they do not divide."""

import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4.parallel.layouts import LAYOUTS

POSITIONS = {
    "contiguous": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
    "striped": [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11],
    "zigzag": [0, 1, 10, 11, 2, 3, 8, 9, 4, 5, 6, 7],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_positions(layout):
    np.testing.assert_array_equal(jax_fa4.layout_positions(layout, 3, 12), POSITIONS[layout])


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back(layout, axis):
    x = jnp.arange(24 * 24).reshape(24, 24)
    laid = jax_fa4.to_layout(x, layout, 4, axis)
    positions = jax_fa4.layout_positions(layout, 4, 24)
    np.testing.assert_array_equal(laid, np.take(np.asarray(x), positions, axis))
    np.testing.assert_array_equal(jax_fa4.from_layout(laid, layout, 4, axis), x)


@pytest.mark.parametrize(
    ("layout", "shards", "length", "words"),
    [
        ("zigzag", 4, 12, "multiple of 8"),
        ("zigzag", 4, 13, "multiple of 8"),
        ("striped", 4, 13, "multiple of 4"),
        ("contiguous", 4, 2, "multiple of 4"),
        ("contiguous", 0, 2, "0 shards"),
        ("zig-zag", 4, 16, "'zigzag', 'contiguous', 'striped'"),
    ],
)
def test_refusals(layout, shards, length, words):
    with pytest.raises(ValueError, match=words):
        jax_fa4.layout_positions(layout, shards, length)
