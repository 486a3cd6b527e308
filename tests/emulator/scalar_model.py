"""What scalar instructions give, from integers and fractions alone; the engine has no part in it.

Values travel as bit patterns. A decoded float is a pair (sign, magnitude), the magnitude a
Fraction, or math.inf, or math.nan.
"""

import math
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Format:
    exponent_bits: int
    fraction_bits: int
    finite: bool = False  # no infinities: all ones is NaN, and what is before it a number

    @property
    def bias(self):
        return 2 ** (self.exponent_bits - 1) - 1

    @property
    def bits(self):
        return 1 + self.exponent_bits + self.fraction_bits

    @property
    def infinity(self):
        """The pattern after the largest number."""
        if self.finite:
            return self.nan
        return (2**self.exponent_bits - 1) << self.fraction_bits

    @property
    def nan(self):
        """The canonical NaN of conversions and arithmetic: all ones but the sign."""
        return 2 ** (self.bits - 1) - 1


F32, F16, BF16, TF32 = Format(8, 23), Format(5, 10), Format(8, 7), Format(8, 10)
E4M3, E5M2 = Format(4, 3, finite=True), Format(5, 2)


def decode(bits, form):
    sign = bits >> (form.bits - 1) & 1
    field = bits >> form.fraction_bits & (2**form.exponent_bits - 1)
    fraction = bits & (2**form.fraction_bits - 1)
    if form.finite and bits & form.nan == form.nan:
        return sign, math.nan
    if not form.finite and field == 2**form.exponent_bits - 1:
        return sign, math.nan if fraction else math.inf
    significand = fraction if field == 0 else fraction | 1 << form.fraction_bits
    return sign, Fraction(significand) * Fraction(2) ** (
        max(field, 1) - form.bias - form.fraction_bits
    )


def _round(scaled, sign, rounding):
    """An integer near the non-negative fraction `scaled`."""
    down = math.floor(scaled)
    rest = scaled - down
    if rounding == "nearest":
        up = rest > Fraction(1, 2) or (rest == Fraction(1, 2) and down % 2 == 1)
    elif rounding == "away":
        up = rest >= Fraction(1, 2)
    else:
        up = rest > 0 and rounding == ("minus" if sign else "plus")
    return down + up


def encode(value, form, rounding="nearest"):
    sign, magnitude = value
    if magnitude is math.nan or magnitude != magnitude:
        return form.nan
    if magnitude == math.inf:
        return sign << (form.bits - 1) | form.infinity
    smallest = 1 - form.bias - form.fraction_bits
    exponent = smallest
    if magnitude > 0:
        exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
        exponent -= Fraction(2) ** exponent > magnitude
        exponent = max(exponent - form.fraction_bits, smallest)
    significand = _round(magnitude / Fraction(2) ** exponent, sign, rounding)
    # The implicit bit adds one to the exponent's field, and so does a carry out of the fraction.
    bits = significand + ((exponent - smallest) << form.fraction_bits)
    if bits >= form.infinity:
        away = rounding in ("nearest", "away", "minus" if sign else "plus")
        bits = form.infinity if away else form.infinity - 1
    return sign << (form.bits - 1) | bits


def narrow(bits, source, target, rounding="nearest", relu=False, saturates=False):
    """cvt of one value to a narrower format."""
    sign, magnitude = decode(bits, source)
    if magnitude != magnitude:
        return target.nan
    if relu and sign:
        return 0
    result = encode((sign, magnitude), target, rounding)
    top = 1 << (target.bits - 1)
    if saturates and result & (top - 1) >= target.infinity:
        return result & top | target.infinity - 1
    return result


def flush(bits, form=F32):
    """A subnormal becomes a zero of its sign."""
    tiny = bits & (form.infinity) == 0
    return bits & (1 << (form.bits - 1)) if tiny else bits


def canonical(bits, form=F32):
    """The one NaN that arithmetic gives, in place of any."""
    return form.nan if _is_nan(decode(bits, form)) else bits


def _is_nan(value):
    return value[1] != value[1]


def fma_value(x, y, z):
    """x y + z of decoded floats, exactly."""
    sign = x[0] ^ y[0]
    if any(_is_nan(value) for value in (x, y, z)):
        return 0, math.nan
    if math.inf in (x[1], y[1]):
        if 0 in (x[1], y[1]) or (z[1] == math.inf and z[0] != sign):
            return 0, math.nan
        return sign, math.inf
    if z[1] == math.inf:
        return z
    product = x[1] * y[1]
    total = (-product if sign else product) + (-z[1] if z[0] else z[1])
    if total == 0:
        # Zeros of one sign keep it; anything else that cancels is +0.
        return (sign if sign == z[0] and product == 0 else 0), Fraction(0)
    return int(total < 0), abs(total)


