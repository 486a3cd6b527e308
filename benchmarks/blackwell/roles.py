"""The loops of a kernel's warp roles, and what one pass through each executes.

A loop over blocks of keys is known by what it does: that of a softmax warp computes exponentials,
that of a correction warp writes tensor memory back without any, that of the MMA warp multiplies,
that of the load warp copies. A pass is a way through the loop's blocks, and which one is taken
depends on the data; two are of interest, and both do all of the role's work (`_WORK`): the shortest
one and the longest. For a correction warp these are the blocks of keys without and with a rescale,
for a softmax warp those where no maximum moves and where one does. Waits are counted as succeeding
at once, and inner loops as one round.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.blackwell.sass import Instruction, Loop, Program

_SPIN_INSTRUCTIONS = 16
_TMEM_LOAD = re.compile(r"LDTM.*\.x(\d+)")
KEYS = 128  # of a block


def _is_product(instruction: Instruction) -> bool:
    return re.match(r"UTC\w*MMA", instruction.opcode) is not None


def _is_exponential(instruction: Instruction) -> bool:
    return instruction.opcode == "MUFU.EX2"


def _is_wait(instruction: Instruction) -> bool:
    return "TRYWAIT" in instruction.opcode


def _is_signal(instruction: Instruction) -> bool:
    """Arrivals, and what is handed over by them."""
    arrives = instruction.opcode.startswith(("SYNCS.ARRIVE", "BAR.ARV", "BAR.SYNC"))
    return arrives or instruction.name in ("STS", "LDS")


def _named(*names: str) -> Callable[[Instruction], bool]:
    return lambda instruction: instruction.name in names


# Role: what its loop must hold so often, and what it must not hold (more often than that).
_HOLDS: dict[str, tuple[Callable[[Instruction], bool], int]] = {
    "softmax": (_is_exponential, 64),
    "correction": (_named("STTM"), 2),
    "MMA": (_is_product, 8),
    "load": (_named("UTMALDG"), 1),
    "store": (_named("UTMASTG"), 1),
}
_WORK: dict[str, Callable[[Instruction], bool]] = {
    # Not exponentials: that of a row's scale may be off the usual way.
    "softmax": lambda i: _is_signal(i) or i.name == "LDTM",
    "correction": _is_signal,
    "MMA": lambda i: _is_product(i) or i.name == "UTCBAR",
    "load": _named("UTMALDG"),
    "store": _named("UTMASTG"),
}


@dataclass(frozen=True)
class Pass:
    """One pass through a loop over `blocks` blocks of keys."""

    role: str
    blocks: int
    shortest: tuple[Instruction, ...]
    longest: tuple[Instruction, ...]
    registers: int | None  # as the warps asked for by setmaxnreg


def _spins(program: Program) -> set[int]:
    """Blocks of the loops that do nothing but wait."""
    found: set[int] = set()
    for loop in program.loops:
        inside = [i for b in loop.blocks for i in program.blocks[b].instructions]
        if len(inside) <= _SPIN_INSTRUCTIONS and any(map(_is_wait, inside)):
            found |= loop.blocks
    return found


def _leads_to_spin(program: Program, spins: set[int], number: int) -> bool:
    for _ in range(2):
        if number in spins:
            return True
        successors = program.blocks[number].successors
        if len(successors) != 1 or len(program.blocks[number].instructions) > _SPIN_INSTRUCTIONS:
            return False
        number = successors[0]
    return False


def _way(
    program: Program, loop: Loop, spins: set[int], works: Callable[[Instruction], bool], sign: int
) -> tuple[Instruction, ...]:
    """The way around the loop with the most work and then the most instructions times `sign`."""

    def worth(number: int) -> tuple[int, int]:
        instructions = program.blocks[number].instructions
        return sum(map(works, instructions)), sign * len(instructions)

    place = {number: i for i, number in enumerate(program.order)}
    best = {loop.header: (worth(loop.header), -1)}
    ends = []
    for number in sorted(loop.blocks, key=place.__getitem__):
        if number not in best:
            continue
        successors = program.blocks[number].successors
        quick = [s for s in successors if not _leads_to_spin(program, spins, s)]
        for successor in quick if len(successors) > 1 and quick else successors:
            if successor == loop.header:
                ends.append(number)
            elif successor in loop.blocks and place[successor] > place[number]:
                here = worth(successor)
                total = (best[number][0][0] + here[0], best[number][0][1] + here[1])
                if successor not in best or total > best[successor][0]:
                    best[successor] = (total, number)
    number = max(ends, key=lambda end: best[end][0])
    way = []
    while number != -1:
        way.append(number)
        number = best[number][1]
    return tuple(i for number in reversed(way) for i in program.blocks[number].instructions)


def _registers(program: Program, loop: Loop) -> int | None:
    for number in program.dominating(loop.header):
        for instruction in reversed(program.blocks[number].instructions):
            if instruction.name == "USETMAXREG":
                return int(instruction.operands.split(",")[-1], 0)
    return None


def _blocks_of_keys(role: str, way: tuple[Instruction, ...]) -> int:
    if role != "softmax":
        return 1
    widths = [_TMEM_LOAD.match(i.opcode) for i in way if i.name == "LDTM"]
    return max(1, sum(int(width[1]) for width in widths if width) // KEYS)


def _role_of(program: Program, loop: Loop) -> str | None:
    inside = [i for number in loop.blocks for i in program.blocks[number].instructions]
    for role, (is_it, least) in _HOLDS.items():
        if sum(map(is_it, inside)) >= least:
            return role
    return None


def _is_serial(program: Program, loop: Loop) -> bool:
    """One round for each value that the lanes hold: ptxas could not tell that they hold one."""
    return any(
        program.blocks[number].instructions[-1].opcode.endswith(".U.ANY") for number in loop.blocks
    )


def passes(program: Program) -> list[Pass]:
    """Of each innermost loop that does a role's work, in the order of addresses."""
    spins = _spins(program)
    known: list[tuple[str, Loop]] = []
    for loop in program.loops:
        role = (
            None if len(loop.blocks) == 1 and _is_serial(program, loop) else _role_of(program, loop)
        )
        if role and not any(inner.blocks < loop.blocks for _, inner in known):
            known.append((role, loop))
    found = []
    for role, loop in sorted(known, key=lambda item: item[1].header):
        works = _WORK[role]
        shortest, longest = (_way(program, loop, spins, works, sign) for sign in (-1, 1))
        blocks = _blocks_of_keys(role, shortest)
        found.append(Pass(role, blocks, shortest, longest, _registers(program, loop)))
    return found
