"""The mutators on a small kernel: what they make, and that the emulator catches it.

mutate.py runs them on whole kernels, which takes minutes; MUTATION.md has what came out.
"""

import re

import numpy as np
import pytest
from mutant_checks import Survivor, later_commit, over_when_used
from mutant_fences import fence_passes_wait, fenced_behind, nothing_before
from mutant_reasons import reason
from mutant_text import Text
from mutants import Mutant, marked, mutants
from subjects import Sums, plain

PTX = """
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
  mov.u32 %r1, memory;
  mov.b32 %r2, 1;
  mov.b32 %r3, 128;
  mov.b32 %r4, 0;
  setp.ne.b32 %p0, %r0, 0;
  @%p0 bra $L_made;
  mbarrier.init.shared.b64 [%r1], %r2;
  mbarrier.init.shared.b64 [%r1+8], %r2;
$L_made:
  bar.sync 0;
  @%p0 bra $L_loaded;
  mbarrier.arrive.expect_tx.shared.b64 _, [%r1], %r3;
  cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1+128], [%rd0], %r3, [%r1];
$L_loaded:
  {
  .reg .pred P1;
  LAB_WAIT:
  mbarrier.try_wait.parity.shared.b64 P1, [%r1], %r4, 10000000;
  @P1 bra.uni DONE;
  bra.uni LAB_WAIT;
  DONE:
  }
  ld.shared.b32 %r5, [%r1+128];
  add.s32 %r5, %r5, 1;
  mul.wide.u32 %rd1, %r0, 4;
  add.s64 %rd2, %rd0, %rd1;
  st.global.b32 [%rd2+128], %r5;
  ret;
}
"""
MUTANTS = list(mutants(PTX))


def run(run_ptx, text):
    values = np.zeros(96, np.uint32)
    values[:32] = 6
    run_ptx(text, values, block=(64, 1, 1), completion="latest")
    return values


def survives(run_ptx, finding, text):
    try:
        return bool((run(run_ptx, text)[32:] == 7).all())
    except finding:
        return False


def test_the_kernel_is_right(run_ptx):
    assert (run(run_ptx, PTX)[32:] == 7).all()


def test_every_mutator_that_applies_makes_some():
    families = {mutant.family for mutant in MUTANTS}
    assert families == {
        "drop init",
        "drop arrive",
        "drop copy",
        "drop barrier",
        "drop wait",
        "change bytes",
        "change count",
        "change barrier",
        "change parity",
        "change stage",
        "move wait",
    }


def test_one_fault_each():
    for mutant in MUTANTS:
        here = PTX.split("\n")[mutant.line - 1].strip()
        assert here
        changed = [x for x in zip(PTX.split("\n"), mutant.text.split("\n"), strict=True)]
        if not mutant.family.startswith("move"):
            (pair,) = (pair for pair in changed if pair[0] != pair[1])
            assert pair[0].strip() == here
        assert sorted(mutant.text.split()) != sorted(PTX.split()) or "move" in mutant.family


@pytest.fixture
def survivor(run_ptx, finding):
    """`survivor(mutant, ptx)` as mutate.py makes it of a mutant that nothing caught."""

    def kinds(ptx):
        try:
            run(run_ptx, ptx)
        except finding as error:
            return {str(error).split(":")[0]}
        return {""}

    def unchanged(ptx):
        return survives(run_ptx, finding, ptx)

    return lambda mutant, ptx: Survivor(mutant, ptx, kinds, 1, unchanged)


def test_they_are_caught_but_for_those_explained(run_ptx, finding, survivor):
    explained = 0
    for mutant in MUTANTS:
        if survives(run_ptx, finding, mutant.text):
            assert reason(survivor(mutant, PTX)), mutant
            explained += 1
    assert explained == 4  # of the second mbarrier, which nobody uses, and the barrier's number


def test_a_wait_is_needed_unless_others_take_as_long(survivor):
    wait = PTX[PTX.index("  {\n") : PTX.index("  ld.shared")]
    for ptx, spared in ((PTX, False), (PTX.replace(wait, wait + wait), True)):
        first = next(mutant for mutant in mutants(ptx) if mutant.family == "drop wait")
        assert over_when_used(survivor(first, ptx)) is spared


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


def test_sums_may_differ_by_rounding_and_other_results_may_not():
    sums = np.array([3, -4], np.float32)
    mine = Sums(sums.tobytes() + b"rest", 2)
    assert mine == Sums((sums * np.float32(1 + 1e-6)).tobytes() + b"rest", 2)
    assert mine != Sums((sums * np.float32(1 + 1e-4)).tobytes() + b"rest", 2)
    assert mine != Sums(sums.tobytes() + b"lest", 2)
    assert mine != Sums(np.array([3, np.nan], np.float32).tobytes() + b"rest", 2)


@pytest.mark.parametrize("words", ["mbarrier.init", "ld.shared", "ret"])
def test_marks_are_found_where_they_are_reached(words, run_ptx, finding):
    line = next(i for i, text in enumerate(PTX.split("\n"), 1) if words in text)
    with pytest.raises(finding, match="never initialised"):
        run(run_ptx, marked(PTX, line))


def test_a_block_in_one_line_is_mutated_by_statements():
    block = (
        "{{ .reg .pred p; elect.sync _|p, 0xffffffff; @p mbarrier.arrive.shared.b64 _, [%r1]; }}"
    )
    text = plain(PTX.replace("  ret;", f"  .loc 1 2 3\n  {block}\n  ret;"))
    assert ".loc" not in text
    last = text.split("\n").index("  ret;")
    assert text.split("\n")[last - 7 : last] == [
        "{",
        "{",
        ".reg .pred p;",
        "elect.sync _|p, 0xffffffff;",
        "@p mbarrier.arrive.shared.b64 _, [%r1];",
        "}",
        "}",
    ]
    families = {mutant.family for mutant in mutants(text) if "_, [%r1];" in mutant.what}
    assert families >= {"drop arrive", "change stage"}
    assert plain(text) == text


def test_a_move_passes_the_access():
    (mutant,) = (mutant for mutant in MUTANTS if mutant.family == "move wait")
    assert re.search(r"ld\.shared.*LAB_WAIT:", mutant.text, re.S)
