"""The table of a ring: every score once, work balanced, no hop and no branch without need."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_fa4.ops.band import Band
from jax_fa4.parallel import schedule
from jax_fa4.parallel.layouts import LAYOUTS, layout_positions

CAUSAL = Band(upper=0)


def computed(table, layout, length):
    """How often each (query, key) pair of the whole sequence is computed."""
    shards = table.shards
    positions = layout_positions(layout, shards, shards * length).reshape(shards, length)
    counts = np.zeros((shards * length,) * 2, int)
    distances = np.zeros(1, int)
    for travel in table.travels:
        distances = np.append(distances, np.cumsum([hop.shift for hop in travel]))
    for distance, hop in zip(distances, table.hops(), strict=True):
        for rank, tiles in enumerate(hop.tiles):
            for tile in tiles:
                i, j = np.meshgrid(range(tile.rows), range(tile.columns), indexing="ij")
                inside = (tile.band.lower <= j - i) & (j - i <= tile.band.upper)
                rows = positions[rank][tile.query + i[inside]]
                columns = positions[(rank - distance) % shards][tile.key + j[inside]]
                np.add.at(counts, (rows, columns), 1)
                assert inside.sum() == tile.scores()
    return counts


@settings(max_examples=300, deadline=None)
@given(
    layout=st.sampled_from(LAYOUTS),
    shards=st.integers(1, 6),
    half=st.integers(1, 4),
    left=st.none() | st.integers(0, 40),
    right=st.none() | st.integers(0, 40),
    causal=st.booleans(),
)
def test_every_score_is_computed_once(layout, shards, half, left, right, causal):
    length = 2 * half
    band = Band.make(shards * length, shards * length, causal=causal, window=(left, right))
    i, j = np.meshgrid(*[range(shards * length)] * 2, indexing="ij")
    wanted = (band.lower <= j - i) & (j - i <= band.upper)
    table = schedule.make(layout, shards, length, band)
    np.testing.assert_array_equal(computed(table, layout, length), wanted)
    # and no hop is travelled to for nothing
    assert all(any(hop.tiles) for hop in table.hops())


@pytest.mark.parametrize("shards", [2, 4, 8])
def test_zigzag_balances_a_causal_mask(shards):
    """The same work on every device, on every hop: none waits for another."""
    table = schedule.make("zigzag", shards, 64, CAUSAL)
    assert len(table.hops()) == shards
    for hop in table.hops():
        work = {sum(tile.scores() for tile in tiles) for tiles in hop.tiles}
        assert len(work) == 1
        # One program for all devices: the hop needs no branch.
        assert len(hop.cases()) == 1
    per_device = sum(table.scores()) / shards
    assert per_device == shards * 64 * (shards * 64 + 1) / 2 / shards
    # Beyond the hop at home nothing is masked: no kernel computes what it throws away.
    assert all(t.band == Band() for hop in table.hops()[1:] for ts in hop.tiles for t in ts)


@pytest.mark.parametrize("shards", [2, 4, 8])
def test_striped_balances_a_causal_mask(shards):
    work = schedule.make("striped", shards, 64, CAUSAL).scores()
    assert (max(work) - min(work)) / max(work) < 1 / 32  # the diagonal of the other ranks


def test_contiguous_does_not():
    """That the two tests above can fail: the last device has almost all of the work."""
    work = schedule.make("contiguous", 8, 64, CAUSAL).scores()
    assert max(work) > 10 * min(work)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_full_attention_is_one_tile_a_hop(layout):
    table = schedule.make(layout, 4, 64, Band())
    assert len(table.hops()) == 4
    for hop in table.hops():
        assert all([t.shape for t in tiles] == [(64, 64, Band())] for tiles in hop.tiles)


@pytest.mark.parametrize(
    ("layout", "band", "shifts"),
    [
        # a window of less than a shard reaches one neighbour, of a row more two
        ("contiguous", Band(-64, 0), ((1,),)),
        ("contiguous", Band(-65, 0), ((1, 1),)),
        ("contiguous", Band(-64, 64), ((1,), (-1,))),
        ("contiguous", Band(-3, 100), ((1,), (-1, -1))),
        ("contiguous", Band(0, 5), ((-1,),)),
        ("contiguous", Band(0, 0), ()),
        # chunks of half a shard, whose neighbours are on both sides
        ("zigzag", Band(-32, 0), ((1,), (-1,))),
        ("zigzag", Band(0, 0), ()),
        # any window that is open at the other end needs all
        ("contiguous", Band(upper=0), ((1,) * 7,)),
        ("striped", Band(-64, 0), ((1,) * 7,)),
        ("striped", Band(-2, 0), ((1, 1),)),
    ],
)
def test_a_window_skips_the_hops_that_it_cannot_see(layout, band, shifts):
    table = schedule.make(layout, 8, 64, band)
    assert tuple(tuple(hop.shift for hop in travel) for travel in table.travels) == shifts
