"""Kernels whose lanes do something for one another, for test_races.py: name -> (finding, body)."""

LANES = {
    "one lane arrives for its warp": (
        "race: a read of shared address 0x800 is not ordered after CTA 0 warp 0's write by "
        "st.shared.b32(.|\\n)*missing: bar.warp.sync after it",
        """
        setp.ne.b32 %p1, %r0, 0;
        @!%p1 mbarrier.init.shared.b64 [%r1], 1;
        bar.sync 0;
        @!%p0 bra wait;
        st.shared.b32 [%r3], %r0;
        bar.warp.sync -1;  // RIGHT
        @!%p1 mbarrier.arrive.shared.b64 _, [%r1];
        ret;
        wait:
        mbarrier.try_wait.parity.shared.b64 %p2, [%r1], 0;
        @!%p2 bra wait;
        ld.shared.b32 %r5, [%r3];
        """,
    ),
    "one lane arrives for what it does": (
        "race: a read of shared address 0x800 is not ordered after CTA 0 warp 0's write by "
        "st.shared.b32",
        """
        setp.ne.b32 %p1, %r0, 0;
        @!%p1 mbarrier.init.shared.b64 [%r1], 1;
        bar.sync 0;
        @!%p0 bra wait;
        @!%p1 mbarrier.arrive.shared.b64 _, [%r1];  // WRONG
        @!%p1 st.shared.b32 [%r1+1024], %r0;
        @!%p1 mbarrier.arrive.shared.b64 _, [%r1];  // RIGHT
        ret;
        wait:
        mbarrier.try_wait.parity.shared.b64 %p2, [%r1], 0;
        @!%p2 bra wait;
        ld.shared.b32 %r5, [%r1+1024];
        """,
    ),
    "one lane copies for its warp": (
        "race: an asynchronous read of shared address 0x800 .*st.shared.b32.*missing: "
        "bar.warp.sync after it",
        """
        @!%p0 ret;
        st.shared.b32 [%r3], %r0;
        fence.proxy.async.shared::cta;
        bar.warp.sync -1;  // RIGHT
        setp.ne.b32 %p1, %r0, 0;
        @%p1 ret;
        cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%rd2, {%r4, %r4}], [%r1+1024];
        cp.async.bulk.commit_group;
        cp.async.bulk.wait_group.read 0;
        """,
    ),
    "one lane fences for its warp": (
        "race: an asynchronous read of shared address 0x800 .*st.shared.b32.*missing: "
        "fence.proxy.async",
        """
        @!%p0 ret;
        st.shared.b32 [%r3], %r0;
        bar.warp.sync -1;
        setp.ne.b32 %p1, %r0, 0;
        @%p1 ret;
        fence.proxy.async.shared::cta;  // RIGHT
        cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%rd2, {%r4, %r4}], [%r1+1024];
        cp.async.bulk.commit_group;
        cp.async.bulk.wait_group.read 0;
        """,
    ),
    "one lane copies what it wrote": (
        "race: an asynchronous read of shared address 0x800 .*st.shared.v4.b32.*missing: "
        "fence.proxy.async",
        """
        @!%p0 ret;
        st.shared.b32 [%r3+512], %r0;
        setp.ne.b32 %p1, %r0, 0;
        @%p1 ret;
        st.shared.v4.b32 [%r1+1024], {%r0, %r0, %r0, %r0};
        fence.proxy.async.shared::cta;  // RIGHT
        cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%rd2, {%r4, %r4}], [%r1+1024];
        cp.async.bulk.commit_group;
        cp.async.bulk.wait_group.read 0;
        """,
    ),
    "lanes meet at an mbarrier": (
        "race: an asynchronous read of shared address 0x800 .*st.shared.b32",
        """
        setp.ne.b32 %p1, %r0, 0;
        @!%p1 mbarrier.init.shared.b64 [%r1], 32;
        bar.sync 0;
        @!%p0 ret;
        mbarrier.arrive.shared.b64 _, [%r1];  // WRONG
        st.shared.b32 [%r3], %r0;
        fence.proxy.async.shared::cta;
        mbarrier.arrive.shared.b64 _, [%r1];  // RIGHT
        wait:
        mbarrier.try_wait.parity.shared.b64 %p2, [%r1], 0;
        @!%p2 bra wait;
        @%p1 ret;
        cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%rd2, {%r4, %r4}], [%r1+1024];
        cp.async.bulk.commit_group;
        cp.async.bulk.wait_group.read 0;
        """,
    ),
    "one lane waits for its warp": (
        "race: a write to shared address 0x804 is not ordered after .* asynchronous read by "
        "cp.async.bulk.tensor(.|\\n)*missing: bar.warp.sync after another lane of warp 0",
        """
        @!%p0 ret;
        st.shared.b32 [%r3], %r0;
        fence.proxy.async.shared::cta;
        bar.warp.sync -1;
        setp.ne.b32 %p1, %r0, 0;
        @%p1 bra others;
        cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%rd2, {%r4, %r4}], [%r1+1024];
        cp.async.bulk.commit_group;
        cp.async.bulk.wait_group.read 0;
        others:
        elect.sync %r7|%p3, -1;  // lanes meet, and their accesses to memory do not
        bar.warp.sync -1;  // RIGHT
        st.shared.b32 [%r3], %r4;
        """,
    ),
    "one lane waits at an mbarrier": (
        "race: a read of shared address 0x804 is not ordered after CTA 0 warp 0's write by "
        "st.shared.b32(.|\\n)*missing: bar.warp.sync after another lane of warp 1",
        """
        setp.ne.b32 %p1, %r0, 0;
        @!%p1 mbarrier.init.shared.b64 [%r1], 32;
        bar.sync 0;
        @%p0 st.shared.b32 [%r3], %r0;
        @%p0 mbarrier.arrive.shared.b64 _, [%r1];
        @%p0 ret;
        setp.ne.b32 %p1, %r0, 32;
        @%p1 bra others;
        wait:
        mbarrier.try_wait.parity.shared.b64 %p2, [%r1], 0;
        @!%p2 bra wait;
        ld.shared.b32 %r6, [%r1+1028];
        others:
        elect.sync %r7|%p3, -1;  // lanes meet, and their accesses to memory do not
        bar.warp.sync -1;  // RIGHT
        ld.shared.b32 %r5, [%r3];
        """,
    ),
    "a lane arrives for what another has waited for": (
        "race: a read of shared address 0x800 is not ordered after .* asynchronous write by "
        "cp.async.bulk.tensor(.|\\n)*missing: a wait for the phase of the mbarrier",
        """
        setp.ne.b32 %p1, %r0, 0;
        @!%p1 mbarrier.init.shared.b64 [%r1], 1;
        @!%p1 mbarrier.init.shared.b64 [%r1+8], 1;
        bar.sync 0;
        @!%p0 bra second;
        @!%p1 mbarrier.arrive.expect_tx.shared.b64 _, [%r1], 16;
        @!%p1 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes
          [%r1+1024], [%rd2, {%r4, %r4}], [%r1];
        wait:
        mbarrier.try_wait.parity.shared.b64 %p2, [%r1+8], 0;
        @!%p2 bra wait;
        ld.shared.b32 %r5, [%r1+1024];
        ret;
        second:
        setp.ne.b32 %p1, %r0, 32;
        @%p1 bra others;
        wait_copy:
        mbarrier.try_wait.parity.shared.b64 %p2, [%r1], 0;
        @!%p2 bra wait_copy;
        others:
        elect.sync %r7|%p3, -1;  // lanes meet, and their accesses to memory do not
        bar.warp.sync -1;  // RIGHT
        setp.ne.b32 %p1, %r0, 33;
        @!%p1 mbarrier.arrive.shared.b64 _, [%r1+8];
        """,
    ),
}
