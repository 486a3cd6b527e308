"""The order in which this kernel's CTAs walk the tiles.

A CTA's work comes in units, taken in strides of the grid. Three orders, chosen at the launch:

* all tiles alike: a unit is a tile, head after head, so that the CTAs that run side by side
  share K and V, and every moment reads about as much of them from memory as any other;
* short tiles that the band cuts: a unit is a pair of tiles of one head, the longest with the
  shortest, the second longest with the second shortest. For a causal problem all pairs are
  equally long, so that persistent CTAs have equal work without asking who is free. Where a
  head has an odd number of tiles, the middle ones of two heads are a pair;
* long tiles that the band cuts: a CTA a tile, longest first (`LongestFirst`).
"""

# No `from __future__ import annotations` here: the compiler reads annotations as objects.
from dataclasses import dataclass

import cutlass.cute as cute
from cutlass import Boolean, Int32, min

from jax_fa4.kernels.toolkit.schedulers import LongestFirst


@dataclass(frozen=True)
class Walk:
    """What both sides of the launch know of the order.

    In the kernel, `tiles` have their divisors and `by_rows` divides by a head's tiles: to decode
    a tile stands between tiles, where nothing hides it, and a division takes some 40 instructions.
    """

    tiles: LongestFirst
    is_paired: Boolean
    by_rows: cute.FastDivmodDivisor | None = None


@cute.jit
def units(walk: Walk) -> Int32:
    """How many units there are in all."""
    count = walk.tiles.tiles()
    if walk.is_paired:
        rows = walk.tiles.row_blocks
        heads = walk.tiles.heads * walk.tiles.batch
        # A last head without a partner has its own pairs and, alone, its middle tile.
        count = heads // 2 * rows + heads % 2 * ((rows + 1) // 2)
    return count


@cute.jit
def decode(walk: Walk, unit: Int32, second: Int32) -> tuple[Int32, Int32, Int32]:
    """Row block, query head and batch of the unit's first tile, or of its `second`.

    Callers look ahead: a unit past the end is taken for the last.
    """
    unit = min(unit, units(walk) - 1)
    row, head, batch = Int32(0), Int32(0), Int32(0)
    if walk.is_paired:
        rows, all_heads = walk.tiles.row_blocks, walk.tiles.heads * walk.tiles.batch
        _, _, _, by_heads = walk.tiles.divisors
        pairs_a_head = rows // 2
        couple, pair = divmod(unit, walk.by_rows)  # couple of heads
        has_partner = 2 * couple + 1 < all_heads
        is_middle = pair >= (2 * pairs_a_head if has_partner else pairs_a_head)
        in_second_head = pair >= pairs_a_head
        pair = pair - pairs_a_head if in_second_head else pair
        row = pair if second == 1 else rows - 1 - pair
        row = pairs_a_head if is_middle else row
        head_and_batch = 2 * couple + (second if is_middle else Int32(in_second_head))
        batch, head = divmod(head_and_batch, by_heads)
    else:
        row, head, batch = walk.tiles.decode(unit)
    return row, head, batch


@cute.jit
def following(walk: Walk, unit: Int32, second: Int32) -> tuple[Int32, Int32]:
    """What comes after tile `second` of `unit`: the other tile, or the next unit's first."""
    has_other = walk.is_paired & (second == 0)
    # The last unit is one tile where an odd number of heads has an odd number of tiles each.
    odd = walk.tiles.row_blocks & (walk.tiles.heads * walk.tiles.batch) & 1
    has_other = has_other & ((odd == 0) | (unit + 1 < units(walk)))
    unit = unit if has_other else unit + Int32(cute.arch.grid_dim()[0])
    second = Int32(1) if has_other else Int32(0)
    return unit, second
