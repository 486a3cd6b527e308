"""Matrix products as tensor cores do them, and operands as they lie in shared memory.

The arithmetic is the published model (MMA-Sim, arXiv 2511.10909): the exact products and the
accumulator are aligned to the largest exponent among them, where a product's exponent is the sum
of its factors' and a zero's is -126, each is truncated to 25 fraction bits, their sum is exact and
truncated to float32.
"""

import numpy as np
from scalar_model import F32

FRACTION = 25
NAN = 0x7FFFFFFF


def parts(bits, form):
    """(signed significand, exponent) with value = significand 2^(exponent - fraction bits)."""
    sign = -1 if bits >> (form.bits - 1) else 1
    field = bits >> form.fraction_bits & (2**form.exponent_bits - 1)
    significand = bits & (2**form.fraction_bits - 1)
    if field:
        significand |= 1 << form.fraction_bits
    return sign * significand, (max(field, 1) - form.bias if significand else -126)


def is_special(bits, form):
    return bits & form.infinity == form.infinity


def special_sum(pairs, c, form):
    """With an infinity or a NaN among the terms: IEEE; NaN is canonical."""
    total = float(np.array(c, np.uint32).view(np.float32))
    for a, b in pairs:
        total = total + to_float(a, form) * to_float(b, form)
    if total != total:
        return NAN
    return 0x7F800000 if total > 0 else 0xFF800000


def to_float(bits, form):
    if is_special(bits, form):
        sign = -1.0 if bits >> (form.bits - 1) else 1.0
        return float("nan") if bits & (2**form.fraction_bits - 1) else sign * float("inf")
    significand, exponent = parts(bits, form)
    return significand * 2.0 ** (exponent - form.fraction_bits)


def fused(pairs, c, form):
    """The bits of c + sum of a b over the pairs, all given as bits."""
    if is_special(c, F32) or any(is_special(x, form) for pair in pairs for x in pair):
        return special_sum(pairs, c, form)
    terms = []
    for a, b in pairs:
        (x, ex), (y, ey) = parts(a, form), parts(b, form)
        terms.append((x * y, ex + ey, 2 * form.fraction_bits))
    terms.append((*parts(c, F32), F32.fraction_bits))
    top = max(exponent for _, exponent, _ in terms)
    total = 0
    for significand, exponent, fraction in terms:
        shift = FRACTION - fraction - (top - exponent)
        magnitude = abs(significand)
        magnitude = magnitude << shift if shift >= 0 else magnitude >> -shift
        total += -magnitude if significand < 0 else magnitude
    return truncate(total, top - FRACTION)


def truncate(total, exponent):
    """total 2^exponent to float32, towards zero."""
    magnitude = abs(total)
    if magnitude == 0:
        return 0
    drop = max(magnitude.bit_length() - 24, -149 - exponent)
    magnitude = magnitude >> drop if drop >= 0 else magnitude << -drop
    if magnitude == 0:
        return 0
    field = exponent + drop + 149
    bits = magnitude + (field << 23)
    return bits | (0x80000000 if total < 0 else 0)


def product(a, b, c, form):
    """a (M, 16) and b (16, N) of 16-bit patterns, c (M, N) of float32 patterns."""
    result = np.zeros_like(c)
    for m in range(a.shape[0]):
        for n in range(b.shape[1]):
            pairs = list(zip(a[m].tolist(), b[:, n].tolist(), strict=True))
            result[m, n] = fused(pairs, int(c[m, n]), form)
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
