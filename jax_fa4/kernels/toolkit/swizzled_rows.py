"""Rows of a 16-bit tile in shared memory as TMA's swizzles lay them out.

A tile is cut into panels, the widest of 64, 32 and 16 columns that divides it, and the swizzle is
over a panel's rows of 128, 64 or 32 bytes. Eight 16-byte places in a row, of 128 bytes, are turned
by (address / 128) mod 8 (PTX ISA, "Swizzling modes"): with n pieces to a panel's row, piece p of
row r lies at p xor (r / (8 / n) mod n). One thread writes one row, so its pieces are n addresses
whatever the width.
"""

from __future__ import annotations

import cutlass.cute as cute
from cutlass import Int32

PIECE = 8  # elements of 16 bytes
_PANELS = (64, 32, 16)  # columns


def panel_of(columns: int) -> int:
    """The width of the panels of a tile of `columns`."""
    return next(panel for panel in _PANELS if columns % panel == 0)


def store_columns(
    registers: cute.Tensor, tile: cute.Pointer, rows: int, row: Int32, column: int, panel: int
) -> None:
    """`registers` to columns column .. of `row` of the tile of `rows` rows at `tile`."""
    row_base = tile + cute.assume(row * panel, divby=panel)
    pieces = panel // PIECE
    turn = (row // (8 // pieces)) % pieces * PIECE
    for c in range(0, cute.size(registers), PIECE):
        number, within = divmod(column + c, panel)
        place = cute.assume(turn ^ within, divby=PIECE)
        source = cute.make_tensor(registers.iterator + c, cute.make_layout(PIECE))
        target = row_base + place + number * rows * panel
        cute.autovec_copy(source, cute.make_tensor(target, cute.make_layout(PIECE)))
