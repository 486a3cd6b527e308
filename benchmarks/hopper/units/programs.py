"""The measuring kernels. Each writes cycles that it counted to `results`."""

from __future__ import annotations

from benchmarks.hopper.units.ptx import (
    WAIT,
    clock,
    loop,
    operations,
    product_setup,
    product_use,
    products,
    program,
    softmax,
    unknown_values,
    use,
    wait,
    write,
)

SOFTMAX = "softmax of 64 scores"
_FIRST_OF_WARP = "setp.eq.u32 %p3, %r3, 0;"
_FIRST_OF_WARPGROUP = "and.b32 %r12, %r0, 127; setp.eq.u32 %p3, %r12, 0;"


def _arithmetic(name: str, count: int) -> list[str]:
    return softmax() if name == SOFTMAX else operations(name, count)


def _arithmetic_use(name: str) -> list[str]:
    first = [f"%f{i}" for i in range(64 if name == SOFTMAX else 16)]
    return use([*first, *(f"%f{200 + i}" for i in range(9) if name == SOFTMAX)])


def _values(name: str) -> list[str]:
    more = [f"ld.global.f32 %f{200 + i}, [%rd2+{4 * i}];" for i in range(9)]
    return [*unknown_values(64 if name == SOFTMAX else 32), *more]


def rate(name: str, count: int) -> str:
    """n0 rounds of `count` operations, or of one softmax; cycles by warp."""
    return program(
        *_values(name),
        "bar.sync 0;",
        clock("%rd10"),
        *loop("again", "%n0", _arithmetic(name, count)),
        clock("%rd11"),
        "sub.u64 %rd12, %rd11, %rd10;",
        _FIRST_OF_WARP,
        write("%rd12", "%r2", "@%p3"),
        *_arithmetic_use(name),
    )


def group(columns: int, registers: bool, count: int) -> str:
    """n0 groups of `count` products, each waited for; by warpgroup the cycles of the last one
    until all were issued, until they were done, and those of all groups."""
    body = [
        clock("%rd10"),
        *products(columns, registers, count),
        clock("%rd11"),
        WAIT,
        clock("%rd12"),
    ]
    return program(
        *product_setup(columns),
        "bar.sync 0;",
        clock("%rd9"),
        *loop("again", "%n0", body),
        "sub.u64 %rd11, %rd11, %rd10;",
        "sub.u64 %rd10, %rd12, %rd10;",
        "sub.u64 %rd12, %rd12, %rd9;",
        "mul.lo.u32 %r13, %r5, 3;",
        "add.u32 %r14, %r13, 1;",
        "add.u32 %r15, %r13, 2;",
        _FIRST_OF_WARPGROUP,
        write("%rd11", "%r13", "@%p3"),
        write("%rd10", "%r14", "@%p3"),
        write("%rd12", "%r15", "@%p3"),
        *product_use(columns),
    )


def beside(name: str, columns: int, registers: bool, products_each: int, count: int) -> str:
    """The first warpgroup does n0 groups of products, the others n1 rounds of operations; cycles
    of each warpgroup."""
    body = [*products(columns, registers, products_each), WAIT]
    multiply = [
        *product_setup(columns),
        "bar.sync 0;",
        clock("%rd10"),
        *loop("multiply", "%n0", body),
        clock("%rd11"),
        "sub.u64 %rd12, %rd11, %rd10;",
        _FIRST_OF_WARPGROUP,
        write("%rd12", "%r5", "@%p3"),
        *product_use(columns),
        "ret;",
    ]
    compute = [
        *_values(name),
        "bar.sync 0;",
        clock("%rd10"),
        *loop("compute", "%n1", _arithmetic(name, count)),
        clock("%rd11"),
        "sub.u64 %rd12, %rd11, %rd10;",
        _FIRST_OF_WARPGROUP,
        write("%rd12", "%r5", "@%p3"),
        *_arithmetic_use(name),
    ]
    return program("setp.ge.u32 %p5, %r0, 128;", "@%p5 bra other;", *multiply, "other:", *compute)


def hand_over(named: bool) -> str:
    """Two warpgroups hand over to each other n0 times; slot 0: cycles of all, two a round."""
    setup = [
        "setp.eq.u32 %p7, %r0, 0;",
        "add.u32 %r30, %r4, 8;",
        "@%p7 mbarrier.init.shared::cta.b64 [%r4], 4;",
        "@%p7 mbarrier.init.shared::cta.b64 [%r30], 4;",
        "bar.sync 0;",
        "setp.eq.u32 %p8, %r3, 0;",
        "mov.u32 %r31, 0;",
        "setp.ge.u32 %p5, %r0, 128;",
        "@%p5 bra other;",
    ]
    arrive = "@%p8 mbarrier.arrive.shared::cta.b64 _, [{0}];"
    flip = "xor.b32 %r31, %r31, 1;"
    if named:
        first = ["bar.arrive 1, 256;", "bar.sync 2, 256;"]
        second = ["bar.sync 1, 256;", "bar.arrive 2, 256;"]
    else:
        first = [arrive.format("%r4"), *wait("w1", "%r30", "%r31"), flip]
        second = [*wait("w2", "%r4", "%r31"), arrive.format("%r30"), flip]
    return program(
        *setup,
        clock("%rd10"),
        *loop("a", "%n0", first),
        clock("%rd11"),
        "sub.u64 %rd12, %rd11, %rd10;",
        write("%rd12", "0", "@%p7"),
        "ret;",
        "other:",
        *loop("b", "%n0", second, "%r11"),
    )


