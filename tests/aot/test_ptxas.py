"""What ptxas_check.py makes of ptxas's words; the tool itself needs a ptxas."""

import pytest

from tests.aot.ptxas_check import Assembled, parse, retargeted, table

SAID = """ptxas info    : 0 bytes gmem
ptxas info    : Function properties for kernel
    16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 16 bytes cumulative stack size
"""


def test_registers_stack_and_spills():
    assert parse("x", "sm_100f", SAID) == Assembled("x", "sm_100f", 128, 16, 20)


def test_what_does_not_assemble():
    said = "ptxas kernel.ptx, line 8; error   : Instruction 'x' not supported on .target 'sm_103a'"
    assert parse("x", "sm_103a", said).words == f"does not assemble: {said}"


@pytest.mark.parametrize("line", [".target sm_100f", ".target\tsm_100f, debug"])
def test_only_the_target_changes(line):
    text = f".version 8.8\n{line}\n// .target sm_100f\n"
    assert retargeted(text, "sm_103a") == text.replace("sm_100f", "sm_103a", 1)


def test_the_table():
    row = parse("x", "sm_100f", SAID)
    assert list(table("13.5", {"x": ("128 / 0", [row] * 3)}))[-1] == (
        "| x | 128 / 0 | 128 / 16 / 20 | 128 / 16 / 20 | 128 / 16 / 20 |"
    )
