"""What working kernels rely on: found at level `ptx`, accepted at level `hardware`.

A line that ends in `// WRONG` makes of it what no level accepts.
"""

import numpy as np
import pytest

SCHEDULES = [("earliest", 0), ("latest", 0), *(("random", seed) for seed in range(3))]

HEAD = """
.version 8.6
.target sm_90a
.address_size 64
.shared .align 1024 .b8 memory[2048];
.visible .entry kernel(.param .u64 d)
{
  .reg .pred %p<8>;
  .reg .b32 %r<16>;
  .reg .b64 %rd<16>;
  ld.param.b64 %rd0, [d];
  mov.u32 %r0, %tid.x;
  mov.u32 %r1, %ctaid.x;
  mov.u32 %r2, memory;
  mov.u32 %r3, 7;
"""

KERNELS = {
    # PTX ISA 8.7.2: a race of uniform size.
    "CTAs store the same bytes": (
        "race: a write to global address 0x.* is not ordered after CTA 0 warp 0's write",
        """
        mov.u32 %r3, %r1;  // WRONG
        setp.eq.b32 %p0, %r0, 0;
        @%p0 st.global.b32 [%rd0], %r3;
        """,
        "race: a write to global address",
    ),
    "warps store the same bytes": (
        "race: a write to shared address 0x400 is not ordered after CTA 0 warp .'s write",
        """
        shr.u32 %r3, %r0, 5;  // WRONG
        st.shared.b32 [%r2], %r3;
        """,
        "race: a write to shared address",
    ),
    # 9.7.13.15.9: there is no init of a live object.
    "all lanes initialise": (
        "mbarrier: .* is initialised while it is alive",
        """
        setp.ge.u32 %p0, %r0, 32;
        @%p0 ret;
        add.s32 %r3, %r3, %r0;  // WRONG
        mbarrier.init.shared.b64 [%r2], %r3;
        """,
        "mbarrier: .* is initialised while it is alive",
    ),
    # What is computed from a register without a value may be dropped, not used.
    "computed, exchanged and dropped": (
        "uninitialised: a read of register %r4",
        """
        setp.ge.u32 %p0, %r0, 32;
        @%p0 ret;
        setp.lt.u32 %p1, %r0, 8;
        @%p1 mov.u32 %r4, 5;
        add.s32 %r5, %r4, %r3;
        shfl.sync.bfly.b32 %r6, %r5, 1, 31, -1;
        add.s32 %r6, %r6, %r5;
        setp.lt.u32 %p1, %r0, 9;  // WRONG
        selp.b32 %r7, %r6, 0, %p1;
        mul.wide.u32 %rd1, %r0, 4;
        add.s64 %rd1, %rd0, %rd1;
        st.global.b32 [%rd1], %r7;
        """,
        "uninitialised: a read of register %r7(.|\\n)*lane 8: st.global",
    ),
    # 9.7.13.2: bar.warp.sync orders lanes' accesses; warps that do not diverge keep their order.
    "one lane arrives for its warp": (
        "race: a (read of|write to) shared address .*missing: bar.warp.sync after it",
        """
        setp.lt.u32 %p0, %r0, 32;
        setp.ne.b32 %p1, %r0, 0;
        shl.b32 %r4, %r0, 2;
        and.b32 %r4, %r4, 127;
        add.s32 %r4, %r4, %r2;
        @!%p1 mbarrier.init.shared.b64 [%r2+128], 1;
        bar.sync 0;
        @!%p0 bra wait;
        st.shared.b32 [%r4], %r0;
        @!%p1 mbarrier.arrive.shared.b64 _, [%r2+128];
        st.shared.b32 [%r4], %r0;  // WRONG
        ret;
        wait:
        mbarrier.try_wait.parity.shared.b64 %p2, [%r2+128], 0;
        @!%p2 bra wait;
        ld.shared.b32 %r5, [%r4];
        """,
        "race: a (read of|write to) shared address",
    ),
    # 9.7.13.15.16: a wait is the executing thread's; warps that do not diverge keep their order.
    "one lane waits for its warp": (
        "race: a read of shared address .*missing: bar.warp.sync after another lane of warp 1",
        """
        setp.lt.u32 %p0, %r0, 32;
        shl.b32 %r4, %r0, 2;
        and.b32 %r4, %r4, 127;
        add.s32 %r4, %r4, %r2;
        setp.eq.b32 %p1, %r0, 0;
        @%p1 mbarrier.init.shared.b64 [%r2+128], 32;
        bar.sync 0;
        @!%p0 bra second;
        st.shared.b32 [%r4], %r0;
        mbarrier.arrive.shared.b64 _, [%r2+128];
        st.shared.b32 [%r4], %r0;  // WRONG
        ret;
        second:
        setp.ne.b32 %p1, %r0, 32;
        @%p1 bra others;
        wait:
        mbarrier.try_wait.parity.shared.b64 %p2, [%r2+128], 0;
        @!%p2 bra wait;
        others:
        elect.sync %r5|%p3, -1;
        ld.shared.b32 %r5, [%r4];
        """,
        "race: a (read of|write to) shared address",
    ),
    "initialised again": (
        "mbarrier: .* is initialised while it is alive",
        """
        setp.ge.u32 %p0, %r0, 32;
        @%p0 ret;
        mbarrier.init.shared.b64 [%r2], %r3;
        mbarrier.init.shared.b64 [%r2], %r3;  // WRONG
        """,
        "mbarrier: .* is initialised while it is alive",
    ),
}