def products_in_turn(columns: int, registers: bool, count: int) -> str:
    """Two warpgroups issue groups of `count` products in turn, n0 each, by named barriers, and
    wait for their own after they passed the turn; slot 0: cycles of all groups."""

    def body(own: int, other: int) -> list[str]:
        issue = products(columns, registers, count)
        return [f"bar.sync {own}, 256;", *issue, f"bar.arrive {other}, 256;", WAIT]

    return program(
        *product_setup(columns),
        "setp.eq.u32 %p7, %r0, 0;",
        "bar.sync 0;",
        "setp.ge.u32 %p5, %r0, 128;",
        "@%p5 bra other;",
        clock("%rd10"),
        *loop("a", "%n0", body(1, 2)),
        "bar.sync 1, 256;",
        clock("%rd11"),
        "sub.u64 %rd12, %rd11, %rd10;",
        write("%rd12", "0", "@%p7"),
        "bra end;",
        "other:",
        "bar.arrive 1, 256;",
        *loop("b", "%n0", body(2, 1), "%r11"),
        "end:",
        *product_use(columns),
    )


def overlap(columns: int, registers: bool, first: int, second: int) -> str:
    """One warpgroup issues `first` products, then another `second`. Slots, clocks: begin and end
    of the first one's, and of the second's: begin, issued, end."""
    return program(
        *product_setup(columns),
        "bar.sync 0;",
        "setp.eq.u32 %p7, %r0, 0;",
        "setp.eq.u32 %p9, %r0, 128;",
        "setp.ge.u32 %p5, %r0, 128;",
        "@%p5 bra other;",
        clock("%rd10"),
        *products(columns, registers, first),
        "bar.arrive 1, 256;",
        WAIT,
        clock("%rd11"),
        write("%rd10", "0", "@%p7"),
        write("%rd11", "1", "@%p7"),
        "bra end;",
        "other:",
        "bar.sync 1, 256;",
        clock("%rd10"),
        *products(columns, registers, second),
        clock("%rd11"),
        WAIT,
        clock("%rd12"),
        write("%rd10", "2", "@%p9"),
        write("%rd11", "3", "@%p9"),
        write("%rd12", "4", "@%p9"),
        "end:",
        *product_use(columns),
    )


def copies(size: int, count: int, *, rounds: int = 4, cta_stride: int = 0) -> str:
    """`count` bulk copies of `size` bytes at once, `rounds` times over the same memory; cycles
    by CTA and round. The first round is from device memory."""
    one = [
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
        f" [%r32], [%rd30], {size}, [%r4];",
        f"add.u64 %rd30, %rd30, {size};",
        f"add.u32 %r32, %r32, {size};",
    ]
    body = [
        f"mad.wide.u32 %rd30, %r1, {cta_stride}, %rd1;",
        "add.u32 %r32, %r4, 1024;",
        clock("%rd10"),
        f"mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r4], {size * count};",
        *one * count,
        *wait("w", "%r4", "%r31"),
        clock("%rd11"),
        "xor.b32 %r31, %r31, 1;",
        "sub.u64 %rd12, %rd11, %rd10;",
        f"mad.lo.u32 %r13, %r1, {rounds}, {rounds};",
        "sub.u32 %r13, %r13, %r10;",
        write("%rd12", "%r13"),
    ]
    return program(
        "mov.u32 %r1, %ctaid.x;",
        "setp.ne.u32 %p7, %r0, 0;",
        "@%p7 ret;",
        "mbarrier.init.shared::cta.b64 [%r4], 1;",
        "fence.mbarrier_init.release.cluster;",
        "mov.u32 %r31, 0;",
        *loop("again", str(rounds), body),
    )


def stores(size: int, rounds: int = 4) -> str:
    """Cycles until a bulk store has read shared memory, each round."""
    body = [
        clock("%rd10"),
        f"cp.async.bulk.global.shared::cta.bulk_group [%rd1], [%r4], {size};",
        "cp.async.bulk.commit_group;",
        "cp.async.bulk.wait_group.read 0;",
        clock("%rd11"),
        "sub.u64 %rd12, %rd11, %rd10;",
        "sub.u32 %r13, %r10, 1;",
        write("%rd12", "%r13"),
    ]
    return program("setp.ne.u32 %p7, %r0, 0;", "@%p7 ret;", *loop("again", str(rounds), body))


def lifetimes() -> str:
    """By CTA: multiprocessor, first and last cycle of its thread 0."""
    return program(
        clock("%rd10"),
        *unknown_values(32),
        *loop("spin", "%n0", operations("FFMA", 256)),
        *use([f"%f{i}" for i in range(16)]),
        "bar.sync 0;",
        "mov.u32 %r1, %ctaid.x;",
        "mov.u32 %r40, %smid;",
        "cvt.u64.u32 %rd13, %r40;",
        "setp.eq.u32 %p7, %r0, 0;",
        "mul.lo.u32 %r41, %r1, 3;",
        "add.u32 %r42, %r41, 1;",
        "add.u32 %r43, %r41, 2;",
        write("%rd13", "%r41", "@%p7"),
        write("%rd10", "%r42", "@%p7"),
        clock("%rd11"),
        write("%rd11", "%r43", "@%p7"),
    )


def stamps() -> str:
    """By CTA: multiprocessor, its counter of cycles, and nanoseconds."""
    return program(
        "mov.u32 %r1, %ctaid.x;",
        "mov.u32 %r40, %smid;",
        "cvt.u64.u32 %rd13, %r40;",
        clock("%rd10"),
        "mov.u64 %rd11, %globaltimer;",
        "mul.lo.u32 %r41, %r1, 3;",
        "add.u32 %r42, %r41, 1;",
        "add.u32 %r43, %r41, 2;",
        write("%rd13", "%r41"),
        write("%rd10", "%r42"),
        write("%rd11", "%r43"),
    )
