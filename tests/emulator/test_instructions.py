"""Every scalar instruction on the corners of its types, against integers and fractions."""

import itertools

import numpy as np
import pytest
from blackwell_cases import BLACKWELL
from instruction_cases import CASES
from narrow_cases import NARROW
from scalar_model import BF16, E4M3, E5M2, F16, F32, decode

THREADS = 128
FLOAT_FORMATS = {"f32": F32, "f16": F16, "bf16": BF16}
BIT_KINDS = {
    "pred": "u32",
    "amount": "u32",
    "field": "u32",
    "selector": "u32",
    "f32": "u32",
    "f16": "u16",
    "bf16": "u16",
    "f16x2": "u32",
    "f32x2": "u64",
    "e4m3x2": "u16",
    "e5m2x2": "u16",
    "b16": "u16",
    "b32": "u32",
    "b64": "u64",
}


def dtype_of(kind):
    kind = BIT_KINDS.get(kind, kind)
    return np.dtype(f"{'i' if kind[0] == 's' else 'u'}{int(kind[1:]) // 8}")


def float_corners(form):
    one = form.bias << form.fraction_bits
    sign = 1 << (form.bits - 1)
    tiny, low = 1 << form.fraction_bits, 1 << (form.fraction_bits - 1)
    values = [0, 1, low, tiny - 1, tiny, tiny + 1, one - 1, one, one + 1, one + low]
    values += [one + 3, one + 2 * tiny + 5, one - 30 * tiny if form is not F16 else one - 3]
    values += [form.infinity - 1, form.infinity, form.infinity + 1, form.nan, form.infinity | low]
    return [bits | side for bits in values for side in (0, sign)]


def float32_sources_of_narrow_formats():
    """Ties, their neighbours, and overflows of bf16 and f16."""
    bits = [0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x7F7F8000, 0x7F7F7FFF, 0x00008000]
    bits += [0x3F801000, 0x3F803000, 0x477FEFFF, 0x477FF000, 0x33000000, 0x33000001, 0x387FE000]
    bits += [0x387FF000, 0x38801000, 0x33C00000, 0x4B000001, 0x4F000000, 0x4EFFFFFF, 0x5F000000]
    bits += [0x3F000000, 0x3FC00000, 0x40200000, 0x3EFFFFFF, 0x3F000001, 0x42FE0000, 0x4F7FFFFF]
    return [value | side for value in bits for side in (0, 0x80000000)]


def float32_sources_of_bytes():
    """Every number of the 8-bit formats, what is halfway to the next, and their neighbours."""
    values = {2.0**-20, 1e-30, 448.0, 464.0, 465.0, 480.0, 57344.0, 61440.0, 65536.0, 1e30}
    for form in (E4M3, E5M2):
        numbers = [float(decode(bits, form)[1]) for bits in range(form.infinity)]
        values |= {*numbers, *((a + b) / 2 for a, b in itertools.pairwise(numbers))}
    bits = np.array(sorted(values), np.float32).view(np.uint32)
    positive = np.unique(np.concatenate([bits - (bits > 0), bits, bits + 1])).tolist()
    return [value | side for value in positive for side in (0, 0x80000000)]


def corners(kind):
    """Values of a type where things go wrong, and a few others."""
    if kind == "pred":
        return [0, 1]
    if kind == "amount":
        return [0, 1, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 2**31, 2**32 - 1]
    if kind == "field":
        return [0, 1, 5, 8, 31, 32, 33, 63, 64, 255, 256, 0x110, 0x10001, 0xFFFFFF05]
    if kind == "selector":
        return [0x3210, 0x7654, 0x0000, 0xFEDC, 0x8080, 0x4B1F, 0xFFFF3210]
    if kind == "f32x2":
        values = float_corners(F32)
        return [low | high << 32 for low, high in zip(values, values[5:] + values[:5], strict=True)]
    if kind == "f16x2":
        return [low | (low * 40503 + 77 & 0xFFFF) << 16 for low in range(0, 65536, 7)]
    if kind in ("e4m3x2", "e5m2x2"):
        return [low | (low * 167 + 13 & 255) << 8 for low in range(256)]
    if kind in FLOAT_FORMATS:
        return float_corners(FLOAT_FORMATS[kind])
    kind = BIT_KINDS.get(kind, kind)
    bits = int(kind[1:])
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if kind[0] == "s" else (0, 2**bits - 1)
    middle = [2 ** (bits // 2), 2 ** (bits // 2) - 1, 0x5A5A5A5AA5A5A5A5 & high, 0x1234567 & high]
    values = [0, 1, 2, 3, 7, high, high - 1, high // 2, high // 2 + 1, low, low + 1, *middle]
    if kind[0] == "s":
        values += [-1, -2, -7, -middle[0], -middle[2]]
    return sorted(set(values))


def inputs(case):
    if case.opcode.startswith("cvt") and case.sources[0] == "f32":
        values = corners("f32") + float32_sources_of_narrow_formats()
        if case.result in ("e4m3x2", "e5m2x2"):
            values += float32_sources_of_bytes()
        rows = [(value, values[-1 - at])[: len(case.sources)] for at, value in enumerate(values)]
    else:
        values = [corners(kind) for kind in case.sources]
        if len(values) == 3 and len(values[0]) > 20:
            values[2] = values[2][:: 6 if case.sources[0] == "f32x2" else 2]
        if len(values) == 4:
            values[0], values[1] = values[0][::3], values[1][1::3]
        rows = list(itertools.product(*values))
    return rows + [rows[0]] * (-len(rows) % THREADS)


def agrees(case, got, expected):
    if case.result in FLOAT_FORMATS and case.nan == "any":
        form = FLOAT_FORMATS[case.result]
        magnitude = 2 ** (form.bits - 1) - 1
        if expected & magnitude > form.infinity:
            return got & magnitude > form.infinity
    return got == expected


@pytest.mark.parametrize("case", [*CASES, *NARROW, *BLACKWELL], ids=lambda case: case.file)
def test_instruction(case, run_file):
    rows = inputs(case)
    sources = [
        np.array([row[at] for row in rows], dtype_of(kind)) for at, kind in enumerate(case.sources)
    ]
    result = np.zeros(len(rows), dtype_of(case.result))
    run_file(case.file, result, *sources, grid=(len(rows) // THREADS, 1, 1), block=(THREADS, 1, 1))
    size = 8 * result.dtype.itemsize
    for row, got in zip(rows, result.tolist(), strict=True):
        expected = int(case.expected(*row))
        got, expected = got % 2**size, expected % 2**size
        assert agrees(case, got, expected), f"{case.opcode} {row}: {got:#x}, not {expected:#x}"
