"""Conversions to and from the float formats of 8, 16 and 19 bits, as instruction_cases has them."""

from functools import lru_cache, partial
from itertools import product

import scalar_model as model
from instruction_cases import Case
from scalar_model import BF16, E4M3, E5M2, F16, F32, TF32

BYTES = {"e4m3": E4M3, "e5m2": E5M2}
HALVES = {"f16": F16, "bf16": BF16}
ROUNDINGS = {"rn": "nearest", "rz": "zero", "rna": "away"}


@lru_cache(maxsize=1 << 18)
def one(source, target, how, bits):
    """`how` is the modifiers, "rn.relu.satfinite"."""
    words = how.split(".")
    return model.narrow(
        bits, source, target, ROUNDINGS[words[0]], "relu" in words, "satfinite" in words
    )


def two(source, target, how, high, low):
    """Two values side by side."""
    convert = partial(one, source, target, how)
    return convert(high) << target.bits | convert(low)


def unpacked(source, target, how, both):
    return two(source, target, how, both >> source.bits, both & (1 << source.bits) - 1)


def hows(*roundings, saturates=("", ".satfinite")):
    relu = ("", ".relu")
    return [f"{r}{a}{b}" for r, a, b in product(roundings, relu, saturates)]


def to_tf32(how, bits):
    if how.startswith("rna") and bits & F32.nan >= F32.infinity:
        return not_finite_to_tf32(bits >> 13, "satfinite" in how) << 13
    return one(F32, TF32, how, bits) << 13


def not_finite_to_tf32(bits, saturates):
    """What an H100 leaves of infinities and NaN: their upper bits, saturated one less."""
    return bits - 1 if saturates else bits


NARROW = [
    *[
        Case(f"cvt.{how}.{name}x2.f32", "b32", ("f32", "f32"), partial(two, F32, form, how))
        for name, form in HALVES.items()
        for how in hows("rn", "rz")
        if how != "rn"
    ],
    *[
        Case(f"cvt.{how}.{name}.f32", name, ("f32",), partial(one, F32, form, how))
        for name, form in HALVES.items()
        for how in ("rz", "rn.relu.satfinite")
    ],
    *[
        Case(f"cvt.{how}.tf32.f32", "b32", ("f32",), partial(to_tf32, how))
        for how in ("rna", "rna.satfinite", "rn", "rz", "rn.relu", "rz.relu")
    ],
    *[
        Case(f"cvt.{how}.{name}x2.f32", f"{name}x2", ("f32", "f32"), partial(two, F32, form, how))
        for name, form in BYTES.items()
        for how in ("rn.satfinite", "rn.satfinite.relu")
    ],
    *[
        Case(
            f"cvt.{how}.{name}x2.f16x2", f"{name}x2", ("f16x2",), partial(unpacked, F16, form, how)
        )
        for name, form in BYTES.items()
        for how in ("rn.satfinite", "rn.satfinite.relu")
    ],
    *[
        Case(f"cvt.{how}.f16x2.{name}x2", "b32", (f"{name}x2",), partial(unpacked, form, F16, how))
        for name, form in BYTES.items()
        for how in ("rn", "rn.relu")
    ],
]
