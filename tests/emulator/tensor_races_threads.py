"""Race rules of tensor memory between threads, and its release; see tensor_races.py."""

from tensor_races import (
    AFTER,
    BEFORE_LD,
    BEFORE_MMA,
    BEFORE_ST,
    LOADED,
    MULTIPLIED,
    STORED,
    both,
    strict,
)

# name: (body, {edge: (finding at ptx, finding at hardware)})
THREADS = {
    "products of two threads": (
        """
        @leader MMA
        @leader BEFORE  // NEEDS before
        @w0 bar.arrive 1, 64;
        @w4 bar.sync 1, 64;  // NEEDS barrier
        @leader4 AFTER  // NEEDS after
        @leader4 MMA
        @leader4 COMMIT
        AWAIT_DONE
        AFTER
        @w0 LOAD
        """,
        {
            "before": strict(BEFORE_MMA),
            "barrier": both("race: .*tcgen05.mma|barrier-count"),
            "after": strict(BEFORE_MMA),
        },
    ),
    "a product after the hand-over": (
        """
        @leader MMA
        @leader BEFORE
        @w0 bar.arrive 1, 64;
        @leader MMA
        @leader COMMIT_OTHER
        @w4 bar.sync 1, 64;
        @leader4 AFTER
        @leader4 MMA
        @leader4 COMMIT
        AWAIT_DONE
        AWAIT_OTHER
        """,
        {"": both("race: .*tcgen05.mma")},
    ),
    "stored by another warp": (
        """
        @w0 STORE
        @w0 WAIT_ST  // NEEDS wait
        @w0 BEFORE  // NEEDS before
        @w0 bar.arrive 1, 64;  // NEEDS arrival
        @w4 bar.sync 1, 64;
        @w4 AFTER  // NEEDS after
        @w4 LOAD
        """,
        {
            "wait": both(STORED),
            "before": strict(BEFORE_ST),
            "arrival": both("deadlock"),
            "after": strict(AFTER),
        },
    ),
    "stored by another warp, relaxed": (
        """
        @w0 STORE
        @w0 WAIT_ST  // NEEDS wait
        @w0 BEFORE  // NEEDS before
        @w0 bar.warp.sync -1;  // NEEDS met
        @leader mbarrier.arrive.relaxed.cluster.shared::cta.b64 _, [full];  // NEEDS arrival
        W4_AWAIT_FULL_RELAXED
        @w4 AFTER  // NEEDS after
        @w4 LOAD
        """,
        {
            "wait": both(STORED),
            "before": strict(BEFORE_ST),
            "met": strict("race: .*tcgen05.st.*missing: bar.warp.sync after it"),
            "arrival": both("deadlock"),
            "after": strict(AFTER),
        },
    ),
    "an operand after a relaxed wait": (
        """
        @leader MMA
        @leader COMMIT
        AWAIT_DONE_RELAXED
        @leader st.shared.b32 [image_b], z;
        AWAIT_DONE
        """,
        {"": both("race: .*write to shared address.*tcgen05.mma")},
    ),
    "stored by another warp: the consumer waits": (
        """
        @w0 STORE
        @w0 BEFORE
        @w0 bar.arrive 1, 64;
        @w4 bar.sync 1, 64;
        @w4 AFTER
        @w4 WAIT_ST
        @w4 LOAD
        """,
        {"": both(STORED)},
    ),
    "loaded by another warp": (
        """
        @w0 LOAD
        @w0 WAIT_LD  // NEEDS wait
        @w0 BEFORE  // NEEDS before
        @w0 bar.arrive 1, 64;
        @w4 bar.sync 1, 64;
        @w4 AFTER  // NEEDS after
        @w4 STORE
        """,
        {"wait": both(LOADED), "before": strict(BEFORE_LD), "after": strict(AFTER)},
    ),
    "loaded and used by another warp": (
        """
        @w0 LOAD
        @w0 USE
        @w0 WAIT_LD  // NEEDS wait
        @w0 BEFORE  // NEEDS before
        @w0 bar.arrive 1, 64;
        @w4 bar.sync 1, 64;
        @w4 AFTER  // NEEDS after
        @w4 STORE
        """,
        {"wait": strict(LOADED), "before": strict(BEFORE_LD), "after": strict(AFTER)},
    ),
    "loaded by another warp: the consumer waits": (
        """
        @w0 LOAD
        @w0 BEFORE
        @w0 bar.arrive 1, 64;
        @w4 bar.sync 1, 64;
        @w4 AFTER
        @w4 WAIT_LD
        @w4 STORE
        """,
        {"": both(LOADED)},
    ),
    "a commit of another thread": (
        """
        @leader MMA
        @leader BEFORE
        @w0 bar.arrive 1, 64;
        @leader COMMIT_OTHER
        @w4 bar.sync 1, 64;
        @leader4 COMMIT
        AWAIT_DONE
        AFTER
        @w4 LOAD
        AWAIT_OTHER
        """,
        {"": both(MULTIPLIED)},
    ),
    "stored by another warp, product": (
        """
        @w4 STORE_A
        @w4 WAIT_ST
        @w4 BEFORE
        @w4 bar.warp.sync -1;  // NEEDS met
        @leader4 mbarrier.arrive.shared.b64 _, [full];  // NEEDS arrival
        LEADER_AWAIT_FULL  // NEEDS wait
        @leader AFTER  // NEEDS after
        @leader MMA_TMEM
        @leader COMMIT
        AWAIT_DONE
        """,
        {
            "met": strict("race: .*tcgen05.st.*missing: bar.warp.sync after it"),
            "arrival": both("deadlock"),
            "wait": both("race: .*tcgen05.(st|mma)"),
            "after": strict(AFTER),
        },
    ),
    "passed on by a third": (
        """
        @w0 STORE
        @w0 WAIT_ST
        @w0 BEFORE  // NEEDS before
        @w0 bar.warp.sync -1;
        @leader mbarrier.arrive.shared.b64 _, [full];
        W4_AWAIT_FULL
        @leader4 mbarrier.arrive.shared.b64 _, [other];
        QUADRANTS_AWAIT_OTHER
        bar.sync 0;
        @w4 AFTER  // NEEDS after
        @w4 LOAD
        """,
        {"before": strict(BEFORE_ST), "after": strict(AFTER)},
    ),
    "free while a product writes": (
        """
        @leader MMA
        @leader COMMIT
        AWAIT_DONE  // NEEDS wait
        """,
        {"wait": both("race: .*tcgen05.mma.*(\n.*)*tcgen05.dealloc")},
    ),
    "free while others load": (
        """
        @w4 LOAD
        @w4 WAIT_LD
        @w4 BEFORE  // NEEDS before
        bar.sync 0;
        @w0 bra DEALLOCATE;
        ret;
        DEALLOCATE:
        @w0 tcgen05.dealloc.cta_group::1.sync.aligned.b32 d, 256;
        ret;
        """,
        {
            "before": strict(
                "race: .*tcgen05.ld.*missing: a tcgen05.fence::before_thread_sync in warp 4"
            )
        },
    ),
}
