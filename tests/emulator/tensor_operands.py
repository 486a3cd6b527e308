"""Operands laid out for the fifth-generation tensor cores, and products of them."""

import ml_dtypes
import numpy as np
from tensor_kernels import BYTES, product

SPAN = {0: 16, 128: 128, 64: 64, 32: 32}
CODE = {0: 0, 128: 2, 64: 4, 32: 6}


def _swizzle(atoms, span):
    """Moves the 16-byte chunks of rows of `span` bytes, as their address bits 7 to 9 say."""
    if span == 16:
        return atoms
    flat = atoms.reshape(-1, 16)
    at = np.arange(len(flat)) * 16
    to = at ^ ((at >> 7) & (span // 16 - 1)) << 4
    moved = np.empty_like(flat)
    moved[to // 16] = flat
    return moved


def lay_out(matrix, *, rows_contiguous, swizzle):
    """(rows, depth) elements as the bytes of an operand, and its descriptor without the address."""
    size = matrix.itemsize
    span = SPAN[swizzle]
    width = span // size
    inner = matrix.T if rows_contiguous else matrix  # (outer, contiguous)
    if not rows_contiguous and inner.shape[1] < width:  # a row of the swizzle is always whole
        inner = np.pad(inner, ((0, 0), (0, width - inner.shape[1])))
    outer_count, contiguous = inner.shape
    # Atoms of 8 rows of `span` bytes; along the contiguous direction they follow one another last.
    atoms = inner.reshape(outer_count // 8, 8, contiguous // width, width).transpose(2, 0, 1, 3)
    image = np.ascontiguousarray(atoms).view(np.uint8).reshape(-1)
    image = np.ascontiguousarray(_swizzle(image, span)).reshape(-1)
    outer_step, inner_step = 8 * span, outer_count * span
    leading, stride = (inner_step, outer_step)
    if rows_contiguous and swizzle == 0:
        leading, stride = stride, leading
    padded = np.zeros(BYTES, np.uint8)
    padded[: len(image)] = image
    word = (leading >> 4) << 16 | (stride >> 4) << 32 | 1 << 46 | CODE[swizzle] << 61
    return padded, np.uint64(word)


def _lay_out_parts(parts, **how):
    """One CTA's bytes after the other's, and the descriptor, which is the same for all."""
    images = [lay_out(part, **how) for part in parts]
    return np.concatenate([image for image, _ in images]), images[0][1]


def instruction_descriptor(rows, columns, a_type, b_type, *, negate=(0, 0), transposed=(0, 0)):
    return np.uint32(
        1 << 4
        | a_type << 7
        | b_type << 10
        | negate[0] << 13
        | negate[1] << 14
        | transposed[0] << 15
        | transposed[1] << 16
        | columns // 8 << 17
        | rows // 16 << 24
    )


TYPES = {
    "f16": ("f16", 0, np.float16),
    "bf16": ("f16", 1, ml_dtypes.bfloat16),
    "e4m3": ("f8f6f4", 0, ml_dtypes.float8_e4m3fn),
    "e5m2": ("f8f6f4", 1, ml_dtypes.float8_e5m2),
}


def run_product(
    run,
    *,
    types=("bf16", "bf16"),
    columns=64,
    group=1,
    rows_contiguous=(False, False),
    swizzles=(128, 128),
    a_in_tensor_memory=False,
    twice=1,
    keep=0,
    negate=(0, 0),
    shape=None,
    how=None,
    **changes,
):
    """Runs A B of small integers, whose sums are exact; returns what came out, and A B."""
    kind, a_type, a_dtype = TYPES[types[0]]
    _, b_type, b_dtype = TYPES[types[1]]
    depth = 32 // np.dtype(a_dtype).itemsize
    random = np.random.default_rng(0)
    a = random.integers(-3, 4, (128 * group, depth)).astype(a_dtype)
    b = random.integers(-3, 4, (columns, depth)).astype(b_dtype)
    (a_bytes, a_layout), (b_bytes, b_layout) = (
        _lay_out_parts(np.split(operand, group), rows_contiguous=rows, swizzle=swizzle)
        for operand, rows, swizzle in zip((a, b), rows_contiguous, swizzles, strict=True)
    )
    if a_in_tensor_memory:
        a_bytes[: a.nbytes] = np.ascontiguousarray(a).view(np.uint8).reshape(-1)
    out = np.full((128 * group, columns), np.nan, np.float32)
    run(
        product(
            columns=columns,
            kind=kind,
            group=group,
            a_in_tensor_memory=a_in_tensor_memory,
            **changes,
        ),
        a_bytes,
        b_bytes,
        out,
        a_layout,
        b_layout,
        shape
        or instruction_descriptor(
            128 * group,
            columns,
            a_type,
            b_type,
            negate=negate,
            transposed=tuple(map(int, rows_contiguous)),
        ),
        np.uint32(twice),
        np.uint32(keep),
        grid=(group, 1, 1),
        block=(128, 1, 1),
        cluster=(group, 1, 1),
        **(how or {}),
    )
    return out, a.astype(np.float64) @ b.astype(np.float64).T