def fma(a, b, c, form=F32, flushes=False):
    """With `flushes` a result that is subnormal before it is rounded as one is a zero."""
    sign, magnitude = fma_value(decode(a, form), decode(b, form), decode(c, form))
    if flushes and not _is_nan((sign, magnitude)):
        smallest = Fraction(2) ** (1 - form.bias)
        # From the middle between it and the number before it, were there one of as many bits.
        if magnitude < smallest - smallest / 2 ** (form.fraction_bits + 2):
            magnitude = Fraction(0)
    return encode((sign, magnitude), form)


def add(a, b, form=F32):
    one = form.bias << form.fraction_bits
    return fma(a, one, b, form)


def sub(a, b, form=F32):
    sign = 1 << (form.bits - 1)
    if _is_nan(decode(b, form)):
        return form.nan
    return add(a, b ^ sign, form)


def mul(a, b, form=F32, flushes=False):
    # -0 changes no zero's sign.
    return fma(a, b, 1 << (form.bits - 1), form, flushes)


def div(a, b, form=F32):
    x, y = decode(a, form), decode(b, form)
    sign = x[0] ^ y[0]
    if _is_nan(x) or _is_nan(y) or (x[1] == y[1] and x[1] in (0, math.inf)):
        return form.nan
    if x[1] == math.inf or y[1] == 0:
        return encode((sign, math.inf), form)
    if y[1] == math.inf:
        return encode((sign, Fraction(0)), form)
    return encode((sign, x[1] / y[1]), form)


def _ordered(value):
    """Sorts floats, -0 before +0."""
    sign, magnitude = value
    return (-magnitude, 0) if sign else (magnitude, 1)


def _pick(a, b, choose, form):
    x, y = decode(a, form), decode(b, form)
    if _is_nan(x):
        return form.nan if _is_nan(y) else b
    if _is_nan(y):
        return a
    return choose([a, b], key=lambda bits: _ordered(decode(bits, form)))


def maximum(a, b, form=F32):
    return _pick(a, b, max, form)


def minimum(a, b, form=F32):
    return _pick(a, b, min, form)


def compare(how, a, b, form=F32):
    """setp of floats: eq, ne, lt, le, gt, ge; with a u true if unordered; num, nan."""
    x, y = decode(a, form), decode(b, form)
    unordered = _is_nan(x) or _is_nan(y)
    if how in ("num", "nan"):
        return unordered == (how == "nan")
    if unordered:
        return how.endswith("u")
    left, right = (-x[1] if x[0] else x[1]), (-y[1] if y[0] else y[1])
    return compare_integers(how[:2], left, right)


def compare_integers(how, a, b):
    return {"eq": a == b, "ne": a != b, "lt": a < b, "le": a <= b, "gt": a > b, "ge": a >= b}[how]


def wrap(value, kind):
    """The value of type `kind` ("s16", "u32", ...) with the same low bits."""
    bits = int(kind[1:])
    value &= 2**bits - 1
    return value - 2**bits if kind[0] == "s" and value >> (bits - 1) else value


def truncated_quotient(a, b, kind):
    """Division by zero gives all ones, as hardware does; the manual leaves it open."""
    if b == 0:
        return wrap(-1, kind)
    return wrap(abs(a) // abs(b) * (-1 if (a < 0) != (b < 0) else 1), kind)


def remainder(a, b, kind):
    """By zero: all ones, as hardware does; the manual leaves it open."""
    if b == 0:
        return wrap(-1, kind)
    return wrap(abs(a) % abs(b) * (-1 if a < 0 else 1), kind)


def clamped_shift(a, amount, kind, left):
    """Shift amounts are unsigned and clamped to the width."""
    amount = min(amount, int(kind[1:]))
    return wrap(a << amount if left else a >> amount, kind)


def float_to_integer(bits, kind, rounding):
    """cvt.<rounding>i: saturates; NaN gives 0, or in 64 bits the highest bit alone."""
    sign, magnitude = decode(bits, F32)
    width = int(kind[1:])
    low, high = (-(2 ** (width - 1)), 2 ** (width - 1) - 1) if kind[0] == "s" else (0, 2**width - 1)
    if magnitude != magnitude:
        return 2**63 if width == 64 else 0
    if magnitude == math.inf:
        return low if sign else high
    value = _round(magnitude, sign, rounding) * (-1 if sign else 1)
    return min(max(value, low), high)
