"""Race rules of bulk copies; see copy_races.py."""

from copy_races import LOADED, PROXY, RACE, READ, UNFINISHED, WRITTEN
from tensor_races import both, strict

# name: (body, {edge: (finding at ptx, finding at hardware)})
BULK = {
    "write, load": (
        """
        @leader st.shared.b32 [one], z;
        @leader FENCE  // NEEDS fence
        @leader EXPECT
        @leader LOAD
        AWAIT_FULL
        """,
        {"fence": both(PROXY)},
    ),
    "another reads, load": (
        """
        @w1 ld.shared.b32 sum, [one];
        bar.sync 0;  // NEEDS barrier
        @leader FENCE  // NEEDS fence
        @leader EXPECT
        @leader LOAD
        AWAIT_FULL
        """,
        {"barrier": both("race: |uninitialised"), "fence": strict(PROXY)},
    ),
    "load, read": (
        """
        @leader EXPECT
        @leader LOAD
        AWAIT_FULL  // NEEDS wait
        ld.shared.b32 sum, [one];
        """,
        {"wait": both("race: .*(cp.async.bulk|ld.shared)|uninitialised")},
    ),
    "bulk load, write": (
        """
        @leader EXPECT
        @leader BULK_LOAD
        LEADER_AWAIT_FULL  // NEEDS wait
        @leader st.shared.b32 [one], z;
        AWAIT_FULL
        """,
        {"wait": both(LOADED)},
    ),
    "bulk load, nobody waits": (
        """
        @leader EXPECT
        @leader BULK_LOAD
        AWAIT_FULL  // NEEDS wait
        """,
        {"wait": both(UNFINISHED)},
    ),
    "load, load": (
        """
        @leader EXPECT
        @leader LOAD
        LEADER_AWAIT_FULL  // NEEDS wait
        @leader EXPECT
        @leader LOAD
        LEADER_AWAIT_FULL_AGAIN
        """,
        {"wait": both("race: |mbarrier: |unfinished")},
    ),
    "expected bytes": (
        """
        @leader EXPECT  // NEEDS arrival
        @leader LOAD
        AWAIT_FULL
        """,
        {"arrival": both("deadlock: (.|\\n)*lacks 1 of 1 arrivals and -256 bytes")},
    ),
    "write, store": (
        """
        @w1 st.shared.b32 [one], z;
        FENCE  // NEEDS fence
        bar.sync 0;  // NEEDS barrier
        @leader STORE
        @leader GROUP  // NEEDS group
        @leader WAIT_READ  // NEEDS wait
        """,
        {
            "fence": both("race: .*st.shared"),
            "barrier": both(RACE),
            "group": strict("unfinished: "),
            "wait": strict("unfinished: "),
        },
    ),
    "store, write": (
        """
        @leader STORE
        @leader GROUP
        @leader WAIT_READ  // NEEDS wait
        @leader st.shared.b32 [one], z;
        @leader WAIT_READ
        """,
        {"wait": both(READ)},
    ),
    "reduce, write": (
        """
        @leader REDUCE
        @leader GROUP
        @leader WAIT_READ  // NEEDS wait
        @leader st.shared.b32 [one], z;
        @leader WAIT_READ
        """,
        {"wait": both(READ)},
    ),
    "bulk store, read of what it wrote": (
        """
        @leader BULK_STORE
        @leader GROUP
        @leader WAIT  // NEEDS wait
        @leader ld.global.b32 sum, [to];
        @leader WAIT
        """,
        {"wait": both(WRITTEN)},
    ),
    "bulk store, only its read is waited for": (
        """
        @leader BULK_STORE
        @leader GROUP
        @leader WAIT_READ
        @leader st.shared.b32 [one], z;
        @leader ld.global.b32 sum, [to];
        """,
        {"": both(WRITTEN)},
    ),
    "two groups, the first is waited for": (
        """
        @leader BULK_STORE
        @leader GROUP
        @leader BULK_STORE_2
        @leader GROUP
        @leader cp.async.bulk.wait_group.read 1;
        @leader st.shared.b32 [one], z;
        @leader cp.async.bulk.wait_group.read 2;
        @leader WAIT_READ  // NEEDS wait
        @leader st.shared.b32 [two], z;
        @leader WAIT_READ
        """,
        {"wait": both(READ)},
    ),
    "another thread waits for the group": (
        """
        @leader BULK_STORE
        @leader GROUP
        bar.sync 0;
        @other WAIT_READ
        @other st.shared.b32 [one], z;
        @leader WAIT_READ
        """,
        {"": both(READ)},
    ),
    "the group's thread tells another": (
        """
        @leader BULK_STORE
        @leader GROUP
        @leader WAIT_READ
        bar.sync 0;  // NEEDS barrier
        @other st.shared.b32 [one], z;
        """,
        {"barrier": both("race: ")},
    ),
}
