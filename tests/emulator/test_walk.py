"""The Hopper forward on few SMs: every order of tiles, each tile once.

Outputs are poisoned before a launch, so that a tile that nobody computes is a finding or a NaN; one
that two CTAs compute is a race.
"""

import jax.numpy as jnp
import pytest
from calls import emulated

import jax_fa4
from jax_fa4.testing import expected, inputs, tolerances

# Head dims, and the rows of their tiles.
TILES = {64: 192, 96: 128, 128: 128, 256: 128}

# Numbers of tiles a head, of heads, of batches: middle tiles without a partner, heads without one.
SHAPES = ((1, 3, 1), (2, 1, 3), (3, 1, 1), (3, 3, 1))


@pytest.mark.parametrize("sm_count", [1, 5])
@pytest.mark.parametrize("mask", ["full", "causal", "window"])
@pytest.mark.parametrize("head_dim", [64, 96, 128, 256])
def test_every_tile_is_computed_once(head_dim, mask, sm_count):
    shapes = SHAPES if head_dim == 64 else SHAPES[2:3]
    for tiles, heads, batch in shapes:
        rows = tiles * TILES[head_dim] - 30
        case = inputs.Case(
            name=f"walk-{tiles}-{heads}-{batch}",
            query_length=rows,
            key_length=rows,
            batch=batch,
            heads=heads,
            heads_kv=heads,
            head_dim=head_dim,
            causal=mask == "causal",
            window=(150, 20) if mask == "window" else (None, None),
        )
        x = inputs.make(case, jnp.bfloat16)
        with jax_fa4.emulator.options(arch="sm90", sm_count=sm_count):
            found = expected.results(emulated(case), x)
        tolerances.check(found, *expected.both(x, case))
