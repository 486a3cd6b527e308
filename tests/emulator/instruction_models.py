"""What instructions compute of one element, in Python's integers and exact fractions."""

import struct

import scalar_model as model
from scalar_model import F32


def unsigned(value, bits):
    return value & (2**bits - 1)


def popc(value):
    return value.bit_count()


def clz(bits, value):
    return bits - value.bit_length()


def brev(bits, value):
    return int(f"{value:0{bits}b}"[::-1], 2)


def place(bits, *operands):
    """Position and length of a field: the manual's low 8 bits, but in 64 an H100 takes them all."""
    return [operand & 255 if bits == 32 else min(operand, 255) for operand in operands]


def bfe(kind, a, position, length):
    """The field of `length` bits at `position`; signed ones extend its top bit that exists."""
    bits = int(kind[1:])
    position, length = place(bits, position, length)
    raw = unsigned(a, bits)
    if length == 0:
        return 0
    top = raw >> min(position + length - 1, bits - 1) & 1 if kind[0] == "s" else 0
    field = raw >> position & (2**length - 1)
    present = max(min(length, bits - position), 0)
    return model.wrap(field | (-top << present), kind)


def bfi(bits, a, b, position, length):
    position, length = place(bits, position, length)
    mask = ((2**length - 1) << position) & (2**bits - 1)
    return (b & ~mask) | (a << position & mask)


def prmt(a, b, selector):
    octets = struct.pack("<II", a, b)
    chosen = []
    for nibble in range(4):
        select = selector >> 4 * nibble & 15
        octet = octets[select & 7]
        chosen.append((255 if octet & 128 else 0) if select & 8 else octet)
    return int.from_bytes(bytes(chosen), "little")


def lop3(table, a, b, c):
    value = 0
    for bit in range(32):
        row = (a >> bit & 1) << 2 | (b >> bit & 1) << 1 | c >> bit & 1
        value |= (table >> row & 1) << bit
    return value


def funnel(left, clamp, low, high, amount):
    amount = min(amount, 32) if clamp else amount & 31
    both = high << 32 | low
    return (both << amount >> 32 if left else both >> amount) & 0xFFFFFFFF


def f32_from_integer(value):
    return model.encode((int(value < 0), model.Fraction(abs(value))), F32)


def convert(source, target, bits):
    return model.encode(model.decode(bits, source), target)


def pair(target, high, low):
    return convert(F32, target, high) << 16 | convert(F32, target, low)


def ftz(operation):
    """Rounds as if exponents had no end, then flushes: so an H100 does."""
    return lambda *bits: model.flush(
        operation(*map(model.flush, bits), flushes=True)
        if operation in (model.mul, model.fma)
        else operation(*map(model.flush, bits))
    )
