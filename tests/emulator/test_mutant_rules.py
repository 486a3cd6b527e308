"""The rules by which a mutant that nothing catches is explained, on few lines each."""

import pytest
from mutant_checks import Survivor, later_commit
from mutant_fences import fence_passes_wait, fenced_behind, nothing_before
from mutant_text import Text
from mutants import Mutant

AFTER, BEFORE = "tcgen05.fence::after_thread_sync;", "tcgen05.fence::before_thread_sync;"
LOAD = "tcgen05.ld.sync.aligned [%r2];"
ARRIVE = "mbarrier.arrive.shared.b64 _, [%r3];"
COMMIT = "@p tcgen05.commit.cta_group::1.mbarrier::arrive::one.b64 [%r3];"
WAITED = "tcgen05.wait::ld.sync.aligned;"
LEARN = "mbarrier.try_wait.parity.shared.b64 P1, [%r4], %r5;"


@pytest.mark.parametrize(
    ("lines", "at", "elsewhere"),
    [
        ((LEARN, AFTER, LOAD), 1, False),
        ((LEARN, AFTER, "add", AFTER, LOAD), 1, True),
        ((LEARN, AFTER, "add", AFTER, LOAD), 3, True),
        ((LEARN, AFTER, LEARN, AFTER, LOAD), 3, False),
        ((LEARN, AFTER, "@p bra $L;", AFTER, "$L:", LOAD), 1, False),
        ((LEARN, AFTER, "@p bra $L;", AFTER, "$L:", LOAD), 3, True),
        ((LEARN, AFTER, "@p bra $L;", AFTER, LOAD, "$L:", ARRIVE), 1, True),
        ((LOAD, BEFORE, ARRIVE), 1, False),
        ((LOAD, "@p bra $L;", BEFORE, "$L:", BEFORE, ARRIVE), 2, True),
        ((LOAD, "@p bra $L;", BEFORE, "$L:", BEFORE, ARRIVE), 4, False),
        (("@p bra $L;", LOAD, BEFORE, "$L:", BEFORE, ARRIVE), 4, True),
        (("@p tcgen05.mma [%r1];", COMMIT, BEFORE, ARRIVE), 2, True),
        (("@p tcgen05.mma [%r1];", LOAD, COMMIT, BEFORE, ARRIVE), 3, False),
        (("@p tcgen05.mma [%r1];", COMMIT, BEFORE, "@p tcgen05.mma [%r2];", ARRIVE), 2, False),
        ((LOAD, BEFORE, "@p tcgen05.mma [%r2];", BEFORE, ARRIVE), 1, False),
        (("$M:", LOAD, "$L:", BEFORE, ARRIVE, "@p bra $M;"), 3, False),
        (("$M:", "@p bra $L;", LOAD, "$L:", BEFORE, ARRIVE, "bra $M;"), 4, False),
    ],
)
def test_a_fence_is_needed_unless_others_stand_on_every_path(lines, at, elsewhere):
    assert Text("\n".join(lines)).fenced_elsewhere(at) is elsewhere


@pytest.mark.parametrize(
    ("again", "kinds", "nothing"),
    [
        (False, {"deadlock"}, True),
        (False, {"", "deadlock"}, True),
        (False, {"deadlock", "mbarrier"}, False),  # the fault that stands for a load
        (True, {"deadlock"}, False),
    ],
)
def test_a_first_fence_orders_nothing(again, kinds, nothing):
    lines = ["{", "$L:", LEARN, AFTER, LOAD, "@p bra $L;" if again else "ret;"]
    run_texts = []
    mutant = Mutant(4, f"drop {AFTER}", "drop fence", "")
    tried = Survivor(mutant, "\n".join(lines), lambda x: run_texts.append(x) or kinds, 1, bool)
    assert nothing_before(tried) is nothing
    for text in run_texts:
        assert text.split("\n")[3] == "ret;"
        assert LOAD not in text


def test_a_warp_that_passes_by_ends_too():
    lines = ["{", "@p bra $L;", "add;", "@q bra $M;", AFTER, "$M:", LOAD, "$L:", "ret;", "}"]
    ended = Text("\n".join(lines)).stops_at_tensor_memory(4).split("\n")
    assert ended[:6] == ["{", "@p ret;", "add;", "@q ret;", "ret;", "$M:"]
    lines[3] = "@q bra $N;"
    lines[4:6] = ["$M:", "$N:", AFTER]
    lines[1] = "@p bra $M;"
    ended = Text("\n".join(lines)).stops_at_tensor_memory(6).split("\n")
    assert ended[1:4] == ["@p bra $M;", "add;", "@q bra $N;"]


