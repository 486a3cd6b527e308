"""What a softcap adds to a row of scores of the backward: its tanh, and the slope of that.

    s = cap tanh(raw),  ds / draw = cap (1 - tanh^2)

so dS, of raw scores, is P (dP - delta) (1 - tanh^2): P has the last factor once it is rounded for
dV.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Uint32

from jax_fa4.kernels.toolkit.softcap import capped


@cute.jit
def cap_with_slopes(scores: cute.Tensor, slope: Float32) -> cute.Tensor:
    """Raw scores to their tanh, in place; gives 1 - tanh^2 of each."""
    slopes = cute.make_rmem_tensor(cute.size(scores), Float32)
    for c in cutlass.range_constexpr(cute.size(scores)):
        scores[c] = capped(scores[c], slope)
        slopes[c] = cute.math.fma(-scores[c], scores[c], Float32(1.0))
    return slopes


@cute.jit
def hide_by_word(probabilities: cute.Tensor, word: Uint32, first: cutlass.Constexpr) -> None:
    """0 for those whose bits, from number `first` on, are not set."""
    for c in cutlass.range_constexpr(cute.size(probabilities)):
        visible = (word & Uint32(1 << (first + c))) != 0
        probabilities[c] = probabilities[c] if visible else Float32(0.0)


@cute.jit
def multiply(values: cute.Tensor, factors: cute.Tensor) -> None:
    """values *= factors."""
    for c in cutlass.range_constexpr(0, cute.size(values), 2):
        pair, by = (values[c], values[c + 1]), (factors[c], factors[c + 1])
        values[c], values[c + 1] = cute.arch.mul_packed_f32x2(pair, by)
