"""Operands of matrix products as bit patterns: ordinary ones, and where formats end."""

import numpy as np

KINDS = ("moderate", "wide", "special", "huge", "zeros", "deep")


def operand(form, shape, kind, seed):
    """Patterns of `form`, without the bits that its container has besides.

    moderate: within a few powers of two; wide: all powers that cannot overflow, zeros of both
    signs, subnormals; special: with infinities and NaN; huge: so that sums overflow; zeros: nearly
    nothing but zeros of both signs; deep: products about the smallest float32, with zeros,
    subnormals and some factors of ordinary size.
    """
    rng = np.random.default_rng(seed)
    sign = rng.integers(0, 2, shape) << (form.bits - 1)
    fraction = rng.integers(0, 2**form.fraction_bits, shape)
    top = 2**form.exponent_bits - 1
    # Twenty powers are more than the alignment keeps, and do not overflow with float32's range.
    spread = {"moderate": 3, "huge": 2}.get(kind, 20)
    if kind == "deep":
        spread = 12
    middle = {"moderate": form.bias, "huge": top - 2, "deep": max(form.bias - 66, 5)}.get(
        kind, form.bias - 4
    )
    field = np.clip(rng.integers(middle - spread, middle + spread + 1, shape), 0, top - 1)
    bits = sign | field << form.fraction_bits | fraction
    if kind in ("wide", "special"):
        bits[rng.random(shape) < 0.1] &= 1 << (form.bits - 1)
        small = rng.random(shape) < 0.1
        bits[small] &= 1 << (form.bits - 1) | (2**form.fraction_bits - 1)
    if kind == "deep":
        bits[rng.random(shape) < 0.3] &= 1 << (form.bits - 1)
        bits[rng.random(shape) < 0.15] &= 1 << (form.bits - 1) | (2**form.fraction_bits - 1)
        bits[rng.random(shape) < 0.05] |= (form.bias >> 1) << form.fraction_bits
    if kind == "zeros":
        bits[rng.random(shape) < 0.97] &= 1 << (form.bits - 1)
    if kind == "special":
        infinity = form.nan if form.finite else form.infinity
        for value in (infinity, infinity | 1 << (form.bits - 1), form.nan):
            bits[rng.random(shape) < 0.004] = value
    return bits


def accumulator(d, shape, kind, seed):
    """Patterns of the accumulator's format."""
    rng = np.random.default_rng(seed)
    if d.bits == 16:
        return operand(d, shape, kind, seed).astype(np.uint16)
    if kind == "huge":
        values = rng.choice([-1.0, 1.0], shape) * 2.0 ** rng.uniform(124, 127.99, shape)
    else:
        values = rng.normal(size=shape) * 10.0 ** rng.integers(-8, 4, shape)
    if kind == "special":
        values[rng.random(shape) < 0.01] = np.inf
        values[rng.random(shape) < 0.01] = -np.inf
        values[rng.random(shape) < 0.005] = np.nan
    if kind == "deep":
        values *= rng.choice([0.0, -0.0, 1e-38, 1e-40, 1e-44], shape)
    if kind == "zeros":
        values *= rng.choice([0.0, -0.0, 1e-44], shape)
    if kind in ("wide", "special"):
        values[rng.random(shape) < 0.05] = 1e-41
        values[rng.random(shape) < 0.05] = -0.0
    return values.astype(np.float32).view(np.uint32)


def contained(bits, name, seed=9):
    """Patterns in memory: TF32 has 13 bits below it that nothing reads."""
    if name != "tf32":
        return bits.astype(np.uint16 if name in ("f16", "bf16") else np.uint8)
    rest = np.random.default_rng(seed).integers(0, 1 << 13, bits.shape)
    return (bits << 13 | rest).astype(np.uint32)
