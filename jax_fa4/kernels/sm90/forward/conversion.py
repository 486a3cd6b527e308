"""Scores to the operand P, beside their exponentials.

Beside a running product a conversion takes 3.9 cycles of a warp and an exponential 10.5, on units
of their own, so that conversions are free among exponentials and are not after them. Compilers
sink them below the next branch, to where P is first used; an instruction written out stays.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32

_PAIR_TYPES = {cutlass.BFloat16: "bf16x2", cutlass.Float16: "f16x2"}


@cute.jit
def convert_here(source: cute.Tensor, target: cute.Tensor) -> None:
    """Round `source` (float32) into `target` (16 bits), register by register."""
    instruction = f"cvt.rn.{_PAIR_TYPES[target.element_type]}.f32"
    pairs = cute.size(source) // 2
    scores = cute.make_tensor(source.iterator, cute.make_layout(2 * pairs))
    words = cute.make_tensor(cute.recast_ptr(target.iterator, dtype=Int32), cute.make_layout(pairs))
    for i in cutlass.range_constexpr(pairs):
        words[i] = cute.arch.inline_ptx(
            f"{instruction} {{$w0}}, {{$r0}}, {{$r1}};",
            write_only_types=[Int32],
            read_only_args=[scores[2 * i + 1], scores[2 * i]],  # the upper half comes first
        )
