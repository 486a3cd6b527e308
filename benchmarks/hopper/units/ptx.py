"""Pieces of PTX that the measuring kernels are made of.

Registers by agreement: %r0 thread, %r2 warp, %r3 lane, %r4 shared memory, %r5 warpgroup,
%rd0 results, %rd1 zeros and this thread's at %rd2, %n0 and %n1 the numbers
given; loops count in %r10 and %r11.
"""

from __future__ import annotations

_HEAD = """.version 8.0
.target sm_90a
.address_size 64
.extern .shared .align 1024 .b8 smem[];
.visible .entry main(.param .u64 results, .param .u64 zeros, .param .u32 n0, .param .u32 n1)
{
.reg .pred %p<16>;
.reg .b32 %r<64>;
.reg .b32 %n<2>;
.reg .b64 %rd<64>;
.reg .f32 %f<512>;
.reg .b32 %a<4>;
ld.param.u64 %rd0, [results];
ld.param.u64 %rd1, [zeros];
ld.param.u32 %n0, [n0];
ld.param.u32 %n1, [n1];
mov.u32 %r0, %tid.x;
shr.u32 %r2, %r0, 5;
and.b32 %r3, %r0, 31;
shr.u32 %r5, %r0, 7;
mov.u32 %r4, smem;
mul.wide.u32 %rd2, %r0, 4;
add.u64 %rd2, %rd2, %rd1;
"""
_TAIL = "ret;\n}\n"
CHAINS = 16


def program(*lines: str) -> str:
    """A whole kernel."""
    return _HEAD + "\n".join(lines) + "\n" + _TAIL


def write(register: str, slot: str, guard: str = "") -> str:
    """results[slot] = register; `slot` is a 32-bit register or a number."""
    return (
        f"{{ .reg .b64 %x; .reg .b32 %y; mov.b32 %y, {slot}; mul.wide.u32 %x, %y, 8;"
        f" add.u64 %x, %x, %rd0; {guard} st.global.u64 [%x], {register}; }}"
    )


def clock(register: str) -> str:
    return f"mov.u64 {register}, %clock64;"


# {0} is the chain's register; {1} and {2} are others, which no instruction writes.
OPERATIONS = {
    "FFMA": "fma.rn.f32 %f{0}, %f{0}, %f{1}, %f{2};",
    "FFMA, one operand new": "fma.rn.f32 %f{0}, %f{0}, 0f3F800001, %f31;",
    "FMUL": "mul.f32 %f{0}, %f{0}, %f{1};",
    "FMUL, one operand new": "mul.f32 %f{0}, %f{0}, %f31;",
    "FADD": "add.rn.f32 %f{0}, %f{0}, %f{1};",
    "FMNMX": "max.f32 %f{0}, %f{0}, %f{1};",
    "FMNMX, one operand new": "max.f32 %f{0}, %f{0}, %f31;",
    "MUFU": "ex2.approx.ftz.f32 %f{0}, %f{0};",
    "F2FP": "{{ .reg .b32 %c; cvt.rn.bf16x2.f32 %c, %f{0}, %f{1}; mov.b32 %f{0}, %c; }}",
}
# Of several, in turn.
MIXES = (
    ("FMNMX", "MUFU"),
    ("FMNMX", "FMNMX", "FMNMX", "FMNMX", "MUFU"),
    ("FMNMX", "FADD"),
    ("FFMA, one operand new", "MUFU"),
    ("FADD", "FFMA, one operand new", "MUFU"),
    ("F2FP", "FADD", "FADD", "MUFU", "MUFU"),
)


def operations(name: str, count: int) -> list[str]:
    """`count` of them in CHAINS chains, whose other operands differ from one to the next. A name
    with plus signs is several in turn."""
    names = name.split(" + ")
    return [
        OPERATIONS[names[i % len(names)]].format(
            i % CHAINS, *(16 + (i + 5 * k) % 15 for k in range(2))
        )
        for i in range(count)
    ]


