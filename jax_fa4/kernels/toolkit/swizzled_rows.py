"""Rows of a 16-bit tile in shared memory as TMA's 128-byte swizzle lays them out.

A tile is cut into panels of 64 columns; a panel is rows of 128 bytes, and of row r the 16-byte
piece p lies at p xor (r mod 8) (PTX ISA, "Swizzling modes"). One thread writes one row, so
its pieces are 8 addresses whatever the width.
"""

from __future__ import annotations

import cutlass.cute as cute
from cutlass import Int32

PIECE = 8  # elements of 16 bytes
_PANEL = 64  # columns


def store_columns(
    registers: cute.Tensor, tile: cute.Pointer, rows: int, row: Int32, column: int
) -> None:
    """`registers` to columns column .. of `row` of the tile of `rows` rows at `tile`."""
    row_base = tile + cute.assume(row * _PANEL, divby=_PANEL)
    turn = (row % 8) * PIECE
    for c in range(0, cute.size(registers), PIECE):
        panel, within = divmod(column + c, _PANEL)
        place = cute.assume(turn ^ within, divby=PIECE)
        source = cute.make_tensor(registers.iterator + c, cute.make_layout(PIECE))
        target = row_base + place + panel * rows * _PANEL
        cute.autovec_copy(source, cute.make_tensor(target, cute.make_layout(PIECE)))
