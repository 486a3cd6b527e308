"""Matrix products as tensor cores do them, and operands as they lie in shared memory.

The arithmetic is the published model (MMA-Sim, arXiv 2511.10909): the exact products and the
accumulator are aligned to the largest exponent among those that are not zero, where a product's
exponent is the sum of its factors', or to -133 if that is more; each is truncated to 25 fraction
bits, their sum is exact and truncated to float32; of what is rounded to zero the sign is lost. The
model published has exponents for zeros, too, and no -133: an H100's bits do not agree with that.
"""

from fractions import Fraction

import numpy as np
from scalar_model import BF16, E4M3, E5M2, F16, F32, TF32, Format, encode

FRACTION, SMALLEST = 25, -133
E2M3, E3M2, E2M1 = (Format(e, f, finite=True) for e, f in ((2, 3), (3, 2), (2, 1)))
FORMATS = {
    "f16": F16,
    "bf16": BF16,
    "tf32": TF32,
    "e4m3": E4M3,
    "e5m2": E5M2,
    "e2m3": E2M3,
    "e3m2": E3M2,
    "e2m1": E2M1,
}


def parts(bits, form):
    """(signed significand, exponent) with value = significand 2^(exponent - fraction bits)."""
    sign = -1 if bits >> (form.bits - 1) else 1
    field = bits >> form.fraction_bits & (2**form.exponent_bits - 1)
    significand = bits & (2**form.fraction_bits - 1)
    if field:
        significand |= 1 << form.fraction_bits
    return sign * significand, max(field, 1) - form.bias


def is_special(bits, form):
    if form.finite:
        return bits & form.nan == form.nan and form.bits == 8  # 4 and 6 bits have no NaN
    return bits & form.infinity == form.infinity


def special_sum(pairs, c, forms, d):
    """With an infinity or a NaN among the terms: IEEE; NaN is canonical."""
    total = to_float(c, d)
    for a, b in pairs:
        total = total + to_float(a, forms[0]) * to_float(b, forms[1])
    if total != total:
        return d.nan
    return d.infinity | (0 if total > 0 else 1 << (d.bits - 1))


def to_float(bits, form):
    if is_special(bits, form):
        sign = -1.0 if bits >> (form.bits - 1) else 1.0
        return float("nan") if bits & (2**form.fraction_bits - 1) else sign * float("inf")
    significand, exponent = parts(bits, form)
    return significand * 2.0 ** (exponent - form.fraction_bits)


def fused(pairs, c, forms, d=F32, fraction=FRACTION, kept=23):
    """The bits of c + sum of a b over the pairs, all given as bits; c and the sum are of format d.

    `fraction` bits survive the alignment, `kept` of the sum are not truncated in float32.
    """
    if is_special(c, d) or any(
        is_special(x, form) for pair in pairs for x, form in zip(pair, forms, strict=True)
    ):
        return special_sum(pairs, c, forms, d)
    terms = []
    for a, b in pairs:
        (x, ex), (y, ey) = parts(a, forms[0]), parts(b, forms[1])
        terms.append((x * y, ex + ey, forms[0].fraction_bits + forms[1].fraction_bits))
    terms.append((*parts(c, d), d.fraction_bits))
    top = max([SMALLEST] + [exponent for significand, exponent, _ in terms if significand])
    total = 0
    for significand, exponent, bits in terms:
        shift = fraction - bits - (top - exponent)
        magnitude = abs(significand)
        if magnitude:  # of a zero the exponent means nothing
            magnitude = magnitude << shift if shift >= 0 else magnitude >> -shift
        total += -magnitude if significand < 0 else magnitude
    if d is not F32:
        value = Fraction(abs(total)) * Fraction(2) ** (top - fraction)
        bits = encode((int(total < 0), value), d)
        return bits if bits & d.nan else 0
    return truncate(total, top - fraction, kept)


def truncate(total, exponent, kept=23):
    """total 2^exponent to float32 with `kept` fraction bits, towards zero; too large: infinity."""
    magnitude = abs(total)
    if magnitude == 0:
        return 0
    drop = max(magnitude.bit_length() - 1 - kept, -126 - kept - exponent)
    magnitude = magnitude >> drop if drop >= 0 else magnitude << -drop
    if magnitude == 0:
        return 0
    magnitude <<= 23 - kept
    field = exponent + drop + kept + 126
    bits = min(magnitude + (field << 23), F32.infinity)
    return bits | (0x80000000 if total < 0 else 0)


def product(a, b, c, forms, d=F32, **how):
    """a (M, K) and b (K, N) of bit patterns in `forms`, c (M, N) of patterns in the format d."""
    forms = forms if isinstance(forms, tuple) else (forms, forms)
    result = np.zeros_like(c)
    columns = b.T.tolist()
    for m, row in enumerate(a.tolist()):
        for n, column in enumerate(columns):
            pairs = list(zip(row, column, strict=True))
            result[m, n] = fused(pairs, int(c[m, n]), forms, d, **how)
    return result


def image(matrix, size, swizzle, k_major):
    """`matrix` (rows, 16) laid out in shared memory, and its descriptor without the address.

    `swizzle` is the width in bytes, or 0. Written for a start that is a multiple of 1024.
    """
    rows = matrix.shape[0]
    data = np.zeros(size // 2, np.uint16)
    width = swizzle // 2  # elements
    if swizzle == 0:
        leading, stride = 128, 256  # from one 8 x 8 core matrix to the next: along K, along rows
        if not k_major:
            leading, stride = 128 * (rows // 8), 128
    elif k_major:
        leading, stride = 16, 8 * swizzle
    else:
        # 8 rows of K by `width` elements make an atom; atoms follow along K, then along M or N.
        stride, leading = 8 * swizzle, 16 * swizzle
    for row in range(rows):
        for k in range(16):
            if swizzle == 0 and k_major:
                at = row // 8 * stride + k // 8 * leading + row % 8 * 16 + k % 8 * 2
            elif swizzle == 0:
                at = row // 8 * stride + k // 8 * leading + k % 8 * 16 + row % 8 * 2
            elif k_major:
                at = row // 8 * stride + row % 8 * swizzle + k * 2
            else:
                at = row // width * leading + k // 8 * stride + k % 8 * swizzle + row % width * 2
            if swizzle:
                at ^= (at >> 7) % (swizzle // 16) * 16
            data[at // 2] = matrix[row, k]
    code = {0: 0, 128: 1, 64: 2, 32: 3}[swizzle]
    return data, leading >> 4 << 16 | stride >> 4 << 32 | code << 62
