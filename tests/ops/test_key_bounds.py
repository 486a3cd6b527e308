"""Which keys a row sees, as an interval and ids, and the blocks that this needs."""

import jax.numpy as jnp
import numpy as np

from jax_fa4.ops import blocks
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
