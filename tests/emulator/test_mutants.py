"""The mutators on a small kernel: what they make, and that the emulator catches it.

mutate.py runs them on whole kernels, which takes minutes; MUTATION.md has what came out.
"""

import re

import numpy as np
import pytest
from mutant_checks import Survivor, over_when_used
from mutant_reasons import reason
from mutants import chosen, marked, mutants
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


def test_only_what_a_twin_does_not_have():
    renamed = PTX.replace("%r3", "%r13").replace("$L_made", "$L_done")
    assert not list(chosen(PTX, 1, renamed))
    assert list(chosen(PTX, 1, "")) == list(mutants(PTX))
    assert list(chosen(PTX, 3, "")) == list(mutants(PTX))[::3]
    without = PTX.replace("bar.sync 0;", "", 1)
    (line,) = {mutant.line for mutant in chosen(PTX, 1, without)} - {
        mutant.line for mutant in mutants(PTX) if "bar.sync" not in mutant.what
    }
    assert "bar.sync 0" in PTX.split("\n")[line - 1]