STORE_AND_EXIT = """
  setp.ne.b32 %p0, %r0, 0;
  @%p0 ret;
  mov.b32 %r4, 0x3f800000;
  st.shared.v4.b32 [%r2], {%r4, %r4, %r4, %r4};
  fence.proxy.async.shared::cta;
  mov.b32 %r5, 16;
  cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%rd0], [%r2], %r5;
"""


def kernel(body, wrong):
    lines = [line for line in body.splitlines() if wrong or not line.endswith("// WRONG")]
    return HEAD + "\n".join(lines) + "\n  ret;\n}\n"


def launch(run_ptx, name, wrong, level, schedule):
    run_ptx(
        kernel(KERNELS[name][1], wrong),
        np.zeros(64, np.uint32),
        grid=(2, 1, 1) if "CTAs" in name else (1, 1, 1),
        block=(64, 1, 1),
        completion=schedule[0],
        seed=schedule[1],
        level=level,
    )


@pytest.mark.parametrize("name", KERNELS)
def test_found_by_the_text(name, run_ptx, finding):
    for schedule in SCHEDULES:
        with pytest.raises(finding, match=KERNELS[name][0]):
            launch(run_ptx, name, "again" in name, "ptx", schedule)


@pytest.mark.parametrize("name", KERNELS)
def test_accepted_where_it_works(name, run_ptx):
    for schedule in SCHEDULES:
        launch(run_ptx, name, False, "hardware", schedule)


@pytest.mark.parametrize("name", KERNELS)
def test_found_at_any_level_if_it_is_wrong(name, run_ptx, finding):
    for schedule in SCHEDULES:
        with pytest.raises(finding, match=KERNELS[name][2]):
            launch(run_ptx, name, True, "hardware", schedule)


def test_a_store_may_outlive_its_thread(run_ptx, finding):
    for completion, seed in SCHEDULES:
        sums = np.zeros(4, np.float32)
        how = {"completion": completion, "seed": seed}
        run_ptx(kernel(STORE_AND_EXIT, False), sums, block=(64, 1, 1), level="hardware", **how)
        np.testing.assert_array_equal(sums, 1)
    with pytest.raises(finding, match="unfinished: exits with an uncommitted bulk copy"):
        run_ptx(kernel(STORE_AND_EXIT, False), sums, block=(64, 1, 1), completion="latest")


ANNOUNCE = """
  setp.ne.b32 %p0, %r0, 0;
  @%p0 ret;
  mbarrier.init.shared.b64 [%r2], 1;
  mbarrier.arrive.expect_tx.shared.b64 _, [%r2], 16;
"""


def test_a_last_stage_may_be_announced(run_ptx, finding):
    for completion, seed in SCHEDULES:
        how = {"block": (64, 1, 1), "completion": completion, "seed": seed}
        run_ptx(kernel(ANNOUNCE, False), np.zeros(1, np.uint32), level="hardware", **how)
        with pytest.raises(finding, match="mbarrier: the CTA ends when"):
            run_ptx(kernel(ANNOUNCE, False), np.zeros(1, np.uint32), **how)


QUERY = """
.version 8.6
.target sm_100a
.address_size 64
.shared .align 16 .b8 memory[32];
.visible .entry kernel(.param .u64 d)
{
  .reg .pred %p<4>;
  .reg .b32 %r<8>;
  .reg .b64 %rd<4>;
  .reg .b128 %h;
  ld.param.b64 %rd0, [d];
  mov.u32 %r1, memory;
  mbarrier.init.shared.b64 [%r1+16], 1;
  mbarrier.arrive.expect_tx.shared.b64 _, [%r1+16], 16;
  clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes.b128
    [%r1], [%r1+16];
wait:
  mbarrier.try_wait.parity.shared.b64 %p1, [%r1+16], 0;
  @!%p1 bra wait;
  ld.shared.v2.b64 {%rd1, %rd2}, [%r1];
  mov.b128 %h, {%rd1, %rd2};
  clusterlaunchcontrol.query_cancel.is_canceled.pred.b128 %p2, %h;
  selp.b32 %r2, 1, 0, %p2;
  clusterlaunchcontrol.query_cancel.get_first_ctaid::x.b32.b128 %r3, %h;
  st.global.v2.b32 [%rd0], {%r2, %r3};
  ret;
}
"""


def test_the_first_cta_of_no_cluster(run_ptx, finding):
    """PTX ISA 9.7.13.18: undefined where the request failed; nobody can take the answer for one."""
    answer = np.zeros(2, np.uint32)
    run_ptx(QUERY, answer, block=(1, 1, 1), level="hardware")
    assert answer.tolist() == [0, 0xFFFFFFFF]
    with pytest.raises(finding, match="cluster-launch: the first CTA of a cluster that was not"):
        run_ptx(QUERY, answer, block=(1, 1, 1))
    run_ptx(QUERY, answer, grid=(2, 1, 1), block=(1, 1, 1))
    assert answer.tolist() == [1, 1], "the second CTA's work, which the first took over"
