"""Online softmax in base 2 where a thread owns a whole row of scores.

The rule is that of `softmax.py`: with c = softmax_scale * log2(e), a block of scores S becomes
P = exp2(c * (S - m)), and the running maximum m of raw scores moves only when what was
accumulated before would be scaled by less than 2^-threshold.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32

_CHAINS = 4  # of additions or maxima, so that they overlap


@cute.jit
def block_maximum(scores: cute.Tensor) -> Float32:
    """The largest of the scores, by chains of three-input maxima."""
    columns = cute.size(scores)
    partial = [cute.arch.fmax(scores[c], scores[c + _CHAINS]) for c in range(_CHAINS)]
    for c in cutlass.range_constexpr(2 * _CHAINS, columns, 2 * _CHAINS):
        for chain in cutlass.range_constexpr(_CHAINS):
            a, b = scores[c + chain], scores[c + chain + _CHAINS]
            partial[chain] = cute.arch.fmax(cute.arch.fmax(partial[chain], a), b)
    left, right = cute.arch.fmax(partial[0], partial[1]), cute.arch.fmax(partial[2], partial[3])
    return cute.arch.fmax(left, right)


@cute.jit
def advance_maximum(
    old: Float32, block: Float32, scale_log2: Float32, threshold: cutlass.Constexpr
) -> tuple[Float32, Boolean]:
    """The maximum to subtract from now on, and whether it is the old one."""
    new = cute.arch.fmax(old, block)
    # False for -inf - -inf, so that a row that has seen nothing takes the new maximum.
    stays = Boolean((new - old) * scale_log2 <= threshold)
    return old if stays else new, stays


@cute.jit
def shift_of(maximum: Float32, scale_log2: Float32) -> Float32:
    """-c m; 0 for a row that has seen nothing, whose P is exp2(-inf) = 0."""
    return Float32(0.0) if maximum == -Float32.inf else -maximum * scale_log2


@cute.jit
def row_sum(values: cute.Tensor) -> Float32:
    """The sum of the values, by chains of packed additions."""
    pairs = [(values[c], values[c + 1]) for c in range(0, cute.size(values), 2)]
    chains = [cute.arch.add_packed_f32x2(pairs[c], pairs[c + _CHAINS]) for c in range(_CHAINS)]
    for c, pair in enumerate(pairs[2 * _CHAINS :]):
        chains[c % _CHAINS] = cute.arch.add_packed_f32x2(chains[c % _CHAINS], pair)
    left = cute.arch.add_packed_f32x2(chains[0], chains[1])
    right = cute.arch.add_packed_f32x2(chains[2], chains[3])
    low, high = cute.arch.add_packed_f32x2(left, right)
    return low + high
