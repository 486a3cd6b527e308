"""Which keys a row sees, as an interval and ids, and the blocks that this needs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_fa4.ops import blocks, key_bounds
from jax_fa4.ops.band import Band
from jax_fa4.ops.key_bounds import KeyBounds
from jax_fa4.ops.visible import Visible


def test_reach_contains_what_is_seen_and_no_more():
    rng = np.random.default_rng(0)
    ids, other = (rng.integers(0, 40, (3, n)).astype(np.int32) for n in (50, 70))
    band = Band.make(50, 70, causal=True, alignment="bottom_right")
    bounds = KeyBounds.make(band, (3, 50, 70), segments=(jnp.asarray(ids), jnp.asarray(other)))
    same = ids[:, :, None] == other[:, None]
    i, j = np.ogrid[:50, :70]
    np.testing.assert_array_equal(bounds.sees(), same & (j - i <= 20))
    for b in range(3):
        for row in range(50):
            (own,) = np.nonzero(same[b, row])
            if own.size:
                assert bounds.first[b, row] == own[0]
                assert bounds.last[b, row] == min(own[-1], row + 20)
            else:
                assert bounds.last[b, row] < bounds.first[b, row]


@pytest.mark.parametrize("length", [1, 63, 64, 65, 300])
@pytest.mark.parametrize("side", ["left", "right"])
def test_places_among_ordered_numbers(length, side):
    rng = np.random.default_rng(length)
    ordered = np.sort(rng.integers(-20, 20, (2, length)).astype(np.int32), axis=1)
    ordered[:, -1] = 2**31 - 1
    numbers = rng.integers(-21, 21, (2, 50)).astype(np.int32)
    numbers[:, :2] = 2**31 - 1, -(2**31)
    found = key_bounds._count_below(
        jnp.asarray(ordered), jnp.asarray(numbers), or_equal=side == "right"
    )
    wanted = [np.searchsorted(*pair, side=side) for pair in zip(ordered, numbers, strict=True)]
    np.testing.assert_array_equal(found, wanted)


def test_no_loop_makes_bounds_of_ids():
    """On a GPU its every step would be a launch."""
    ids = jnp.zeros((2, 300), jnp.int32)
    made = jax.make_jaxpr(lambda x: KeyBounds.make(Band(), (2, 300, 300), segments=(x, x)))(ids)
    assert not {"while", "scan"} & {word.strip("[") for word in str(made).split()}


def test_extreme_ids():
    ids = np.array([[2**31 - 1, -(2**31), 0, -1, 2**31 - 1]], np.int32)
    bounds = KeyBounds.make(Band(), (1, 5, 5), segments=(jnp.asarray(ids),) * 2)
    np.testing.assert_array_equal(bounds.sees()[0], ids == ids.T)


def test_blocks_are_visited_where_a_row_sees_a_key():
    """For sorted documents exactly there, whichever batch element needs them."""
    cut = blocks.Blocks(100, 100, 20, 25)
    ids = jnp.asarray(np.repeat([[0, 1, 2, 3, 4], [7, 7, 7, 8, 8]], 20, axis=1))
    bounds = KeyBounds.make(Band(upper=0), (2, 100, 100), segments=(ids, ids))
    visible = Visible.make(cut, Band(), bounds, None)
    trips = visible.walk(lambda row, column, state: state.at[row, column].add(1), jnp.zeros((5, 4)))
    needed = np.asarray(bounds.sees()).reshape(2, 5, 20, 4, 25).any((0, 2, 4))
    np.testing.assert_array_equal(trips, needed)
    assert needed.sum() < 20


def test_a_single_long_document_needs_what_causal_needs():
    cut = blocks.Blocks(100, 100, 20, 20)
    bounds = KeyBounds.make(Band(upper=0), (1, 100, 100), segments=(jnp.ones((1, 100), int),) * 2)
    visible = Visible.make(cut, Band(), bounds, None)
    assert visible.walk(lambda row, column, n: n + 1, jnp.int32(0)) == 15
