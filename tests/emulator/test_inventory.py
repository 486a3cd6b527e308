"""Every opcode that other people's kernels have is in a kernel that a test runs."""

import re
from pathlib import Path

import pytest
import tensor_forms
import tensor_shapes
import wgmma_kernels
from blackwell_cases import BLACKWELL
from instruction_cases import CASES
from narrow_cases import NARROW
from tensor_kernels import product
from write_cases import text as text_of_case

HERE = Path(__file__).parent
FILES = sorted((HERE / "ptx").glob("*.ptx"))
INVENTORY = [
    line for line in (HERE / "inventory.txt").read_text().split("\n") if line and line[0] != "#"
]


def opcodes(text):
    """The first word of each statement, behind labels and guards."""
    text = re.sub(r"//[^\n]*", "", text)
    statements = (part.strip() for part in re.split(r"[;{}\n]", text))
    words = (re.sub(r"^([\w$]+:\s*)?(@!?%?\w+\s+)?", "", part) for part in statements)
    return {match[0] for word in words if (match := re.match(r"[a-z][\w.:]*", word))}


@pytest.fixture(scope="module")
def exercised():
    """Opcodes of the files, and of the kernels that tests make."""
    texts = [path.read_text() for path in FILES]
    texts += [product(columns=64), product(columns=64, group=2, a_in_tensor_memory=True)]
    texts += [product(columns=64, kind="f8f6f4")]
    texts += [tensor_forms.Form(64, 8).text(), tensor_forms.Form(128, 16, group=2).text()]
    shapes = [tensor_shapes.Shape("32x32b", repeat) for repeat in (8, 16, 32, 64)]
    texts += [shape.text(loads) for shape in shapes for loads in (True, False)]
    texts += [wgmma_kernels.Form(64).text()]
    return set().union(*map(opcodes, texts))


@pytest.mark.parametrize("opcode", INVENTORY)
def test_opcode_is_exercised(exercised, opcode):
    assert opcode in exercised


def test_the_words_of_a_statement_are_found():
    text = "{ a: @!%p0 add.s32 %r0, 1, 2; @p bra a; // mul.lo.s32\n  ld.b32 %r1, [%r0];\nret;\n}"
    assert opcodes(text) == {"add.s32", "bra", "ld.b32", "ret"}


@pytest.mark.parametrize("case", [*CASES, *NARROW, *BLACKWELL], ids=lambda case: case.file)
def test_a_case_is_its_file(case):
    """Nothing but the case's instruction differs between their kernels."""
    if case.file == "cvt_rn_f32_u8":
        return  # loads signed bytes: what lies above the byte in the register is not read
    assert (HERE / "ptx" / f"{case.file}.ptx").read_text() == text_of_case(case)


def test_every_file_is_run():
    """By a case of its name, or by a test that names it."""
    named = {case.file for case in (*CASES, *NARROW, *BLACKWELL)}
    sources = "\n".join(path.read_text() for path in HERE.glob("test_*.py"))
    words = set(re.findall(r'"([a-z]\w+)"', sources))
    patterns = re.findall(r'f"([a-z]\w*\{[^"]*)"', sources)
    patterns = [re.sub(r"\\\{[^}]*\\\}|\\\{.*?\}", r"\\w+", re.escape(p)) for p in patterns]

    def is_run(stem):
        return (
            stem in named
            or stem in words
            or any(re.fullmatch(pattern, stem) for pattern in patterns)
        )

    assert [path.stem for path in FILES if not is_run(path.stem)] == []
