"""Copies, mbarriers and matrix products, each against a model of its own."""

import matrix_model
import numpy as np
import pytest
from boxes import random_bits
from scalar_model import BF16, F16

COMPLETIONS = ["earliest", "latest", "random"]


@pytest.mark.parametrize("completion", COMPLETIONS)
def test_mbarrier(run_file, completion):
    got = np.zeros(6, np.uint32)
    run_file("mbarrier", got, completion=completion)
    # 2: parity 1 is the phase before, it is over; 1: parity 0 is.
    assert got.tolist() == [2, 2, 1, 1, 2, 1]


@pytest.mark.parametrize("completion", COMPLETIONS)
@pytest.mark.parametrize("read", [0, 5, 16])
def test_cp_async(run_file, read, completion):
    values = random_bits(np.uint8, (32, 32))
    got = np.zeros_like(values)
    run_file("cp_async", got, values, np.uint32(read), completion=completion)
    values[:, read:16] = 0
    np.testing.assert_array_equal(got, values)


@pytest.mark.parametrize("completion", COMPLETIONS)
def test_cp_async_mbarrier(run_file, completion):
    values = random_bits(np.uint8, (32, 16))
    got = np.zeros_like(values)
    run_file("cp_async_mbarrier", got, values, completion=completion)
    np.testing.assert_array_equal(got, values)


@pytest.mark.parametrize("completion", COMPLETIONS)
def test_bulk_copy_and_reduction(run_file, completion):
    rng = np.random.default_rng(3)
    term, total = rng.normal(size=(2, 64)).astype(np.float32)
    tiny = np.float32(1e-40)
    term[:4], total[:4] = [tiny, 1, tiny, -tiny], [tiny, tiny, 0, 2]
    expected = term + total
    copied = np.zeros_like(term)
    run_file("bulk_copy", total, copied, term, np.uint32(256), shared=1024, completion=completion)
    np.testing.assert_array_equal(total, expected)
    np.testing.assert_array_equal(copied, term)


@pytest.mark.parametrize("transposed", [False, True])
def test_stmatrix(run_file, transposed):
    fragments = random_bits(np.uint16, (32, 4, 2))  # lane, matrix, half
    expected = np.zeros((4, 8, 8), np.uint16)
    for lane, matrix, half in np.ndindex(32, 4, 2):
        row, column = lane // 4, 2 * (lane % 4) + half
        if transposed:
            row, column = column, row
        expected[matrix, row, column] = fragments[lane, matrix, half]
    got = np.zeros_like(expected)
    run_file("stmatrix_trans" if transposed else "stmatrix", got, fragments)
    np.testing.assert_array_equal(got, expected)


def operand(form, shape, kind, seed):
    """16-bit patterns: moderate values, any finite ones that cannot overflow, or with specials.

    "spread" has exponents far apart, zeros, and subnormals in the first matrix's odd rows alone,
    "tiny" products around the smallest normal float32: the engine takes ordinary rows by another
    way than the rest.
    """
    rng = np.random.default_rng(seed)
    sign = rng.integers(0, 2, shape) << 15
    fraction = rng.integers(0, 2**form.fraction_bits, shape)
    middle, spread = form.bias, 3
    if kind == "wide":
        middle, spread = form.bias - 4, min(40, form.bias - 6)
    if kind == "spread":
        middle, spread = form.bias + 3, min(52, form.bias - 4)
    if kind == "tiny":
        middle, spread = max(form.bias - 68, 5), 4
    field = rng.integers(middle - spread, middle + spread + 1, shape)
    bits = sign | field << form.fraction_bits | fraction
    if kind == "spread":
        bits[rng.random(shape) < 0.2] &= 0x8000
        odd = np.arange(shape[0])[:, None] % 2 == 1
        bits[odd & (rng.random(shape) < (0.1 if seed == 1 else 0))] &= 0x8000 | 3
    elif kind in ("wide", "special"):
        bits[rng.random(shape) < 0.1] &= 0x8000  # zeros of both signs
        small = rng.random(shape) < 0.1
        bits[small] &= 0x8000 | (2**form.fraction_bits - 1)  # subnormals
    if kind == "special":
        for value in (form.infinity, form.infinity | 0x8000, form.infinity + 1):
            bits[rng.random(shape) < 0.004] = value
    return bits.astype(np.uint16)


def accumulator(shape, kind, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape) * 10.0 ** rng.integers(-8, 4, shape)
    if kind == "special":
        values[rng.random(shape) < 0.01] = np.inf
    if kind == "tiny":
        values *= 1e-40
    elif kind != "moderate":
        values[rng.random(shape) < 0.05] = 1e-41
    return values.astype(np.float32).view(np.uint32)


# file, columns, format, A in registers, A and B with K contiguous, swizzle
PRODUCTS = [
    *[("wgmma_n64_k_k", 64, BF16, False, True, True, swizzle) for swizzle in (0, 32, 64, 128)],
    *[("wgmma_n64_mn_mn", 64, BF16, False, False, False, width) for width in (0, 32, 64, 128)],
    ("wgmma_n64_registers", 64, BF16, True, True, True, 128),
    ("wgmma_n128_registers_mn", 128, BF16, True, True, False, 128),
    ("wgmma_n64_f16", 64, F16, False, True, True, 64),
]


@pytest.mark.parametrize("kind", ["moderate", "spread", "tiny", "wide", "special"])
@pytest.mark.parametrize(
    ("name", "columns", "form", "registers", "a_k", "b_k", "swizzle"), PRODUCTS
)
def test_wgmma(run_file, name, columns, form, registers, a_k, b_k, swizzle, kind):
    a = operand(form, (64, 16), kind, 1)
    b = operand(form, (columns, 16), kind, 2)
    c = accumulator((64, columns), kind, 3)
    accumulate = kind != "moderate"
    b_image, b_descriptor = matrix_model.image(b, 16384, swizzle, b_k)
    a_image, a_descriptor = matrix_model.image(a, 8192, swizzle, a_k)
    if registers:
        a_image = a
    got = c.copy()
    run_file(
        name,
        got,
        a_image,
        b_image,
        np.uint64(a_descriptor),
        np.uint64(b_descriptor),
        np.uint32(accumulate),
        block=(128, 1, 1),
    )
    expected = matrix_model.product(a, b.T, c if accumulate else np.zeros_like(c), form)
    np.testing.assert_array_equal(got, expected)