def softmax(columns: int = 64) -> list[str]:
    """What a thread does to `columns` scores: maximum, exponentials, sum and 16-bit pairs."""
    lines = [f"max.f32 %f{200 + i % 4}, %f{200 + i % 4}, %f{i};" for i in range(columns)]
    lines += [f"max.f32 %f200, %f200, %f{200 + i};" for i in (1, 2, 3)]
    lines.append("mul.f32 %f201, %f200, %f204;")
    for i in range(columns):
        lines.append(f"fma.rn.f32 %f{100 + i}, %f{i}, %f204, %f201;")
        lines.append(f"ex2.approx.ftz.f32 %f{100 + i}, %f{100 + i};")
    lines += [f"add.f32 %f{205 + i % 4}, %f{205 + i % 4}, %f{100 + i};" for i in range(columns)]
    for i in range(0, columns, 2):
        lines.append(
            f"{{ .reg .b32 %c; cvt.rn.bf16x2.f32 %c, %f{100 + i}, %f{101 + i};"
            f" mov.b32 %f{i}, %c; }}"
        )
    return lines


def loop(name: str, rounds: str, body: list[str], counter: str = "%r10") -> list[str]:
    """`rounds` times, none if it is 0; never unrolled."""
    return [
        f"mov.u32 {counter}, {rounds};",
        f"setp.eq.u32 %p1, {counter}, 0;",
        f"@%p1 bra {name}_end;",
        f"{name}:",
        '.pragma "nounroll";',
        *body,
        f"sub.u32 {counter}, {counter}, 1;",
        f"setp.ne.u32 %p1, {counter}, 0;",
        f"@%p1 bra {name};",
        f"{name}_end:",
    ]


def unknown_values(count: int) -> list[str]:
    """%f0 and on from memory, so that no compiler knows them or shares them."""
    return [f"ld.global.f32 %f{i}, [%rd2+{4 * i}];" for i in range(count)]


def use(registers: list[str]) -> list[str]:
    """Use values, so that nothing that made them is removed."""
    sums = [f"add.f32 {registers[0]}, {registers[0]}, {each};" for each in registers[1:]]
    condition = f"setp.eq.f32 %p2, {registers[0]}, 0f4B3C614E;"
    return [*sums, condition, f"@%p2 st.global.f32 [%rd1], {registers[0]};"]


def _descriptor(register: str, offset: int) -> list[str]:
    """Rows of 128 bytes, swizzled, groups of 8 rows 1024 bytes apart."""
    return [
        f"add.u32 %r20, %r4, {offset};",
        "shr.u32 %r20, %r20, 4;",
        "and.b32 %r20, %r20, 0x3fff;",
        f"cvt.u64.u32 {register}, %r20;",
        f"or.b64 {register}, {register}, {(1 << 62) | (64 << 32) | (1 << 16)};",
    ]


def product_setup(columns: int) -> list[str]:
    """Zeros to accumulate to, and operands that no compiler knows."""
    zero = [f"mov.f32 %f{100 + i}, 0f00000000;" for i in range(columns // 2)]
    a = [f"ld.global.b32 %a{i}, [%rd2+{4 * i}];" for i in range(4)]
    return [*_descriptor("%rd20", 0), *_descriptor("%rd21", 65536), *zero, *a]


def products(columns: int, registers: bool, count: int) -> list[str]:
    """`count` wgmma, A in registers or in shared memory, accumulators from %f100 on."""
    into = ", ".join(f"%f{100 + i}" for i in range(columns // 2))
    a = "{%a0, %a1, %a2, %a3}" if registers else "%rd20"
    ends = "p, 1, 1, 0;" if registers else "p, 1, 1, 0, 0;"
    one = (
        "{ .reg .pred p; setp.ne.b32 p, 1, 0; wgmma.mma_async.sync.aligned."
        f"m64n{columns}k16.f32.bf16.bf16 {{{into}}}, {a}, %rd21, {ends} }}"
    )
    return ["wgmma.fence.sync.aligned;", *[one] * count, "wgmma.commit_group.sync.aligned;"]


WAIT = "wgmma.wait_group.sync.aligned 0;"


def product_use(columns: int) -> list[str]:
    return use([f"%f{100 + i}" for i in range(columns // 2)])


def wait(name: str, barrier: str, parity: str) -> list[str]:
    return [
        f"{name}:",
        f"mbarrier.try_wait.parity.shared::cta.b64 %p6, [{barrier}], {parity};",
        f"@!%p6 bra {name};",
    ]
