"""Scalar instructions that begin with Blackwell, as instruction_cases has them."""

from functools import partial

import scalar_model as model
from instruction_cases import Case
from scalar_model import BF16, F16, F32

ROUNDINGS = {"rn": "nearest", "rz": "zero", "rm": "minus", "rp": "plus"}
LOW = 2**32 - 1


def halves(operation, *pairs):
    """An operation on both float32 of 64-bit patterns."""
    low = operation(*(pair & LOW for pair in pairs))
    return low | operation(*(pair >> 32 for pair in pairs)) << 32


def fused(rounding, a, b, c):
    value = model.fma_value(*(model.decode(x, F32) for x in (a, b, c)))
    if value[1] == 0 and rounding == "minus":
        value = (signed_zero(a, b, c), value[1])
    return model.encode(value, F32, rounding)


def signed_zero(a, b, c):
    """The sign of a sum that is zero, rounded down: of the terms if they agree, else minus."""
    x, y, z = (model.decode(bits, F32) for bits in (a, b, c))
    sign = x[0] ^ y[0]
    return sign if sign == z[0] and x[1] * y[1] == 0 else 1


def added(rounding, a, b):
    return fused(rounding, a, 0x3F800000, b)


def subtracted(rounding, a, b):
    return model.F32.nan if b & 0x7FFFFFFF > 0x7F800000 else added(rounding, a, b ^ 0x80000000)


def multiplied(rounding, a, b):
    """The third term is a zero of the product's sign, which changes nothing."""
    return fused(rounding, a, b, (a ^ b) & 0x80000000)


def widened(form, a, b, c):
    """a and b of `form`, one rounding."""
    value = model.fma_value(model.decode(a, form), model.decode(b, form), model.decode(c, F32))
    return model.encode(value, F32)


def largest(a, b, c):
    return model.maximum(model.maximum(a, b), c)


def smallest(a, b, c):
    return model.minimum(model.minimum(a, b), c)


def pair_case(name, how, operation, sources):
    opcode = f"{name}.{how}.f32x2" if how else f"{name}.f32x2"
    expected = partial(halves, partial(operation, ROUNDINGS[how or "rn"]))
    return Case(opcode, "f32x2", ("f32x2",) * sources, expected, target="sm_100a")


BLACKWELL = [
    *[pair_case("add", how, added, 2) for how in ("", "rn", "rz", "rm", "rp")],
    *[pair_case("sub", how, subtracted, 2) for how in ("rn", "rm")],
    *[pair_case("mul", how, multiplied, 2) for how in ("", "rn", "rz", "rp")],
    *[pair_case("fma", how, fused, 3) for how in ("rn", "rm")],
    *[
        Case(
            f"fma.rn.f32.{name}",
            "f32",
            (name, name, "f32"),
            partial(widened, form),
            target="sm_100a",
        )
        for name, form in (("bf16", BF16), ("f16", F16))
    ],
    *[
        Case(f"{name}.f32", "f32", ("f32",) * 3, expected, suffix="_three", target="sm_100a")
        for name, expected in (("max", largest), ("min", smallest))
    ],
]