@pytest.mark.parametrize(
    ("lines", "waits"),
    [
        ((WAITED, ARRIVE, LOAD, WAITED, "ret;"), True),
        ((WAITED, ARRIVE, "@p bra $L;", LOAD, WAITED, "$L:", "ret;"), False),
        ((WAITED, ARRIVE, "@p bra $L;", LOAD, "$L:", WAITED, "ret;"), True),
    ],
)
def test_loads_are_waited_for_later_only_on_every_path(lines, waits):
    assert Text("\n".join(lines)).waits_for_loads_after(0) is waits


def test_a_load_that_is_not_waited_for_before_a_thread_ends_stops_it():
    lines = ["{", WAITED, ARRIVE, "@p bra $L;", WAITED, "$L:", "@q ret;", "ret;", "}"]
    stopped = Text("\n".join(lines)).stops_if_ended_before_wait(1).split("\n")
    assert stopped[1] == "mov.u32 open, 1; "
    assert stopped[2] == ARRIVE
    assert stopped[4].startswith("mov.u32 open, 0;")
    assert all(line.startswith("setp.ne.u32 is_open, open, 0; @is_open") for line in stopped[6:8])
    assert stopped[6].endswith("@q ret;")


@pytest.mark.parametrize(
    ("first", "second", "more", "later"),
    [
        (144, 152, "", True),
        (152, 144, "", False),
        (144, 152, "mbarrier.arrive.shared.b64 _, [%r1+152];", False),
        (144, 160, "", False),
    ],
)
def test_a_later_commit_may_be_waited_for(first, second, more, later):
    def wait(register):
        return f"mbarrier.try_wait.parity.shared.b64 P1, {register}, 0, 10000000;"

    lines = ["add.s32 %r2, %r1, 144;", wait("[%r2]"), f"add.s32 %r3, %r1, {first};"]
    lines += [COMMIT, f"add.s32 %r6, %r1, {second};", COMMIT.replace("%r3", "%r6"), more, "ret;"]
    text = "\n".join(lines)
    mutant = Mutant(2, "+8", "change stage", text.replace("[%r2]", "[%r2+8]"))
    assert later_commit(Survivor(mutant, text, set, 1, bool)) is later


@pytest.mark.parametrize(
    ("again", "kinds", "ordered"),
    [(True, {"", "race"}, True), (True, {""}, False), (False, {"race"}, False)],
)
def test_fences_behind_may_do_the_work_of_one(again, kinds, ordered):
    lines = ["{", LOAD, BEFORE, ARRIVE, BEFORE if again else AFTER, ARRIVE, "ret;", "}"]
    run_texts = []
    mutant = Mutant(3, f"drop {BEFORE}", "drop fence", "")
    tried = Survivor(mutant, "\n".join(lines), lambda x: run_texts.append(x) or kinds, 1, bool)
    assert fenced_behind(tried) is ordered
    assert all(BEFORE not in text for text in run_texts)


@pytest.mark.parametrize(
    ("lines", "released"),
    [
        (("fence", "@p bra $L;", "add;", "$L:", "barrier.cluster.arrive;", "ret;"), True),
        (("fence", "barrier.cluster.arrive.relaxed;", "barrier.cluster.arrive;", "ret;"), False),
        (("fence", ARRIVE, "barrier.cluster.arrive;", "ret;"), False),
        (("fence", "bar.sync 0;", "barrier.cluster.arrive;", "ret;"), False),
    ],
)
def test_a_barrier_of_the_cluster_releases_unless_relaxed(lines, released):
    assert Text("\n".join(lines)).releases_after(0) is released


@pytest.mark.parametrize(
    ("what", "spared"),
    [
        (f"later fence.proxy.async; past {LEARN}", True),
        (f"later fence.proxy.async; past {ARRIVE}", False),
        (f"earlier fence.proxy.async; past {LEARN}", False),
    ],
)
def test_a_proxy_fence_may_pass_a_wait_alone(what, spared):
    mutant = Mutant(1, what, "move fence", "")
    assert fence_passes_wait(Survivor(mutant, "fence.proxy.async;", set, 1, bool)) is spared
