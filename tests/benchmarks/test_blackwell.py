"""SASS taken apart: an excerpt of a kernel, and small programs written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.blackwell.pipes import PIPES, by_pipe, pipe_of
from benchmarks.blackwell.roles import passes
from benchmarks.blackwell.sass import Instruction, Program

EXCERPT = Path(__file__).with_name("correction.sass").read_text()


def _program(*lines: str) -> Program:
    """Lines are labels ("name:") or instructions, which get addresses."""
    places = iter(range(0, 16 * len(lines), 16))
    text = [
        f".L_{line}" if line.endswith(":") else f"        /*{next(places):04x}*/  {line} ;"
        for line in lines
    ]
    return Program("\n".join(text))


def test_the_loop_of_a_role_is_found():
    (found,) = passes(Program(EXCERPT))
    assert found.role == "correction"
    assert found.registers == 72
    assert found.shortest[0].address == found.longest[0].address == 0x9D50
    assert found.shortest[-1].opcode == "BRA.U"


def test_a_pass_counts_what_is_executed():
    (found,) = passes(Program(EXCERPT))
    # Without a rescale nothing is multiplied; with one, 64 columns in 4 loads and 4 stores.
    assert by_pipe(found.shortest)["fma"] == by_pipe(found.shortest)["tmem"] == 0
    scaling = by_pipe(found.longest)
    assert (scaling["fma"], scaling["tmem"]) == (32, 8)
    # The wait that lies apart is not of the pass: it is counted as succeeding at once.
    assert not any("NANOSLEEP" in each.opcode for each in found.longest)
    assert sum("TRYWAIT" in each.opcode for each in found.longest) == 1
    loop = EXCERPT[EXCERPT.index(".L_x_31") : EXCERPT.index("EXIT")]
    assert len(found.longest) == loop.count(" ;")


def test_blocks_end_at_branches_and_begin_at_labels():
    program = _program("MOV R0, R1", "@!P0 BRA `(.L_b)", "a:", "IADD3 R0", "b:", "EXIT")
    assert [len(block.instructions) for block in program.blocks] == [2, 1, 1]
    assert [block.successors for block in program.blocks] == [[2, 1], [2], []]
    assert not program.loops


def test_conditions_of_uniform_branches():
    program = _program("BRA.U !UP0, `(.L_b)", "NOP", "b:", "BRA `(.L_b)")
    assert program.blocks[0].successors == [2, 1]
    assert program.blocks[2].successors == [2]
    assert [loop.blocks for loop in program.loops] == [frozenset({2})]


def test_indirect_branches():
    program = _program('BRX R2 -0x10 (*"BRANCH_TARGETS .L_b,.L_c"*)', "b:", "EXIT", "c:", "EXIT")
    assert program.blocks[0].successors == [1, 2]


def test_inner_loops_lie_in_outer_ones():
    program = _program(
        *("NOP", "out:", "NOP", "in:", "NOP", "@P0 BRA `(.L_in)", "@P1 BRA `(.L_out)", "EXIT")
    )
    inner, outer = program.loops
    assert inner.blocks < outer.blocks


def test_the_next_function_is_not_read():
    second = "        /*0000*/  NOP ;"
    assert len(list(Program(f"{second}\n        /*0010*/  EXIT ;\n{second}").instructions)) == 2


@pytest.mark.parametrize(
    ("opcode", "operands", "pipe"),
    [
        ("UTCHMMA.2CTA", "gdesc[UR4], gdesc[UR6]", "tensor"),
        ("MUFU.EX2", "R0, R1", "mufu"),
        ("FFMA2", "R0, R1, R2, R3", "fma"),
        ("IMAD", "R108, R108, 0x800000, R72", "fma"),
        ("IMAD.MOV.U32", "R0, RZ, RZ, R1", "moves"),
        ("HFMA2", "R3, -RZ, RZ, 0, 1.4e-05", "moves"),
        ("F2FP.BF16.F32.PACK_AB", "R0, R1, R2", "alu"),
        ("FMNMX3", "R0, R1, R2, R3, !PT", "alu"),
        ("LDTM.x32", "R0, tmem[UR4]", "tmem"),
        ("LDS", "R0, [R1]", "lsu"),
        ("UTMALDG.4D", "[UR32], [UR14], desc[URZ]", "tma"),
        ("SYNCS.ARRIVE.TRANS64.A1T0", "RZ, [UR8], RZ", "sync"),
        ("ULOP3.LUT", "UR6, UR5, 0x1, URZ", "uniform"),
        ("BRA.U", "UP0, `(.L_x_31)", "branch"),
    ],
)
def test_pipes(opcode, operands, pipe):
    assert pipe_of(Instruction(0, "", opcode, operands)) == pipe
    assert pipe in PIPES


def test_what_is_no_disassembly_is_said():
    with pytest.raises(ValueError, match="nvdisasm"):
        Program("error: no such file")
