"""Races and register hazards: a finding if and only if the edge is missing, in every schedule.

A line that ends in `// WRONG` belongs to the kernel at fault, one in `// RIGHT` to its twin.
"""

import numpy as np
import pytest
from lane_races import LANES

SCHEDULES = [("earliest", 0), ("latest", 0), *(("random", seed) for seed in range(4))]

HEAD = """
.version 8.6
.target sm_90a
.address_size 64
.shared .align 1024 .b8 memory[2048];
.visible .entry kernel(.param .align 64 .b8 map[128], .param .u64 d)
{
  .reg .pred %p<8>;
  .reg .b32 %r<32>;
  .reg .b64 %rd<16>;
  mov.u32 %r0, %tid.x;
  mov.u32 %r1, memory;
  shl.b32 %r2, %r0, 2;
  and.b32 %r2, %r2, 127;
  add.s32 %r3, %r1, %r2;
  add.s32 %r3, %r3, 1024;
  setp.lt.u32 %p0, %r0, 32;
  ld.param.b64 %rd0, [d];
  mov.b64 %rd1, map;
  cvta.param.u64 %rd2, %rd1;
  mov.u32 %r4, 0;
"""

KERNELS = {
    "read after write": (
        "race: a read of shared address 0x800 is not ordered after CTA 0 warp 0's write by "
        "st.shared.b32|uninitialised: a read of shared address 0x800",
        """
        @%p0 st.shared.b32 [%r3], %r0;
        bar.sync 0;  // RIGHT
        bar.warp.sync -1;  // WRONG
        @!%p0 ld.shared.b32 %r5, [%r3];
        """,
    ),
    "write after read": (
        "race: a write to shared address 0x800 is not ordered after CTA 0 warp 1's read|"
        "race: a read of shared address 0x800 is not ordered after CTA 0 warp 0's write",
        """
        @%p0 st.shared.b32 [%r3], %r0;
        bar.sync 0;
        @!%p0 ld.shared.b32 %r5, [%r3];
        bar.sync 0;  // RIGHT
        @%p0 st.shared.b32 [%r3], %r4;
        """,
    ),
    "arrival before the write": (
        "race: a (read of|write to) shared address 0x800 is not ordered after CTA 0 warp .'s",
        """
        setp.ne.b32 %p1, %r0, 0;
        @!%p1 mbarrier.init.shared.b64 [%r1], 32;
        bar.sync 0;
        @!%p0 bra wait;
        mbarrier.arrive.shared.b64 _, [%r1];  // WRONG
        st.shared.b32 [%r3], %r0;
        mbarrier.arrive.shared.b64 _, [%r1];  // RIGHT
        ret;
        wait:
        mbarrier.try_wait.parity.shared.b64 %p2, [%r1], 0;
        @!%p2 bra wait;
        ld.shared.b32 %r5, [%r3];
        """,
    ),
    "mbarrier.init": (
        "race: a read of shared address 0x400 is not ordered after CTA 0 warp 0's write by "
        "mbarrier.init|never initialised",
        """
        setp.ne.b32 %p1, %r0, 0;
        @!%p1 mbarrier.init.shared.b64 [%r1], 64;
        bar.sync 0;  // RIGHT
        bar.warp.sync -1;  // WRONG
        mbarrier.arrive.shared.b64 _, [%r1];
        """,
    ),
    "proxy fence": (
        "race: an asynchronous read of shared address 0x800 .*st.shared.b32.*missing: "
        "fence.proxy.async",
        """
        @!%p0 ret;
        st.shared.b32 [%r3], %r0;
        fence.proxy.async.shared::cta;  // RIGHT
        bar.warp.sync -1;
        setp.ne.b32 %p1, %r0, 0;
        @%p1 ret;
        cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%rd2, {%r4, %r4}], [%r1+1024];
        cp.async.bulk.commit_group;
        cp.async.bulk.wait_group.read 0;
        """,
    ),
    "bulk read": (
        "race: a write to shared address 0x800 is not ordered after .* asynchronous read by "
        "cp.async.bulk.tensor.*wait_group",
        """
        @!%p0 ret;
        st.shared.b32 [%r3], %r0;
        fence.proxy.async.shared::cta;
        bar.warp.sync -1;
        setp.ne.b32 %p1, %r0, 0;
        @%p1 ret;
        cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%rd2, {%r4, %r4}], [%r1+1024];
        cp.async.bulk.commit_group;
        cp.async.bulk.wait_group.read 0;  // RIGHT
        st.shared.b32 [%r1+1024], %r4;
        cp.async.bulk.wait_group.read 0;
        """,
    ),
    "two CTAs write": (
        "race: a write to global address .*CTAs of different clusters",
        """
        mov.u32 %r6, %ctaid.x;
        mul.wide.u32 %rd3, %r6, 256;  // RIGHT
        mov.u64 %rd3, 0;  // WRONG
        add.s64 %rd0, %rd0, %rd3;
        mul.wide.u32 %rd3, %r0, 4;
        add.s64 %rd0, %rd0, %rd3;
        st.global.b32 [%rd0], %r0;
        """,
    ),
    "register without a value": (
        "uninitialised: a read of register %r9",
        """
        @!%p0 mov.u32 %r8, 1;
        mov.u32 %r8, 2;  // RIGHT
        mov.u32 %r9, %r8;
        add.s32 %r10, %r9, 1;
        """,
    ),
} | LANES


def twin(body, dropped):
    lines = [line for line in body.splitlines() if not line.endswith(f"// {dropped}")]
    return HEAD + "\n".join(lines) + "\n  ret;\n}\n"


def launch(run_ptx, tensor_map, name, text, completion, seed):
    box = tensor_map(1, "f32", (4, 1), (16,), (4, 1))
    run_ptx(
        text,
        box,
        np.zeros(128, np.uint32),
        grid=(2 if "CTAs" in name else 1, 1, 1),
        block=(64, 1, 1),
        completion=completion,
        seed=seed,
    )


@pytest.mark.parametrize("name", KERNELS)
def test_found_if_the_edge_is_missing(name, run_ptx, tensor_map, finding):
    expected, body = KERNELS[name]
    for completion, seed in SCHEDULES:
        with pytest.raises(finding, match=expected):
            launch(run_ptx, tensor_map, name, twin(body, "RIGHT"), completion, seed)


@pytest.mark.parametrize("name", KERNELS)
def test_silent_if_the_edge_is_there(name, run_ptx, tensor_map):
    for completion, seed in SCHEDULES:
        launch(run_ptx, tensor_map, name, twin(KERNELS[name][1], "WRONG"), completion, seed)
