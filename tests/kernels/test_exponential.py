"""The polynomial for 2^x: every fraction in float32, as the kernel computes it."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

pytest.importorskip(
    "cutlass", reason="NOT COMPILED: CuTe DSL is a build requirement only; .ci/run has it"
)

from jax_fa4.kernels.toolkit.exponential import COEFFICIENTS, SMALLEST

TURN = np.float64(3 << 22)
MANTISSAS = np.arange(1 << 23, dtype=np.uint32)


def fma(a, b, c):
    """Rounded once: the product of two float32 is exact in float64, and so nearly is the sum."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


def polynomial(x):
    x = np.maximum(x, np.float32(SMALLEST))
    floor = np.floor(x)  # what adding TURN rounded down, and subtracting it, leaves
    f = x - floor
    power = np.full_like(x, np.float32(COEFFICIENTS[-1]))
    for c in COEFFICIENTS[-2::-1]:
        power = fma(power, f, np.float32(c))
    bits = power.view(np.int32) + (floor.astype(np.int32) << 23)
    return bits.view(np.float32)


def octave(exponent):
    """All float32 of (-2^(exponent + 1), -2^exponent]."""
    return (MANTISSAS | np.uint32(127 + exponent) << 23 | np.uint32(1 << 31)).view(np.float32)


@pytest.mark.parametrize("exponent", [-24, -12, -3, -1, 0, 1, 3, 5])
def test_relative_error(exponent):
    x = octave(exponent)
    exact = np.exp2(x.astype(np.float64))
    assert np.abs(polynomial(x) / exact - 1).max() < 1.65e-7


def test_every_fraction():
    """[1, 2) and, by symmetry of the reduction, all that a fraction can be."""
    x = (MANTISSAS | np.uint32(127) << 23).view(np.float32)
    exact = np.exp2(x.astype(np.float64))
    found = polynomial(x)
    assert np.abs(found / exact - 1).max() < 1.65e-7
    rounded, wanted = found.astype(ml_dtypes.bfloat16), exact.astype(ml_dtypes.bfloat16)
    ulps = np.abs(rounded.view(np.int16).astype(int) - wanted.view(np.int16).astype(int))
    assert ulps.max() <= 1
    assert (ulps > 0).mean() < 3e-5


def test_what_is_masked_leaves_nothing():
    x = np.array([-np.inf, -1e30, -127.5, -127.0], np.float32)
    assert polynomial(x).tobytes() == np.zeros(4, np.float32).tobytes()
