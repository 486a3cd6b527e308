"""Bands at random, for what kernels visit."""

from __future__ import annotations

import random

from jax_fa4.kernels.toolkit.block_range import Band

UNBOUNDED = 2**30


def bands(count):
    """Lengths and bands at random, with ends beyond all queries and keys among them."""
    choose = random.Random(0)
    for _ in range(count):
        lower, upper = (
            choose.choice([-UNBOUNDED, UNBOUNDED, choose.randrange(-900, 900)]) for _ in range(2)
        )
        yield Band(lower, upper, choose.randrange(1, 800), choose.randrange(1, 800))


def sees(band, query, key):
    return band.lower <= key - query <= band.upper
