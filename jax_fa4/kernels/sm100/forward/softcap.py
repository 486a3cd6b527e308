"""Scores that a softcap bounds: cap tanh(scale q.k / cap), before masks and softmax.

With y = 2 log2(e) scale / cap of the raw score,

    tanh = 1 - 2 / (2^y + 1)

and softmax goes on with the tanh as the score, and cap log2(e) as its scale. Two columns share one
reciprocal of the product of their denominators, and some exponentials are polynomials
(`config.cap_polynomial`): three numbers of the special-function units a column would be three times
the time of a product. Absolute error of the tanh about 3e-7, of the scores cap times that; the
GPU's own tanh has 5e-4.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32

from jax_fa4.kernels.sm100.forward.config import POLYNOMIAL_PERIOD
from jax_fa4.kernels.toolkit.exponential import exp2_by_polynomial
from jax_fa4.kernels.toolkit.forward_arrays import LOG2_E

fma = cute.math.fma

# The tanh is 1 from far below; and no product of two denominators overflows.
_LARGEST = 60.0
_COLUMNS = 32  # that are capped at a time


def scales(softmax_scale: Float32, softcap: Float32) -> tuple[Float32, Float32]:
    """(what softmax multiplies the tanh by, y of a raw score of 1), both in base 2."""
    return softcap * LOG2_E, softmax_scale * (2 * LOG2_E) / softcap


@cute.jit
def _cap_pair(context, scores: cute.Tensor, c: cutlass.Constexpr) -> None:
    """Raw scores c and c + 1 to their tanh, in place."""
    scale, one = (context.cap_log2, context.cap_log2), (Float32(1.0), Float32(1.0))
    a, b = cute.arch.mul_packed_f32x2((scores[c], scores[c + 1]), scale)
    # Not a minimum: a NaN must stay one.
    scores[c] = Float32(_LARGEST) if a > _LARGEST else a
    scores[c + 1] = Float32(_LARGEST) if b > _LARGEST else b
    if cutlass.const_expr(c // 2 % POLYNOMIAL_PERIOD in context.config.cap_polynomial):
        exp2_by_polynomial(scores, c)
    else:
        scores[c] = cute.math.exp2(scores[c], fastmath=True)
        scores[c + 1] = cute.math.exp2(scores[c + 1], fastmath=True)
    left, right = cute.arch.add_packed_f32x2((scores[c], scores[c + 1]), one)
    inverse = cute.arch.rcp_approx(left * right) * -2.0
    scores[c] = fma(inverse, right, Float32(1.0))
    scores[c + 1] = fma(inverse, left, Float32(1.0))


@cute.jit
def cap(context, scores: cute.Tensor) -> None:
    """Raw scores to their tanh, in place."""
    for first in cutlass.range_constexpr(0, cute.size(scores), _COLUMNS):
        # Always so. Within one block of code ptxas has more columns in flight than registers.
        if context.cap_log2 > 0.0:
            for c in cutlass.range_constexpr(first, first + _COLUMNS, 2):
                _cap_pair(context, scores, c)
