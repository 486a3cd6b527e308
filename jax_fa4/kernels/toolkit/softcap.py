"""The soft cap: scores scale q.k become cap tanh(scale q.k / cap) (Bello et al. 2017; Gemma 2).

    tanh(y) = 1 - 2 / (1 + exp(2 y))

by the special-function units' 2^x and 1/x, to a few units of 2^-24: an instruction tanh.approx has
2^-11, which would show in the float32 `lse`. Where exp(2 y) overflows, 1/x is 0 and tanh 1.
Kernels hold the tanh instead of the score, and multiply by cap log2(e) in the exponent.
"""

from __future__ import annotations

import cutlass.cute as cute
from cutlass import Float32

from jax_fa4.kernels.toolkit.forward_arrays import LOG2_E


def factors(softmax_scale: Float32, cap: Float32) -> tuple[Float32, Float32]:
    """(slope of `capped`, what its result is multiplied by in an exponent of two)."""
    return softmax_scale * (2 * LOG2_E) / cap, cap * LOG2_E


def capped(score: Float32, slope: Float32) -> Float32:
    """tanh(scale score / cap), for the slope 2 log2(e) scale / cap."""
    power = cute.math.exp2(score * slope, fastmath=True)
    return cute.math.fma(Float32(-2.0), cute.arch.rcp_approx(power + 1.0), Float32(1.0))
