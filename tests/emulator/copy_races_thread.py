"""Race rules of cp.async, atomics and clusters; see copy_races.py."""

from copy_races import COPIED, UNFINISHED
from tensor_races import both

# name: (body, {edge: (finding at ptx, finding at hardware)})
COPIES = {
    "copy, read": (
        """
        COPY
        COPIES
        COPIED  // NEEDS wait
        ld.shared.b32 sum, [mine];
        COPIED
        """,
        {"wait": both(COPIED)},
    ),
    "copy, read of another's": (
        """
        COPY
        COPIES
        COPIED
        bar.sync 0;  // NEEDS barrier
        @w1 ld.shared.b32 sum, [one];
        """,
        {"barrier": both("race: |uninitialised")},
    ),
    "copy, nobody waits": (
        """
        COPY
        COPIES
        COPIED  // NEEDS wait
        """,
        {"wait": both(UNFINISHED)},
    ),
    "copies that are not committed": (
        """
        COPY
        COPIES  // NEEDS group
        COPIED
        ld.shared.b32 sum, [mine];
        cp.async.wait_all;
        """,
        {"group": both(COPIED)},
    ),
    "two groups of copies": (
        """
        COPY
        COPIES
        @w0 add.u32 mine, mine, 1024;
        @w0 COPY
        COPIES
        @w0 cp.async.wait_group 1;
        COPIED  // NEEDS wait
        @w0 ld.shared.b32 sum, [mine];
        COPIED
        """,
        {"wait": both(COPIED)},
    ),
    "copies arrive": (
        """
        COPY
        ARRIVE_COPIED  // NEEDS arrival
        AWAIT_COPIED  // NEEDS wait
        @w1 ld.shared.b32 sum, [one];
        AWAIT_COPIED
        """,
        {"arrival": both("deadlock"), "wait": both("race: |uninitialised")},
    ),
    "copies arrive before the last": (
        """
        COPY
        ARRIVE_COPIED
        add.u32 mine, mine, 1024;
        COPY
        AWAIT_COPIED
        COPIES
        COPIED  // NEEDS wait
        ld.shared.b32 sum, [mine];
        COPIED
        """,
        {"wait": both(COPIED)},
    ),
    "copies, store": (
        """
        COPY
        COPIES
        COPIED
        FENCE  // NEEDS fence
        bar.sync 0;
        @leader STORE
        @leader GROUP
        @leader WAIT_READ
        """,
        {"fence": both("race: .*cp.async.cg")},
    ),
    "read, copy": (
        """
        @w1 ld.shared.b32 sum, [one];
        bar.sync 0;  // NEEDS barrier
        @w0 COPY
        @w0 COPIES
        @w0 COPIED
        """,
        {"barrier": both("race: |uninitialised")},
    ),
    "atomics, read": (
        """
        red.shared.add.u32 [one], tid;
        bar.sync 0;  // NEEDS barrier
        ld.shared.b32 sum, [one];
        """,
        {"barrier": both("race: .*(red.shared|ld.shared)")},
    ),
    "atomics of two warps": ("red.shared.add.u32 [one], tid;\n", {}),
    "write, atomics": (
        """
        @leader st.global.b32 [to], z;
        bar.sync 0;  // NEEDS barrier
        @w1 red.global.add.u32 [to], tid;
        """,
        {"barrier": both("race: .*global address.*(red.global|st.global)")},
    ),
}
CLUSTERS = {
    "write to the peer": (
        """
        mapa.shared::cluster.u32 far, one, peer;
        MEET
        @leader st.shared::cluster.b32 [far], tid;
        MEET  // NEEDS barrier
        @leader ld.shared.b32 sum, [one];
        MEET
        """,
        {"barrier": both("race: .*shared address")},
    ),
    "a relaxed arrival": (
        """
        mapa.shared::cluster.u32 far, one, peer;
        MEET
        @leader st.shared::cluster.b32 [far], tid;
        barrier.cluster.arrive.relaxed;
        barrier.cluster.wait;
        @leader ld.shared.b32 sum, [one];
        """,
        {"": both("race: .*shared address")},
    ),
    "write, a relaxed arrival at an mbarrier": (
        """
        @leader st.shared.b32 [one], tid;
        @leader mbarrier.arrive.relaxed.cta.shared::cta.b64 _, [full];
        AWAIT_FULL
        @w1 ld.shared.b32 sum, [one];
        MEET
        """,
        {"": both("race: .*shared address")},
    ),
    "write, arrival, a relaxed wait": (
        """
        @leader st.shared.b32 [one], tid;
        @leader mbarrier.arrive.shared::cta.b64 _, [full];
        AWAIT_FULL_RELAXED
        AWAIT_FULL  // NEEDS wait
        @w1 ld.shared.b32 sum, [one];
        MEET
        """,
        {"wait": both("race: .*shared address")},
    ),
    "mbarriers for the peer": (
        """
        @leader mbarrier.init.shared.b64 [two+512], 1;
        @leader fence.mbarrier_init.release.cluster;  // NEEDS fence
        barrier.cluster.arrive.relaxed;
        barrier.cluster.wait;
        mapa.shared::cluster.u32 far, two, peer;
        @leader mbarrier.arrive.shared::cluster.b64 _, [far+512];
        { .reg .pred q; AGAIN: mbarrier.try_wait.parity.shared.b64 q, [two+512], 0;
          @!q bra AGAIN; }
        MEET
        """,
        {"fence": both("race: .*mbarrier.init")},
    ),
    "write, arrival at the peer": (
        """
        mapa.shared::cluster.u32 far, one, peer;
        mapa.shared::cluster.u32 at, full, peer;
        MEET
        @leader st.shared::cluster.b32 [far], tid;
        @leader mbarrier.arrive.shared::cluster.b64 _, [at];
        AWAIT_FULL  // NEEDS wait
        ld.shared.b32 sum, [one];
        MEET
        """,
        {"wait": both("race: ")},
    ),
    "copy to the peer": (
        """
        mapa.shared::cluster.u32 far, two, peer;
        mapa.shared::cluster.u32 at, full, peer;
        @leader EXPECT
        MEET
        @leader cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes
          [far], [one], 256, [at];
        AWAIT_FULL  // NEEDS wait
        ld.shared.b32 sum, [two];
        MEET  // NEEDS barrier
        @leader st.shared.b32 [one], z;
        AWAIT_FULL
        MEET
        """,
        {"wait": both("race: |uninitialised"), "barrier": both("race: |uninitialised")},
    ),
    "an arrival at a CTA that has exited": (
        """
        mapa.shared::cluster.u32 at, copied, peer;
        mov.u32 count, 0;
        MEET
        @odd bra END;
        LATER:
        add.u32 count, count, 1;
        setp.lt.u32 w1, count, 4000;
        @w1 bra LATER;
        @leader mbarrier.arrive.shared::cluster.b64 _, [at];
        END:
        MEET  // NEEDS barrier
        """,
        {"barrier": both("mbarrier: .* of CTA 1, which has exited")},
    ),
}
