"""A warp's products of 16 rows: ldmatrix and mma.sync m16n8k16, on every architecture alike.

Lane t of a fragment of sums has row t / 4 (registers 0 and 1) and row t / 4 + 8 (2 and 3), of each
columns 2 (t % 4) and the next (PTX ISA, "Matrix fragments for mma.m16n8k16").
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

_WORDS = {cutlass.BFloat16: ("bf16", "bf16x2"), cutlass.Float16: ("f16", "f16x2")}


def load_matrices(address: Int32, *, transposed: bool) -> tuple[Int32, ...]:
    """Four 8 x 8 matrices of 16 bits, whose rows' addresses 8 lanes each give."""
    words = ".trans" if transposed else ""
    return cute.arch.inline_ptx(
        f"ldmatrix.sync.aligned.m8n8.x4{words}.shared.b16 "
        "{ {$w0}, {$w1}, {$w2}, {$w3} }, [{$r0}];",
        write_only_types=[Int32] * 4,
        read_only_args=[address],
    )


def multiply_add(dtype, sums: cute.Tensor, first: int, a: list, b: tuple) -> None:
    """sums[first : first + 4] += A B: 16 x 16 of A in four words, 16 x 8 of B in two."""
    word = _WORDS[dtype][0]
    old = [sums[first + i] for i in range(4)]
    new = cute.arch.inline_ptx(
        f"mma.sync.aligned.m16n8k16.row.col.f32.{word}.{word}.f32 "
        "{ {$w0}, {$w1}, {$w2}, {$w3} }, { {$r0}, {$r1}, {$r2}, {$r3} }, { {$r4}, {$r5} }, "
        "{ {$r6}, {$r7}, {$r8}, {$r9} };",
        write_only_types=[Float32] * 4,
        read_only_args=[*a, *b, *old],
    )
    for i in range(4):
        sums[first + i] = new[i]


def round_pair(dtype, low: Float32, high: Float32) -> Int32:
    """Two numbers rounded to 16 bits, in a word."""
    return cute.arch.inline_ptx(
        f"cvt.rn.{_WORDS[dtype][1]}.f32 {{$w0}}, {{$r0}}, {{$r1}};",
        write_only_types=[Int32],
        read_only_args=[high, low],
    )
