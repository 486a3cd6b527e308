"""2^x on the CUDA cores, to take load off the special-function units (FlashAttention-4).

    n = floor(x), f = x - n in [0, 1]        by adding and subtracting 3 * 2^22, rounded down
    2^f ~ 1 + f (c1 + f (c2 + ... f c5))     Horner, two elements an instruction
    2^x = 2^n 2^f                            n added to the exponent's bits

A minimax fit of the relative error over [0, 1] with the constant held at 1, so that 2^-127, which
everything smaller is clamped to, comes out as +0: masked scores must leave exactly nothing.
Largest relative error 1.63e-7, over all fractions (tests/kernels/test_exponential.py): that of the
special-function units. FlashAttention-4 stops at the cube, which is enough for P in 16 bits
(8.6e-5), but lse is float32 and would show it. The method is that of Cody and Waite (1980); the
coefficients are ours.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

COEFFICIENTS = (
    1.0,
    0.6931512951850891,
    0.2401644438505173,
    0.0557999126613140,
    0.0090170297771692,
    0.0018671301659197,
)
SMALLEST = -127.0
_TURN = float(3 << 22)  # float32 numbers near it are integers; its last bits are n's
_EXPONENT_BIT = 23


@cute.jit
def exp2_by_polynomial(values: cute.Tensor, first: cutlass.Constexpr) -> None:
    """values[first : first + 2] = 2^ of them, in place; their bits may then be in use."""
    x = tuple(cute.arch.fmax(values[first + i], Float32(SMALLEST)) for i in range(2))
    turn = (Float32(_TURN), Float32(_TURN))
    turned = cute.make_rmem_tensor(2, Float32)
    turned[0], turned[1] = cute.arch.add_packed_f32x2(x, turn, rnd="rm")
    floor = cute.arch.sub_packed_f32x2((turned[0], turned[1]), turn)
    f = cute.arch.sub_packed_f32x2(x, floor)
    power = tuple(Float32(COEFFICIENTS[-1]) for _ in range(2))
    for c in COEFFICIENTS[-2::-1]:
        power = cute.arch.fma_packed_f32x2(power, f, (Float32(c), Float32(c)))
    values[first], values[first + 1] = power
    exponents = cute.make_tensor(cute.recast_ptr(turned.iterator, dtype=Int32), turned.layout)
    bits = cute.make_tensor(cute.recast_ptr(values.iterator, dtype=Int32), values.layout)
    for i in cutlass.range_constexpr(2):
        bits[first + i] = bits[first + i] + (exponents[i] << _EXPONENT_BIT)
