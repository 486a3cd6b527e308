"""SASS as `nvdisasm -c` prints it: instructions, basic blocks, loops.

The blocks are cut here, at labels and after branches, and not taken from `nvdisasm -cfg`, which
draws one graph a function for a viewer and leaves the branch's condition out.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

_INSTRUCTION = re.compile(
    r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:(@!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;"
)
_LABEL = re.compile(r"^(\.L_\w+):")
_TARGET = re.compile(r"`\((\.L_\w+)\)")
_TARGETS = re.compile(r"BRANCH_TARGETS ([\w.,]+)")  # of an indirect branch
_ENDS = ("BRA", "EXIT", "RET", "BRX", "JMP", "BREAK")


@dataclass(frozen=True)
class Instruction:
    """One line: `guard` is "@P0", "@!UP1", or empty."""

    address: int
    guard: str
    opcode: str  # with its modifiers: "FADD2.RM"
    operands: str

    @property
    def name(self) -> str:
        """The opcode without modifiers."""
        return self.opcode.split(".")[0]

    @property
    def targets(self) -> list[str]:
        """The labels that a branch may go to."""
        found = _TARGET.search(self.operands)
        indirect = _TARGETS.search(self.operands)
        return [found[1]] if found else indirect[1].split(",") if indirect else []

    @property
    def condition(self) -> str:
        """What a branch depends on: "P0", "!UP1"; empty if it always goes."""
        if self.guard:
            return self.guard[1:]
        first = self.operands.split(",")[0].strip()
        return first if re.fullmatch(r"!?U?P\d", first) else ""


@dataclass
class Block:
    """Instructions without a branch but the last, and who may follow: block numbers."""

    number: int
    instructions: list[Instruction] = field(default_factory=list)
    successors: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Loop:
    """A natural loop: all blocks that reach `header` again without leaving through it."""

    header: int
    blocks: frozenset[int]


def disassemble(cubin: Path, nvdisasm: str) -> str:
    """The text of every function of a cubin."""
    command = [nvdisasm, "-c", str(cubin)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _label_numbers(lines: Iterable[str]) -> Iterator[tuple[str | None, Instruction | None]]:
    for line in lines:
        label = _LABEL.match(line)
        if label:
            yield label[1], None
            continue
        found = _INSTRUCTION.match(line)
        if found:
            yield None, Instruction(int(found[1], 16), found[2] or "", found[3], found[4])


class Program:
    """The kernel of a text: its first function, which is what CuTe DSL's cubins hold."""

    def __init__(self, text: str) -> None:
        self.blocks: list[Block] = []
        labels: dict[str, int] = {}
        fresh, last = True, -1
        for label, instruction in _label_numbers(text.splitlines()):
            if label is not None:
                labels[label] = len(self.blocks)
                fresh = True
                continue
            assert instruction is not None
            if instruction.address <= last:
                break  # the next function
            last = instruction.address
            if fresh:
                self.blocks.append(Block(len(self.blocks)))
                fresh = False
            self.blocks[-1].instructions.append(instruction)
            fresh = instruction.name in _ENDS
        if not self.blocks:
            raise ValueError("no instructions: is this the output of nvdisasm -c?")
        for block in self.blocks:
            block.successors = self._successors(block, labels)

    def _successors(self, block: Block, labels: dict[str, int]) -> list[int]:
        last = block.instructions[-1]
        following = [block.number + 1] if block.number + 1 < len(self.blocks) else []
        if last.name not in _ENDS:
            return following
        known = [labels[target] for target in last.targets if target in labels]
        taken = [number for number in known if number < len(self.blocks)]
        return taken + (following if last.condition else [])

    @property
    def instructions(self) -> Iterator[Instruction]:
        for block in self.blocks:
            yield from block.instructions

    @cached_property
    def predecessors(self) -> list[list[int]]:
        before: list[list[int]] = [[] for _ in self.blocks]
        for block in self.blocks:
            for successor in block.successors:
                before[successor].append(block.number)
        return before

    @cached_property
    def order(self) -> list[int]:
        """Reachable blocks, each after all that lead to it but through back edges."""
        seen, done = {0}, []
        stack = [(0, iter(self.blocks[0].successors))]
        while stack:
            number, rest = stack[-1]
            following = next((s for s in rest if s not in seen), None)
            if following is None:
                done.append(number)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(self.blocks[following].successors)))
        return done[::-1]

    @cached_property
    def dominators(self) -> dict[int, int]:
        """Immediate dominator of each reachable block (Cooper, Harvey, Kennedy)."""
        place = {number: i for i, number in enumerate(self.order)}
        above = {0: 0}

        def meet(a: int, b: int) -> int:
            while a != b:
                while place[a] > place[b]:
                    a = above[a]
                while place[b] > place[a]:
                    b = above[b]
            return a

        changed = True
        while changed:
            changed = False
            for number in self.order[1:]:
                known = [p for p in self.predecessors[number] if p in above]
                found = known[0]
                for other in known[1:]:
                    found = meet(found, other)
                if above.get(number) != found:
                    above[number], changed = found, True
        return above

    def dominating(self, number: int) -> Iterator[int]:
        """The block, and all that every way to it goes through, inside out."""
        while True:
            yield number
            if number == 0:
                return
            number = self.dominators[number]

    @cached_property
    def loops(self) -> list[Loop]:
        """Natural loops, the smallest first."""
        bodies: dict[int, set[int]] = {}
        for number in self.order:
            for header in self.blocks[number].successors:
                if header not in self.dominating(number):
                    continue
                body = bodies.setdefault(header, {header})
                stack = [number]
                while stack:
                    block = stack.pop()
                    if block not in body:
                        body.add(block)
                        stack += [p for p in self.predecessors[block] if p in self.dominators]
        loops = [Loop(header, frozenset(body)) for header, body in bodies.items()]
        return sorted(loops, key=lambda loop: len(loop.blocks))
