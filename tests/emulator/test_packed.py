"""Pairs of float32, against fractions."""

from fractions import Fraction

import numpy as np
import pytest
from tensor_kernels import HEADER

KERNEL = (
    HEADER
    + """
.visible .entry pairs(.param .u64 p0, .param .u64 p1, .param .u64 p2, .param .u64 p3)
{{
  .reg .b64 from, at, a, b, c, d;
  .reg .b32 tid;
  mov.u32 tid, %tid.x;
  mul.wide.u32 at, tid, 8;
  ld.param.u64 from, [p0];
  add.u64 from, from, at;
  ld.global.b64 a, [from];
  ld.param.u64 from, [p1];
  add.u64 from, from, at;
  ld.global.b64 b, [from];
  ld.param.u64 from, [p2];
  add.u64 from, from, at;
  ld.global.b64 c, [from];
  {instruction};
  ld.param.u64 from, [p3];
  add.u64 from, from, at;
  st.global.b64 [from], d;
  ret;
}}
"""
)


@pytest.mark.parametrize(
    ("instruction", "exact"),
    [
        ("add.{}.f32x2 d, a, b", lambda a, b, c: a + b),
        ("sub.{}.f32x2 d, a, b", lambda a, b, c: a - b),
        ("mul.{}.f32x2 d, a, b", lambda a, b, c: a * b),
        ("fma.{}.f32x2 d, a, b, c", lambda a, b, c: a * b + c),
    ],
)
@pytest.mark.parametrize("rounding", ["rn", "rz", "rm", "rp"])
def test_pairs_round_as_asked(run_ptx, instruction, exact, rounding):
    random = np.random.default_rng(0)
    a, b, c = (
        np.ldexp(random.standard_normal(64), random.integers(-9, 9, 64)).astype(np.float32)
        for _ in range(3)
    )
    d = np.zeros(64, np.float32)
    run_ptx(KERNEL.format(instruction=instruction.format(rounding)), a, b, c, d)
    for x, y, z, result in zip(a, b, c, d, strict=True):
        value = exact(*(Fraction(float(number)) for number in (x, y, z)))
        below, above = np.nextafter(result, np.float32([-np.inf, np.inf]))
        at, low, high = (Fraction(float(number)) for number in (result, below, above))
        down, up = at <= value < high, low < value <= at
        towards_zero = down if value >= 0 else up
        nearest = abs(at - value) <= min(abs(low - value), abs(high - value))
        assert {"rn": nearest, "rz": towards_zero, "rm": down, "rp": up}[rounding]
