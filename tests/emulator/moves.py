"""Waits, arrivals and fences moved by one: past the next instruction that they could order."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# What touches memory or synchronises: to pass anything else changes nothing, nor to pass a fence
# that orders registers only, or mbarriers' beginnings.
_MATTERS = re.compile(
    r"^(?:@\S+\s+)?(?:ld\.(?!param)|st\.|red\.|atom\.|cp\.|mbarrier\.|wgmma\.|tcgen05\.|bar\.|barrier\."
    r"|fence\.|stmatrix|ldmatrix|clusterlaunchcontrol)"
)
_LATER = re.compile(
    r"mbarrier\.try_wait|(?:cp\.async\.bulk|cp\.async|wgmma)\.wait_group|tcgen05\.wait|bar\.sync"
    r"|barrier\.sync|wgmma\.fence|fence\.proxy|barrier\.cluster\.wait"
)
_EARLIER = re.compile(
    r"mbarrier\.arrive\.(?!expect)|bar\.arrive|barrier\.arrive|barrier\.cluster\.arrive|bar\.sync"
    r"|barrier\.sync|tcgen05\.commit|commit_group|fence\.proxy"
)
_REGISTER = re.compile(r"%\w+")
_READ_ONLY = re.compile(
    r"^(?:@\S+\s+)?(?:st\.|red\.|cp\.|bar\.|barrier\.|fence|tcgen05\.(?:st|mma|commit)|bra)"
)


@dataclass(frozen=True)
class Unit:
    """Lines that move together: an instruction, an inline block, or what one lane does."""

    first: int
    last: int
    lines: tuple[str, ...]

    @property
    def code(self) -> list[str]:
        stripped = (line.strip() for line in self.lines)
        return [
            line for line in stripped if line.endswith(";") and not line.startswith((".", "//"))
        ]

    @property
    def matters(self) -> bool:
        return any(_MATTERS.match(line) for line in self.code)

    def sync(self, pattern: re.Pattern[str]) -> str:
        """The one instruction of the unit that matters, if the pattern has it."""
        lines = [line for line in self.code if _MATTERS.match(line)]
        if any("arrive" in line for line in lines):  # one lane's, for its warp
            lines = [line for line in lines if not line.startswith("bar.warp.sync")]
        return lines[0] if len(lines) == 1 and pattern.search(lines[0]) else ""

    def registers(self) -> tuple[set[str], set[str]]:
        """Those that it reads, and those that it writes."""
        reads, writes = set(), set()
        for line in self.code:
            words = re.sub(r"^@!?\S+\s+", "", line)
            reads |= set(_REGISTER.findall(line[: len(line) - len(words)]))
            operands = words.split(None, 1)[1] if " " in words or "\t" in words else ""
            first = (
                operands[: operands.find("}") + 1]
                if operands.startswith("{")
                else operands.split(",")[0]
            )
            if _READ_ONLY.match(words) or first.startswith("["):
                first = ""
            writes |= set(_REGISTER.findall(first))
            reads |= set(_REGISTER.findall(operands[len(first) :]))
        return reads, writes


def _commute(one: Unit, other: Unit) -> bool:
    reads, writes = one.registers()
    other_reads, other_writes = other.registers()
    return not (writes & (other_reads | other_writes) or reads & other_writes)


def _block_end(lines: list[str], at: int) -> int:
    """The line that closes the brace on line `at`."""
    depth = 0
    for i in range(at, len(lines)):
        code = lines[i].split("//")[0]
        depth += code.count("{") - code.count("}")
        if depth == 0:
            return i
    return at


def _guarded_end(lines: list[str], at: int) -> int:
    """Of `elect.sync; not.pred; @p bra L; ...; L:` the label's line; -1 if it is not there."""
    words = [line.strip() for line in lines[at : at + 12]]
    words = [w for w in words if not w.startswith(".loc")]
    branch = next((w for w in words[1:3] if w.startswith("@") and " bra" in w), "")
    target = re.search(r"(\$\w+);", branch)
    if not words[0].startswith("elect.sync") or not target:
        return -1
    for i in range(at, min(at + 24, len(lines))):
        if lines[i].strip() == f"{target[1]}:":
            inside = lines[at:i]
            return i if sum("bra" in line for line in inside) == 1 else -1
    return -1


def _units(lines: list[str]) -> Iterator[Unit | None]:
    """The text as units; None where control flow comes or goes."""
    at = next(i for i, line in enumerate(lines) if line.startswith("{")) + 1
    while at < len(lines):
        code, end = lines[at].strip(), at
        if code.startswith("{") and not code.endswith(";"):
            end = _block_end(lines, at)
        elif code.startswith("elect.sync") and _guarded_end(lines, at) > 0:
            end = _guarded_end(lines, at)
        elif re.match(r"(\$\w+:|(@\S+\s+)?bra|ret)", code):
            yield None
            at += 1
            continue
        yield Unit(at, end, tuple(lines[at : end + 1]))
        at = end + 1


# Two waits, or two arrivals, may change places.
_WAITS = re.compile(r"try_wait|wait_group|tcgen05\.wait")
_REGISTERS_ONLY = re.compile(r"wgmma\.fence|fence\.mbarrier_init|tcgen05\.relinquish")
_ARRIVALS = re.compile(r"mbarrier\.arrive\.(?!expect)|bar\.arrive|barrier\.arrive|tcgen05\.commit")


def _beyond(run: list[Unit], at: int, step: int) -> int:
    """Where in `run` the next unit that matters is, if unit `at` may pass it; -1 otherwise."""
    like = next((p for p in (_WAITS, _ARRIVALS) if run[at].sync(p)), None)
    i = at + step
    while 0 <= i < len(run) and _commute(run[at], run[i]):
        passes = run[i].sync(_REGISTERS_ONLY) or (like and run[i].sync(like))
        if run[i].matters and not passes:
            return i
        i += step
    return -1


def _straight(lines: list[str]) -> Iterator[list[Unit]]:
    run: list[Unit] = []
    for unit in _units(lines):
        if unit is None:
            yield run
            run = []
        else:
            run.append(unit)
    yield run


def moved(lines: list[str]) -> Iterator[tuple[int, str, str, str]]:
    """(line from 0, family, description, text) of every move."""
    for run in _straight(lines):
        for at, unit in enumerate(run):
            for pattern, step, name in ((_LATER, 1, "later"), (_EARLIER, -1, "earlier")):
                code = unit.sync(pattern)
                other = _beyond(run, at, step) if code else -1
                if other < 0:
                    continue
                one, two = sorted((at, other))
                between = [line for u in run[one + 1 : two] for line in u.lines]
                if step > 0:
                    order = [*between, *run[two].lines, *run[one].lines]
                else:
                    order = [*run[two].lines, *run[one].lines, *between]
                text = [*lines[: run[one].first], *order, *lines[run[two].last + 1 :]]
                assert len(text) == len(lines)
                line = next(i for i in range(unit.first, unit.last + 1) if lines[i].strip() == code)
                passed = next(c for c in run[other].code if _MATTERS.match(c))
                kind = "wait" if "wait" in code else "fence" if "fence" in code else "barrier"
                kind = "arrive" if "arrive" in code else "commit" if "commit" in code else kind
                yield line, f"move {kind}", f"{name} {code} past {passed[:60]}", "\n".join(text)
