"""Race rules of tensor memory between instructions of one thread or warp; see tensor_races.py."""

from tensor_races import AFTER, LOADED, MULTIPLIED, OPERAND, STORED, both, strict

# name: (body, {edge: (finding at ptx, finding at hardware)})
ONE_THREAD = {
    "store, load": (
        """
        @w0 STORE
        @w0 WAIT_ST  // NEEDS wait
        @w0 LOAD
        """,
        {"wait": both(STORED)},
    ),
    "store, load: waits for other things": (
        """
        @w0 STORE
        @w0 WAIT_LD
        @leader COMMIT
        AWAIT_DONE
        @w0 LOAD
        """,
        {"": both(STORED)},
    ),
    "load, store": (
        """
        @w0 LOAD
        @w0 WAIT_LD  // NEEDS wait
        @w0 STORE
        """,
        {"wait": both(LOADED)},
    ),
    "load, use, store": (
        """
        @w0 LOAD
        @w0 USE
        @w0 WAIT_LD  // NEEDS wait
        @w0 STORE
        """,
        {"wait": strict(LOADED)},
    ),
    "load, copy, store": (
        """
        @w0 LOAD
        @w0 mov.b32 sum, v0;
        @w0 WAIT_LD  // NEEDS wait
        @w0 STORE
        """,
        {"wait": both(LOADED)},
    ),
    "load, store: waits for other things": (
        """
        @w0 LOAD
        @w0 WAIT_ST
        @leader COMMIT
        AWAIT_DONE
        @w0 STORE
        """,
        {"": both(LOADED)},
    ),
    "a load's registers are written": (
        """
        @w0 LOAD
        @w0 WAIT_LD  // NEEDS wait
        @w0 mov.b32 v3, 0;
        """,
        {"wait": strict("register-in-flight: register v3 is written while a tcgen05.ld")},
    ),
    "a load's registers are used at once": ("@w0 LOAD\n @w0 USE\n", {}),
    "load, load": ("@w0 LOAD\n @w0 WAIT_LD\n @w0 LOAD\n @w4 LOAD\n", {}),
    "store, store": (
        """
        @w0 STORE
        @w0 WAIT_ST  // NEEDS wait
        @w0 STORE
        """,
        {"wait": both(STORED)},
    ),
    "store A, product": (
        """
        @w0 STORE_A
        @w0 WAIT_ST  // NEEDS wait
        @leader MMA_TMEM
        @leader COMMIT
        AWAIT_DONE
        """,
        {"wait": both(STORED)},
    ),
    "store D, product": (
        """
        @w0 STORE
        @w0 WAIT_ST  // NEEDS wait
        @leader MMA
        @leader COMMIT
        AWAIT_DONE
        """,
        {"wait": both(STORED)},
    ),
    "load D, product": (
        """
        @w0 LOAD
        @w0 WAIT_LD  // NEEDS wait
        @leader MMA
        @leader COMMIT
        AWAIT_DONE
        """,
        {"wait": both(LOADED)},
    ),
    "product, load": (
        """
        @leader MMA
        @leader COMMIT  // NEEDS commit
        AWAIT_DONE  // NEEDS wait
        AFTER  // NEEDS fence
        @w0 LOAD
        """,
        {"commit": both("deadlock"), "wait": both(MULTIPLIED), "fence": strict(AFTER)},
    ),
    "product, store to D": (
        """
        @leader MMA
        @leader COMMIT
        AWAIT_DONE  // NEEDS wait
        AFTER  // NEEDS fence
        @w0 STORE
        """,
        {"wait": both(MULTIPLIED), "fence": strict(AFTER)},
    ),
    "product, store to A": (
        """
        @leader MMA_TMEM
        @leader COMMIT
        AWAIT_DONE  // NEEDS wait
        AFTER  // NEEDS fence
        @w0 STORE_A
        """,
        {"wait": both(MULTIPLIED), "fence": strict(AFTER)},
    ),
    "products of one accumulator are in order": (
        "@leader MMA\n @leader MMA\n @leader COMMIT\n AWAIT_DONE\n AFTER\n @w0 LOAD\n",
        {},
    ),
    "products of different shapes": (
        """
        @leader MMA
        @leader COMMIT
        AWAIT_DONE  // NEEDS wait
        @leader AFTER  // NEEDS fence
        @leader MMA_NARROW
        @leader COMMIT_OTHER
        AWAIT_OTHER
        """,
        {"wait": strict(MULTIPLIED), "fence": strict(AFTER)},
    ),
    "a fence orders products of one thread": (
        """
        @leader MMA
        BEFORE  // NEEDS fence
        @leader MMA_NARROW
        @leader COMMIT
        AWAIT_DONE
        """,
        {"fence": strict(MULTIPLIED)},
    ),
    "a fence after both products orders nothing": (
        """
        @leader MMA
        @leader MMA_NARROW
        BEFORE
        @leader COMMIT
        AWAIT_DONE
        """,
        {"": strict(MULTIPLIED)},
    ),
    "a commit tracks what comes before it": (
        """
        @leader MMA
        @leader COMMIT
        @leader MMA_2
        @leader COMMIT_OTHER
        AWAIT_DONE
        AFTER
        @w0 LOAD
        @w0 WAIT_LD
        AWAIT_OTHER  // NEEDS wait
        AFTER  // NEEDS fence
        @w0 LOAD_2
        """,
        {"wait": both(MULTIPLIED), "fence": strict(AFTER)},
    ),
    "commits to two mbarriers": (
        """
        @leader MMA
        @leader COMMIT
        @leader COMMIT_OTHER
        AWAIT_OTHER
        AFTER
        @w0 LOAD
        AWAIT_DONE
        """,
        # Nothing orders the two arrivals: without the last wait one may come after the CTA's exit.
        {},
    ),
    "operand written, product": (
        """
        @w0 st.shared.b32 [image_a], z;
        @w0 fence.proxy.async.shared::cta;  // NEEDS fence
        @w0 bar.warp.sync -1;  // NEEDS met
        @leader MMA
        @leader COMMIT
        AWAIT_DONE
        """,
        {
            "fence": both("race: .*read of shared address.*missing: fence.proxy.async"),
            "met": strict("race: .*read of shared address.*missing: bar.warp.sync after it"),
        },
    ),
    "product, operand stored to": (
        """
        @leader MMA
        @leader COMMIT
        AWAIT_DONE  // NEEDS wait
        @w0 st.shared.b32 [image_b], z;
        """,
        {"wait": both(OPERAND)},
    ),
    "product, operand loaded by TMA": (
        """
        @leader MMA
        @leader COMMIT
        LEADER_AWAIT_DONE  // NEEDS wait
        @leader mbarrier.arrive.expect_tx.shared.b64 _, [full], 256;
        @leader TMA
        AWAIT_FULL
        AWAIT_DONE
        """,
        {"wait": both(OPERAND)},
    ),
    "operand loaded by TMA, product": (
        """
        @leader mbarrier.arrive.expect_tx.shared.b64 _, [full], 256;
        @leader TMA
        LEADER_AWAIT_FULL  // NEEDS wait
        @leader MMA
        @leader COMMIT
        AWAIT_FULL
        AWAIT_DONE
        """,
        {"wait": both("race: .*read of shared address.*cp.async.bulk.tensor")},
    ),
    "a copy's arrival says nothing of products": (
        """
        @leader MMA
        @leader mbarrier.arrive.expect_tx.shared.b64 _, [full], 256;
        @leader cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes
          [image_c], [to], 256, [full];
        AWAIT_FULL
        AFTER
        @leader COMMIT
        @w0 LOAD
        AWAIT_DONE
        """,
        {"": both("race: .*tcgen05.mma")},
    ),
}
