"""Which blocks of queries see a block of keys, against a look at every pair of positions."""

import itertools

import numpy as np
import pytest

pytest.importorskip("cutlass")

from jax_fa4.kernels.sm90.backward.turns import first_visitor
from jax_fa4.kernels.toolkit.block_range import Band
from jax_fa4.kernels.toolkit.query_range import last_visitor, query_range

TILE_N = 8
FAR = 1 << 30


def seen(band: Band) -> np.ndarray:
    """(query, key), for keys up to the end of the last block."""
    i = np.arange(band.seqlen_q)[:, None]
    j = np.arange(-(-band.seqlen_k // TILE_N) * TILE_N)[None]
    return (j - i >= band.lower) & (j - i <= band.upper) & (j < band.seqlen_k)


LENGTHS = (1, 3, 8, 13, 32, 41)
BANDS = (
    (-FAR, FAR),
    (-FAR, 0),
    (-FAR, 5),
    (0, FAR),
    (-9, 4),
    (-1, 0),
    (6, 11),
    (-20, -12),
    (FAR, FAR),
    (-FAR, -FAR),
)


@pytest.mark.parametrize("tile_m", [4, 8])
@pytest.mark.parametrize(("lower", "upper"), BANDS)
def test_visits_what_is_seen_and_masks_what_is_cut(lower, upper, tile_m):
    for seqlen_q, seqlen_k in itertools.product(LENGTHS, LENGTHS):
        band = Band(lower, upper, seqlen_q, seqlen_k)
        visible = seen(band)
        for key in range(0, seqlen_k, TILE_N):
            blocks = query_range(band, key, tile_m, TILE_N)
            assert 0 <= blocks.first < blocks.last <= -(-seqlen_q // tile_m)
            for block in range(-(-seqlen_q // tile_m)):
                part = visible[block * tile_m : (block + 1) * tile_m, key : key + TILE_N]
                visited = blocks.first <= block < blocks.last
                assert visited or not part.any(), (band, key, block)
                if visited and not blocks.needs_mask(block):
                    assert part.all(), (band, key, block)
            counted = blocks.last - blocks.first
            if counted > 1:  # of one that is visited for the protocol's sake, nothing is asked
                ends = [blocks.first, blocks.last - 1]
                rows = [visible[b * tile_m : (b + 1) * tile_m, key : key + TILE_N] for b in ends]
                assert all(part.any() for part in rows), (band, key)


def test_masks_nothing_inside_a_full_problem():
    blocks = query_range(Band(-FAR, FAR, 64, 64), 8, 4, TILE_N)
    assert (blocks.first, blocks.unmasked_first, blocks.unmasked_last, blocks.last) == (
        0,
        0,
        16,
        16,
    )


@pytest.mark.parametrize("tile_m", [4, 8])
@pytest.mark.parametrize(("lower", "upper"), [*BANDS, (19, 25), (30, 60), (-FAR, 30), (17, FAR)])
def test_the_ends_of_those_that_visit_a_block(lower, upper, tile_m):
    """And that they follow one another between them: as many come before as their numbers say."""
    for seqlen_q, seqlen_k in itertools.product(LENGTHS, (*LENGTHS, 97)):
        band = Band(lower, upper, seqlen_q, seqlen_k)
        ranges = [query_range(band, key, tile_m, TILE_N) for key in range(0, seqlen_k, TILE_N)]
        for block in range(-(-seqlen_q // tile_m)):
            visitors = [n for n, r in enumerate(ranges) if r.first <= block < r.last]
            if visitors:
                first = first_visitor(band, block, tile_m, TILE_N)
                last = last_visitor(band, block, tile_m, TILE_N)
                assert visitors == list(range(first, last + 1)), (band, block)
