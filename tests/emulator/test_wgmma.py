"""Warpgroup products of every form against the scalar model, where formats end too."""

import matrix_model
import numpy as np
import pytest
from products import KINDS, accumulator, contained, operand
from scalar_model import F16, F32
from wgmma_kernels import Form, formats

BOTH = (True, True)
EIGHT = [
    Form(n, d, a, b, registers=registers, swizzles=(swizzle, swizzle))
    for n, d, a, b, registers, swizzle in (
        (16, "f32", "e4m3", "e4m3", False, 128),
        (8, "f32", "e5m2", "e4m3", True, 64),
        (24, "f32", "e4m3", "e5m2", False, 32),
        (8, "f32", "e5m2", "e5m2", False, 0),
        (8, "f16", "e4m3", "e4m3", False, 64),
        (16, "f16", "e5m2", "e5m2", True, 128),
    )
]
SIXTEEN = [
    Form(8),
    Form(40, a="f16", b="f16", swizzles=(0, 32)),
    Form(24, d="f16", a="f16", b="f16", swizzles=(64, 0)),
    Form(64, d="f16", a="f16", b="f16", rows_contiguous=BOTH),
    Form(64, a="f16", b="f16", rows_contiguous=(True, False), swizzles=(32, 64)),
    Form(16, d="f16", a="f16", b="f16", registers=True),
    Form(32, registers=True, rows_contiguous=(False, True), swizzles=(0, 32)),
    Form(16, scales=(-1, 1)),
    Form(16, registers=True, scales=(1, -1)),
    Form(8, d="f16", a="f16", b="f16", scales=(-1, -1)),
]
THIRTY_TWO = [
    Form(16, a="tf32", b="tf32", swizzles=(swizzle, swizzle)) for swizzle in (0, 32, 64, 128)
] + [Form(8, a="tf32", b="tf32", registers=True, scales=(-1, 1))]


def case(form, kind, seed=1):
    """(a, b, c in memory, expected) of a form."""
    d = F16 if form.d == "f16" else F32
    a_form, b_form = formats(form)
    a = operand(a_form, (64, form.k), kind, seed)
    b = operand(b_form, (form.n, form.k), kind, seed + 1)
    c = accumulator(d, (64, form.n), kind, seed + 2)
    signs = [
        (scale < 0) << (f.bits - 1) for scale, f in zip(form.scales, formats(form), strict=True)
    ]
    how = {}
    if form.element_bytes == 1:  # Hopper adds products of 8 bits with less precision
        how = {"fraction": 13, "kept": 13}
    expected = matrix_model.product(a ^ signs[0], (b ^ signs[1]).T, c, (a_form, b_form), d, **how)
    return contained(a, form.a), contained(b, form.b), c, expected


def check(run, form, kind):
    a, b, c, expected = case(form, kind)
    np.testing.assert_array_equal(form.run(run, a, b, c, True), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", SIXTEEN, ids=str)
def test_sixteen_bits(run_ptx, form, kind):
    check(run_ptx, form, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", EIGHT, ids=str)
def test_eight_bits(run_ptx, form, kind):
    check(run_ptx, form, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", THIRTY_TWO, ids=str)
def test_tf32(run_ptx, form, kind):
    check(run_ptx, form, kind)


def test_least_exponent_of_the_alignment(run_ptx):
    """2^-148 - 2^(-149 - m): nothing below 2^(-133 - 25) takes part, however small the rest."""
    form = Form(8)
    a, b = np.zeros((64, 16), np.float32), np.zeros((8, 16), np.float32)
    a[:, 0], b[:, 0] = 2.0**-88, 2.0**-60
    a[:, 1], b[:, 1] = -(2.0 ** (-89.0 - np.arange(64))), 2.0**-60
    a[:, 2] = 2.0**100  # with a zero
    bits = [(x.view(np.uint32) >> 16).astype(np.uint16) for x in (a, b)]
    got = form.run(run_ptx, *bits, np.zeros((64, 8), np.uint32), True)
    expected = np.where(np.arange(64) < 10, 1, 2)[:, None]
    np.testing.assert_array_equal(got, np.broadcast_to(expected, got.shape))


@pytest.mark.parametrize("n", [48, 104, 192, 256])
def test_widths(run_ptx, n):
    """Small integers, whose sums are exact."""
    form = Form(n, swizzles=(32, 32))
    rng = np.random.default_rng(n)
    a, b = rng.integers(-3, 4, (64, 16)), rng.integers(-3, 4, (n, 16))
    c = rng.integers(-9, 10, (64, n))
    bits = [(x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16) for x in (a, b)]
    got = form.run(run_ptx, *bits, c.astype(np.float32).view(np.uint32), True)
    np.testing.assert_array_equal(got.view(np.float32), c + a @ b.T)


def test_nothing_is_added_to_a_new_accumulator(run_ptx):
    form = Form(8)
    a, b, c, _ = case(form, "moderate")
    got = form.run(run_ptx, a, b, np.full_like(c, 0x7FC00000), False)
    a_form, b_form = formats(form)
    expected = matrix_model.product(a, b.T, np.zeros_like(c), (a_form, b_form))
    np.testing.assert_array_equal(got, expected)


def test_a_subnormal_accumulator_has_the_smallest_exponent(run_ptx):
    """2.5 2^-24 and a little that the alignment to 2^-14 drops is a tie, which goes to 2 2^-24."""
    form = Form(8, d="f16", a="f16", b="f16")
    a, b = np.zeros((64, 16), np.uint16), np.zeros((8, 16), np.uint16)
    a[:, 0], b[:, 0] = 0x0C00, 0x0800  # 2^-12, 2^-13
    a[:, 1], b[:, 1] = 0x0004, 0x0004  # 2^-22 both
    c = np.full((64, 8), 2, np.uint16)
    expected = matrix_model.product(a, b.T, c, (F16, F16), F16)
    assert (expected == 2).all()
    np.testing.assert_array_equal(form.run(run_ptx, a, b, c, True), expected)
