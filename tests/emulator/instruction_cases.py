"""One line an instruction: what `ptx/<file>.ptx` computes of each element, told independently."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import scalar_model as model
from instruction_models import (
    bfe,
    bfi,
    brev,
    clz,
    convert,
    f32_from_integer,
    ftz,
    funnel,
    lop3,
    pair,
    popc,
    prmt,
)
from scalar_model import BF16, F16, F32


@dataclass(frozen=True)
class Case:
    opcode: str
    result: str  # type in memory; floats are given and taken as bit patterns
    sources: tuple[str, ...]
    expected: Callable[..., int]
    body: str = ""  # where the kernel is more than the one instruction
    wide: bool = False  # the destination is a 32-bit register, although the type is narrower
    suffix: str = ""
    target: str = "sm_90a"
    nan: str = "canonical"  # or "any": the payload is left open

    @property
    def file(self):
        return self.opcode.replace("::", "_").replace(".", "_") + self.suffix


def same(opcode, sources, expected, **more):
    """An instruction whose operands are all of the type in its name."""
    kind = opcode.split(".")[-1]
    return Case(opcode, kind, (kind,) * sources, expected, **more)


def typed(kinds, make):
    return [make(kind) for kind in kinds.split()]


INTEGERS = [
    *typed("s16 u16 s32 u32 s64 u64", lambda k: same(f"add.{k}", 2, lambda a, b: a + b)),
    *typed("s16 u16 s32 u32 s64 u64", lambda k: same(f"sub.{k}", 2, lambda a, b: a - b)),
    *typed("s16 u16 s32 u32 s64 u64", lambda k: same(f"mul.lo.{k}", 2, lambda a, b: a * b)),
    *typed(
        "s16 u16 s32 u32 s64 u64",
        lambda k: same(f"mul.hi.{k}", 2, lambda a, b: a * b >> int(k[1:])),
    ),
    Case("mul.wide.s16", "s32", ("s16", "s16"), lambda a, b: a * b),
    Case("mul.wide.u16", "u32", ("u16", "u16"), lambda a, b: a * b),
    Case("mul.wide.s32", "s64", ("s32", "s32"), lambda a, b: a * b),
    Case("mul.wide.u32", "u64", ("u32", "u32"), lambda a, b: a * b),
    *typed("s16 u16 s32 u32 s64 u64", lambda k: same(f"mad.lo.{k}", 3, lambda a, b, c: a * b + c)),
    Case("mad.wide.s32", "s64", ("s32", "s32", "s64"), lambda a, b, c: a * b + c),
    Case("mad.wide.u32", "u64", ("u32", "u32", "u64"), lambda a, b, c: a * b + c),
    *typed(
        "s16 u16 s32 u32 s64 u64",
        lambda k: same(f"div.{k}", 2, partial(model.truncated_quotient, kind=k)),
    ),
    *typed(
        "s16 u16 s32 u32 s64 u64", lambda k: same(f"rem.{k}", 2, partial(model.remainder, kind=k))
    ),
    *typed("s16 u16 s32 u32 s64 u64", lambda k: same(f"min.{k}", 2, min)),
    *typed("s16 u16 s32 u32 s64 u64", lambda k: same(f"max.{k}", 2, max)),
    same("min.relu.s32", 2, lambda a, b: max(min(a, b), 0)),
    same("max.relu.s32", 2, lambda a, b: max(a, b, 0)),
    *typed("s16 s32 s64", lambda k: same(f"neg.{k}", 1, lambda a: -a)),
    *typed("s16 s32 s64", lambda k: same(f"abs.{k}", 1, abs)),
    *typed("b16 b32 b64", lambda k: same(f"and.{k}", 2, lambda a, b: a & b)),
    *typed("b16 b32 b64", lambda k: same(f"or.{k}", 2, lambda a, b: a | b)),
    *typed("b16 b32 b64", lambda k: same(f"xor.{k}", 2, lambda a, b: a ^ b)),
    *typed("b16 b32 b64", lambda k: same(f"not.{k}", 1, lambda a: ~a)),
    *typed(
        "b16 b32 b64",
        lambda k: Case(
            f"shl.{k}", k, (k, "amount"), partial(model.clamped_shift, kind=k, left=True)
        ),
    ),
    *typed(
        "s16 u16 b16 s32 u32 b32 s64 u64 b64",
        lambda k: Case(
            f"shr.{k}", k, (k, "amount"), partial(model.clamped_shift, kind=k, left=False)
        ),
    ),
    *typed("b32 b64", lambda k: Case(f"popc.{k}", "u32", (k,), popc)),
    *typed("b32 b64", lambda k: Case(f"clz.{k}", "u32", (k,), partial(clz, int(k[1:])))),
    *typed("b32 b64", lambda k: Case(f"brev.{k}", k, (k,), partial(brev, int(k[1:])))),
    *typed(
        "s32 u32 s64 u64",
        lambda k: Case(f"bfe.{k}", k, (k, "field", "field"), partial(bfe, k)),
    ),
    *typed(
        "b32 b64",
        lambda k: Case(f"bfi.{k}", k, (k, k, "field", "field"), partial(bfi, int(k[1:]))),
    ),
    Case("prmt.b32", "b32", ("b32", "b32", "selector"), prmt),
    Case("lop3.b32", "b32", ("b32",) * 3, partial(lop3, 0xE8), "lop3.b32 {}, {}, {}, {}, 0xe8;"),
    Case("shf.l.wrap.b32", "b32", ("b32", "b32", "amount"), partial(funnel, True, False)),
    Case("shf.l.clamp.b32", "b32", ("b32", "b32", "amount"), partial(funnel, True, True)),
    Case("shf.r.wrap.b32", "b32", ("b32", "b32", "amount"), partial(funnel, False, False)),
    Case("shf.r.clamp.b32", "b32", ("b32", "b32", "amount"), partial(funnel, False, True)),
]

FLOATS = [
    same("add.f32", 2, model.add),
    same("add.rn.f32", 2, model.add),
    same("add.ftz.f32", 2, ftz(model.add)),
    same("sub.f32", 2, model.sub),
    same("sub.ftz.f32", 2, ftz(model.sub)),
    same("mul.f32", 2, model.mul),
    same("mul.ftz.f32", 2, ftz(model.mul)),
    same("fma.rn.f32", 3, model.fma),
    same("fma.rn.ftz.f32", 3, ftz(model.fma)),
    same("div.rn.f32", 2, model.div),
    same("div.rn.ftz.f32", 2, ftz(model.div)),
    same("rcp.rn.f32", 1, partial(model.div, 0x3F800000)),
    same("max.f32", 2, model.maximum),
    same("max.ftz.f32", 2, ftz(model.maximum)),
    same("min.f32", 2, model.minimum),
    same("min.ftz.f32", 2, ftz(model.minimum)),
    same("neg.f32", 1, lambda a: model.canonical(a ^ 0x80000000)),
    same("neg.ftz.f32", 1, lambda a: model.canonical(model.flush(a) ^ 0x80000000)),
    same("abs.f32", 1, lambda a: model.canonical(a & 0x7FFFFFFF)),
]

ORDERED = ("eq", "ne", "lt", "le", "gt", "ge")
COMPARISONS = [
    Case(f"setp.{how}.{kind}", "pred", (kind, kind), partial(model.compare_integers, how))
    for kind in ("s16", "u16", "s32", "u32", "s64", "u64")
    for how in ORDERED
]
COMPARISONS += [
    Case(f"setp.{how}.{kind}", "pred", (kind, kind), partial(model.compare_integers, how))
    for kind in ("b16", "b32", "b64")
    for how in ("eq", "ne")
]
COMPARISONS += [
    Case(f"setp.{how}.f32", "pred", ("f32", "f32"), partial(model.compare, how))
    for how in (*ORDERED, *(f"{how}u" for how in ORDERED), "num", "nan")
]

COMBINATIONS = {"and": int.__and__, "or": int.__or__, "xor": int.__xor__}


def combined(how, combine, negated, a, b, c):
    """Both predicates of a setp with a third operand: bit 0 the one, bit 1 its twin."""
    holds = int(model.compare_integers(how, a, b))
    return combine(holds, c ^ negated) | combine(1 - holds, c ^ negated) << 1


COMPARISONS += [
    Case(
        f"setp.ge.{name}.s32",
        "u32",
        ("s32", "s32", "pred"),
        partial(combined, "ge", combine, int(negation != "")),
        f"setp.ge.{name}.s32 %p4|%p5, {{1}}, {{2}}, {negation}{{3}};\n"
        "selp.b32 %r4, 1, 0, %p4;\nselp.b32 %r5, 2, 0, %p5;\nor.b32 {0}, %r4, %r5;",
        suffix="_not" if negation else "",
    )
    for name, combine in COMBINATIONS.items()
    for negation in ("", "!")
]

CHOICES = [
    *typed(
        "b16 b32 b64 f32",
        lambda k: Case(f"selp.{k}", k, (k, k, "pred"), lambda a, b, p: a if p else b, nan="bits"),
    ),
    same("and.pred", 2, lambda a, b: a & b),
    same("or.pred", 2, lambda a, b: a | b),
    same("xor.pred", 2, lambda a, b: a ^ b),
    same("not.pred", 1, lambda a: 1 - a),
    *typed("pred b16 b32 u32 b64 f32", lambda k: same(f"mov.{k}", 1, lambda a: a, nan="bits")),
    Case(
        "mov.b64",
        "b64",
        ("b32", "b32"),
        lambda a, b: a | b << 32,
        "mov.b64 {0}, {{{1}, {2}}};",
        suffix="_pack",
    ),
    Case(
        "mov.b64",
        "b32",
        ("b64",),
        lambda a: a >> 32,
        "mov.b64 {{_, {0}}}, {1};",
        suffix="_unpack",
    ),
    Case(
        "mov.b32",
        "b32",
        ("b16", "b16"),
        lambda a, b: a | b << 16,
        "mov.b32 {0}, {{{1}, {2}}};",
        suffix="_pack",
    ),
    Case(
        "mov.b32",
        "b16",
        ("b32",),
        lambda a: a >> 16,
        "mov.b32 {{_, {0}}}, {1};",
        suffix="_unpack",
    ),
    Case(
        "mov.b64",
        "b16",
        ("b64",),
        lambda a: a >> 32 & 0xFFFF,
        "mov.b64 {{_, _, {0}, _}}, {1};",
        suffix="_unpack4",
    ),
    Case(
        "mov.b128",
        "b64",
        ("b64", "b64"),
        lambda a, b: b,
        ".reg .b128 %q;\nmov.b128 %q, {{{1}, {2}}};\nmov.b128 {{_, {0}}}, %q;",
    ),
]

CONVERSIONS = [
    *[
        Case(f"cvt.{to}.{source}", to, (source,), lambda a: a)
        for to, source in (
            ("s16", "s8"),
            ("s32", "s8"),
            ("s32", "s16"),
            ("s64", "s32"),
            ("s64", "s16"),
            ("u16", "u8"),
            ("u16", "u32"),
            ("s16", "s32"),
            ("u32", "u8"),
            ("u32", "u16"),
            ("u32", "u64"),
            ("s32", "s64"),
            ("u64", "u32"),
            ("u64", "u16"),
            ("u64", "s32"),
            ("s64", "u32"),
            ("u32", "s16"),
            ("s32", "u16"),
            ("u8", "u32"),
            ("u16", "s64"),
        )
    ],
    Case(
        "cvt.s8.s32", "s32", ("s32",), lambda a: model.wrap(a, "s8"), wide=True, suffix="_extends"
    ),
    Case(
        "cvt.s16.s32", "s32", ("s32",), lambda a: model.wrap(a, "s16"), wide=True, suffix="_extends"
    ),
    Case("cvt.u8.u32", "u32", ("u32",), lambda a: a & 255, wide=True, suffix="_extends"),
    *typed(
        "s8 u8 s16 u16 s32 u32 s64 u64",
        lambda k: Case(f"cvt.rn.f32.{k}", "f32", (k,), f32_from_integer),
    ),
    *[
        Case(
            f"cvt.{short}i.{kind}.f32",
            kind,
            ("f32",),
            partial(model.float_to_integer, kind=kind, rounding=rounding),
        )
        for kind in ("s32", "u32", "s64", "u64")
        for short, rounding in (("rn", "nearest"), ("rz", "zero"), ("rm", "minus"), ("rp", "plus"))
    ],
    Case("cvt.f32.bf16", "f32", ("bf16",), partial(convert, BF16, F32), nan="any"),
    Case("cvt.f32.f16", "f32", ("f16",), partial(convert, F16, F32)),
    Case("cvt.rn.bf16.f32", "bf16", ("f32",), partial(convert, F32, BF16)),
    Case("cvt.rn.f16.f32", "f16", ("f32",), partial(convert, F32, F16)),
    Case("cvt.rn.bf16x2.f32", "b32", ("f32", "f32"), partial(pair, BF16)),
    Case("cvt.rn.f16x2.f32", "b32", ("f32", "f32"), partial(pair, F16)),
]

CASES = [*INTEGERS, *FLOATS, *COMPARISONS, *CHOICES, *CONVERSIONS]
