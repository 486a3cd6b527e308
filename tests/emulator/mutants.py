"""Single-fault mutants of PTX text: one wait, arrive, fence, commit or number changed in each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    line: int  # from 1
    what: str  # "drop bar.sync 0"
    family: str  # "drop bar.sync"
    text: str  # the whole kernel

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}"


# What a kernel may lack: instructions whose absence leaves a kernel that still decodes.
_DROPPED = re.compile(
    r"(?P<name>mbarrier\.(?:init|arrive)|fence\.[a-z_]+|bar\.(?:sync|arrive)|barrier\.(?:sync|arrive)"
    r"|barrier\.cluster\.(?:arrive|wait)|cp\.async\.bulk\.(?:tensor|commit_group|wait_group)"
    r"|wgmma\.(?:fence|commit_group|wait_group)|stmatrix|tcgen05\.(?:commit|wait|fence))\b"
)
_WAIT = re.compile(r"(mbarrier\.(?:try|test)_wait[\w.:]*\s+)(\w+|%\w+), (\[[^\]]*\]), (%\w+)(.*;)")
_EXPECT = re.compile(r"(mbarrier\.arrive\.expect_tx[\w.:]*\s+[^,]+, \[[^\]]*\]), (%\w+);")
_INIT = re.compile(r"(mbarrier\.init[\w.:]*\s+\[[^\]]*\]), (%\w+);")
_NAMED = re.compile(r"(bar\.(?:sync|arrive)\s+)(%\w+|\d+)(, \d+)?;")
_GROUPS = re.compile(r"((?:cp\.async\.bulk|wgmma)\.wait_group[\w.]*\s+)(\d+);")
_STAGE = re.compile(
    r"(mbarrier\.[\w.:]+\s+[^\[]*|cp\.async\.bulk\.tensor[\w.:]+\s+)\[(%\w+)(\+\d+)?\]"
)


def _scoped(register: str, change: str, statement: str) -> str:
    """`statement` with {value} a new register that holds `change` of `register`."""
    return (
        "{ .reg .b32 mutated; "
        + change.format(register=register)
        + " "
        + statement.format(value="mutated")
        + " }"
    )


def _changed(register: str, amount: int, statement: str) -> str:
    return _scoped(register, f"add.s32 mutated, {{register}}, {amount};", statement)


def _escape(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _of_line(line: str) -> Iterator[tuple[str, str, str]]:
    """(family, description, new line) of every mutant of one line."""
    code = line.strip()
    if code.startswith(("//", ".")) or not code.endswith(";"):
        return
    dropped = _DROPPED.search(code)
    if dropped and "try_wait" not in code:
        yield f"drop {dropped['name']}", f"drop {code}", ""
    wait = _WAIT.search(code)
    if wait:
        head, predicate, address, parity, tail = wait.groups()
        yield "drop wait", f"drop {code}", f"setp.eq.u32 {predicate}, 0, 0;"
        statement = f"{_escape(head)}{predicate}, {address}, {{value}}{_escape(tail)}"
        yield (
            "change parity",
            f"other parity in {code}",
            _scoped(parity, "xor.b32 mutated, {register}, 1;", statement),
        )
    for pattern, family, amounts in (
        (_EXPECT, "change bytes", (16, -16)),
        (_INIT, "change count", (1, -1)),
    ):
        found = pattern.search(code)
        for amount in amounts if found else ():
            statement = f"{_escape(found[1])}, {{value}};"
            yield family, f"{amount:+d} in {code}", _changed(found[2], amount, statement)
    named = _NAMED.search(code)
    if named:
        head, barrier, count = named.groups()
        if barrier.isdigit():
            yield "change barrier", f"next in {code}", f"{head}{int(barrier) + 9}{count or ''};"
        else:
            statement = f"{head}{{value}}{count or ''};"
            yield "change barrier", f"next in {code}", _changed(barrier, 1, statement)
        if count:
            for amount in (32, -32):
                changed = f"{head}{barrier}, {int(count[2:]) + amount};"
                yield "change threads", f"{amount:+d} in {code}", changed
    groups = _GROUPS.search(code)
    if groups:
        yield "wait for less", f"one more pending in {code}", f"{groups[1]}{int(groups[2]) + 1};"
    stage = _STAGE.search(code)
    if stage:
        step = 8 if "mbarrier" in stage[1] else 1024
        offset = int((stage[3] or "+0")[1:]) + step
        moved = code[: stage.start(2)] + f"{stage[2]}+{offset}" + code[stage.end() - 1 :]
        yield "change stage", f"+{step} in {code}", moved


def mutants(ptx: str) -> Iterator[Mutant]:
    lines = ptx.split("\n")
    for at, line in enumerate(lines):
        for family, what, new in _of_line(line):
            changed = "\n".join([*lines[:at], new, *lines[at + 1 :]])
            yield Mutant(at + 1, what, family, changed)


def marked(ptx: str, line: int) -> str:
    """The kernel with a statement at `line` that the emulator always reports, if it gets there."""
    lines = ptx.split("\n")
    lines[line - 1] = "bar.sync 16;"
    return "\n".join(lines)


# Mutants of the forward kernels that change nothing that can be observed, and why.
_TAIL = (
    "the producer's last waits only keep a CTA's barriers alive for arrivals from other CTAs of a "
    "cluster; this cluster is one CTA, and its memory lives until its last warp exits"
)
_EQUIVALENT = (
    (
        r"^drop fence\.mbarrier_init",
        "orders mbarrier.init for other CTAs of a cluster; bar.sync orders it for the own one, and "
        "bulk copies use their mbarrier through the generic proxy (9.7.9.25.4.1)",
    ),
    (r"^next in bar\.sync\s+0;", "all warps meet at another barrier that nobody else uses"),
    (
        r"^drop wgmma\.fence",
        "between the last use of its registers and the product stands another wgmma.fence, on "
        "every path that the problems take",
    ),
    (
        r"^\+8 in mbarrier\.try_wait",
        "in a ring of two stages, always waiting for the other stage waits one turn early: what "
        "this turn needs was waited for at the turn before",
    ),
    (r"^drop cp\.async\.bulk\.tensor.*\.global\.shared", "nothing is wrong but the result"),
)


def reason(ptx: str, mutant: Mutant) -> str:
    """Why a mutant survives, as far as it is understood; empty if it is not."""
    lines = ptx.split("\n")
    after = next((i for i in range(mutant.line, len(lines)) if "setmaxnreg.inc" in lines[i]), 0)
    copies = any("cp.async.bulk.tensor" in line for line in lines[mutant.line : after])
    if "try_wait" in mutant.what and after and not copies:
        return _TAIL
    return next((why for pattern, why in _EQUIVALENT if re.search(pattern, mutant.what)), "")
