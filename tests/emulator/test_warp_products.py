"""ldmatrix and mma.sync: fragments by the manual's figures, sums by the model of tensor cores."""

import matrix_model
import numpy as np
import pytest
from boxes import random_bits
from scalar_model import BF16, F16
from test_asynchronous import accumulator, operand

LANES = np.arange(32)


@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(run_file, transposed):
    matrices = random_bits(np.uint16, (4, 8, 8))
    expected = np.zeros((32, 4, 2), np.uint16)  # lane, matrix, half
    for lane, matrix, half in np.ndindex(expected.shape):
        row, column = lane // 4, 2 * (lane % 4) + half
        if transposed:
            row, column = column, row
        expected[lane, matrix, half] = matrices[matrix, row, column]
    got = np.zeros_like(expected)
    run_file("ldmatrix_trans" if transposed else "ldmatrix", got, matrices)
    np.testing.assert_array_equal(got, expected)


def fragments_of_a(a):
    """(lane, register, half) of A (16, K): PTX ISA 9.7.14.5.8."""
    registers = np.arange(a.shape[1] // 4)
    row = LANES[:, None, None] // 4 + 8 * (registers[:, None] % 2)
    k = 2 * (LANES[:, None, None] % 4) + np.arange(2) + 8 * (registers[:, None] // 2)
    return a[row, k]


def fragments_of_b(b):
    """The same of B (K, 8)."""
    registers = np.arange(b.shape[0] // 8)
    k = 2 * (LANES[:, None, None] % 4) + np.arange(2) + 8 * registers[:, None]
    return b[k, LANES[:, None, None] // 4]


def fragments_of_c(c):
    """(lane, register) of C or D (16, 8)."""
    registers = np.arange(4)
    row = LANES[:, None] // 4 + 8 * (registers // 2)
    return c[row, 2 * (LANES[:, None] % 4) + registers % 2]


@pytest.mark.parametrize("kind", ["moderate", "spread", "tiny", "wide", "special"])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(("name", "form"), [("bf16", BF16), ("f16", F16)])
def test_mma(run_file, name, form, depth, kind):
    a = operand(form, (16, depth), kind, 1)
    b = operand(form, (8, depth), kind, 2).T
    c = accumulator((16, 8), kind, 3)
    got = fragments_of_c(c)
    run_file(f"mma_m16n8k{depth}_{name}", got, fragments_of_a(a), fragments_of_b(b))
    np.testing.assert_array_equal(got, fragments_of_c(matrix_model.product(a, b, c, form)))
