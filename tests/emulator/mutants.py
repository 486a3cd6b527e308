"""Single-fault mutants of PTX text: one wait, arrive, fence, commit or number changed in each."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterator
from dataclasses import dataclass

from moves import moved


@dataclass(frozen=True)
class Mutant:
    line: int  # from 1
    what: str  # "drop bar.sync 0"
    family: str  # "drop barrier"
    text: str  # the whole kernel

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}"


# What a kernel may lack: instructions whose absence leaves a kernel that still decodes.
_DROPPED = (
    ("drop init", r"mbarrier\.init|tcgen05\.alloc"),
    ("drop arrive", r"mbarrier\.arrive|bar\.arrive|barrier\.arrive|barrier\.cluster\.arrive"),
    (
        "drop wait",
        r"(?:cp\.async\.bulk|cp\.async|wgmma)\.wait_group|tcgen05\.wait|griddepcontrol\.wait",
    ),
    ("drop barrier", r"bar\.sync|barrier\.sync|bar\.warp\.sync|barrier\.cluster\.wait"),
    ("drop fence", r"fence\.[a-z_]+|wgmma\.fence|tcgen05\.fence"),
    ("drop commit", r"(?:cp\.async\.bulk|cp\.async|wgmma)\.commit_group|tcgen05\.commit"),
    ("drop copy", r"cp\.async\.bulk\.(?:tensor|shared|global)|cp\.async\.c[ag]|stmatrix"),
    ("drop product", r"wgmma\.mma_async|tcgen05\.mma"),
    ("drop tensor memory", r"tcgen05\.(?:st|dealloc|relinquish_alloc_permit)"),
)
_DROPPED_FAMILIES = tuple((family, re.compile(rf"(?:{words})\b")) for family, words in _DROPPED)

# Numbers: (family, instruction up to the number, the rest, what is added). The number is a register
# or is written out.
_ADDED = (
    ("change bytes", r"mbarrier\.arrive\.expect_tx[\w.:]*\s+[^,]+, \[[^\]]*\], ", r";", (16, -16)),
    ("change count", r"mbarrier\.init[\w.:]*\s+\[[^\]]*\], ", r";", (1, -1)),
    ("change count", r"mbarrier\.arrive\.(?!expect)[\w.:]*\s+[^,]+, \[[^\]]*\], ", r";", (1, -1)),
    ("change barrier", r"(?:bar|barrier)\.(?:sync|arrive)\s+", r"(?:, .*)?;", (1,)),
    ("change threads", r"(?:bar|barrier)\.(?:sync|arrive)\s+[^,]+, ", r";", (32, -32)),
    ("change pending", r"(?:cp\.async\.bulk|cp\.async|wgmma)\.wait_group[\w.]*\s+", r";", (1,)),
    (
        "change columns",
        r"tcgen05\.(?:alloc[\w.:]*\s+\[[^\]]*\]|dealloc[\w.:]*\s+[^,]+), ",
        r";",
        (-32,),
    ),
    ("change columns", r"tcgen05\.mma[\w.:]*\s+\[", r"(?:\+\w+)?\].*;", (8,)),
    ("change columns", r"tcgen05\.mma[\w.:]*\s+\[[^\]]*\], \[", r"(?: *\+ *\w+)?\].*;", (4,)),
    ("change columns", r"tcgen05\.ld[\w.:]*\s+\{[^}]*\}, \[", r"(?:\+\w+)?\].*;", (8,)),
    ("change columns", r"tcgen05\.st[\w.:]*\s+\[", r"(?:\+\w+)?\].*;", (8,)),
    (
        "change descriptor",
        r"tcgen05\.mma[\w.:]*\s+\[[^\]]*\], [^,]+, [^,]+, ",
        r", .*;",
        (16 << 13,),
    ),
    ("change rank", r"mapa\.shared::cluster\.u32\s+[^,]+, [^,]+, ", r";", ()),
)
_NUMBER = r"(?P<number>%\w+|\d+|[a-z]\w*)"
_ADDED_FAMILIES = tuple(
    (family, re.compile(rf"(?P<head>.*?\b{head}){_NUMBER}(?P<tail>{tail})\s*$"), amounts)
    for family, head, tail, amounts in _ADDED
)
_WAIT = re.compile(
    r"(.*mbarrier\.(?:try|test)_wait[\w.:]*\s+)(\w+|%\w+), (\[[^\]]*\]), (%\w+|\d+)(.*;)"
)
_MASK = re.compile(r"(.*multicast::cluster[\w.:]*\s+.*, )(%rs\w+)(;|, .*;)")
_STAGE = re.compile(
    r"((?:@\S+ )?(?:mbarrier\.[\w.:]+\s+[^\[]*|tcgen05\.commit[\w.:]*\s+"
    r"|cp\.async\.bulk\.tensor[\w.:]+\s+))\[(%\w+)(\+\d+)?\]"
)


def _scoped(kind: str, statements: str) -> str:
    return f"{{ .reg .{kind} mutated; {statements} }}"


def _sum(number: str, amount: int, statement: str) -> str:
    """`statement` with {} in it replaced by `number` + `amount`."""
    if number.isdigit():
        return statement.replace("{}", str(int(number) + amount), 1)
    return _scoped(
        "b32", f"add.s32 mutated, {number}, {amount}; {statement.replace('{}', 'mutated', 1)}"
    )


def _waits(code: str) -> Iterator[tuple[str, str, str]]:
    wait = _WAIT.match(code)
    if not wait:
        return
    head, predicate, address, parity, tail = wait.groups()
    yield "drop wait", f"drop {code}", f"setp.eq.u32 {predicate}, 0, 0;"
    other = f"xor.b32 mutated, {parity}, 1; {head}{predicate}, {address}, mutated{tail}"
    yield "change parity", f"other parity in {code}", _scoped("b32", other)


def _numbers(code: str) -> Iterator[tuple[str, str, str]]:
    for family, pattern, amounts in _ADDED_FAMILIES:
        found = pattern.match(code)
        if not found or "$L" in found["number"]:
            continue
        statement = f"{found['head']}{{}}{found['tail']}"
        # Barrier 0 is used by others, as are its neighbours.
        amounts = (9,) if family == "change barrier" and found["number"].isdigit() else amounts
        for amount in amounts:
            if found["number"].isdigit() and int(found["number"]) + amount < 0:
                continue
            yield family, f"{amount:+d} in {code}", _sum(found["number"], amount, statement)
        if family == "change rank":
            other = f"xor.b32 mutated, {found['number']}, 1; {statement.replace('{}', 'mutated')}"
            yield family, f"the other CTA in {code}", _scoped("b32", other)


def _of_line(code: str) -> Iterator[tuple[str, str, str]]:
    """(family, description, new line) of every mutant of one line."""
    if "try_wait" in code or "test_wait" in code:
        yield from _waits(code)
    else:
        for family, pattern in _DROPPED_FAMILIES:
            if pattern.search(code):
                yield family, f"drop {code}", ""
                break
    yield from _numbers(code)
    mask = _MASK.match(code)
    for bit in (1, 2) if mask else ():
        changed = f"xor.b16 mutated, {mask[2]}, {bit}; {mask[1]}mutated{mask[3]}"
        yield "change mask", f"mask ^ {bit} in {code}", _scoped("b16", changed)
    stage = _STAGE.match(code)
    if stage:
        step = 1024 if "cp.async" in stage[1] else 8
        offset = int((stage[3] or "+0")[1:]) + step
        other = f"{stage[1]}[{stage[2]}+{offset}]{code[stage.end() :]}"
        yield "change stage", f"+{step} in {code}", other


def mutants(ptx: str) -> Iterator[Mutant]:
    """Every mutant of the kernel, those of one line after the other, moves last."""
    lines = ptx.split("\n")
    for at, line in enumerate(lines):
        code = line.strip()
        if code.startswith(("//", ".")) or not code.endswith(";"):
            continue
        for family, what, new in _of_line(code):
            changed = "\n".join([*lines[:at], new, *lines[at + 1 :]])
            yield Mutant(at + 1, what, family, changed)
    for at, family, what, changed in moved(lines):
        yield Mutant(at + 1, what, family, changed)


def marked(ptx: str, line: int) -> str:
    """The kernel with a statement at `line` that the emulator always reports, if it gets there."""
    lines = ptx.split("\n")
    guard = re.match(r"\s*(@\S+)\s", lines[line - 1])
    lines[line - 1] = f"{guard[1] if guard else ''} mbarrier.arrive.shared.b64 _, [7];"
    return "\n".join(lines)


def chosen(ptx: str, every: int, twin: str) -> Iterator[Mutant]:
    """Each nth mutant, of those that `twin`, another kernel or none, does not have.

    Whatever registers and labels are called there.
    """

    def words(mutant: Mutant) -> str:
        what = re.sub(r"%\w+|[$]L\w+", "_", mutant.what)
        return f"{mutant.family}: {what}"

    there, further = collections.Counter(map(words, mutants(twin) if twin else ())), 0
    for mutant in mutants(ptx):
        there[words(mutant)] -= 1
        if there[words(mutant)] < 0:
            if further % every == 0:
                yield mutant
            further += 1
