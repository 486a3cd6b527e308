"""SASS as ptxas made it: instructions, what they wait for, and the PTX lines they come from."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

_CODE = re.compile(
    r"^\s+/\*(?P<at>[0-9a-f]{4,6})\*/\s+(?:@(?P<guard>!?U?P\w+)\s+)?(?P<opcode>[\w.]+)"
    r"(?P<operands>[^;]*);\s*/\* 0x[0-9a-f]{16} \*/"
)
_CONTROL = re.compile(r"^\s+/\* 0x([0-9a-f]{16}) \*/")
_LINE = re.compile(r'File ".nv_debug_ptx_txt[^"]*", line (\d+)')
_LABEL = re.compile(r"^(\.\w+):")
_TARGET = re.compile(r"`\((\.\w+)\)")
_ENDS = ("BRA", "BRX", "EXIT", "RET", "CALL", "BSYNC", "JMP")
NO_BARRIER = 7
_REACH = 300  # instructions from a try to the branch on its failure, at most


@dataclass(frozen=True)
class Sass:
    """One instruction; `line` is of the PTX, 0 if unknown.

    `stall` is how many cycles after it the warp's next one may be issued at the earliest. It holds
    scoreboard `sets` until its result is there and `reads` until it has read its operands
    (NO_BARRIER for none), and is issued once those of the mask `waits` are free.
    """

    at: int
    opcode: str
    operands: str
    guard: str
    line: int
    stall: int
    sets: int
    reads: int
    waits: int

    @property
    def name(self) -> str:
        return self.opcode.partition(".")[0]


@dataclass(frozen=True)
class Block:
    """Instructions [first, last) without a branch or a branch's target between them."""

    first: int
    last: int


@dataclass(frozen=True)
class Listing:
    """A kernel's instructions in order of their addresses, and its basic blocks."""

    code: tuple[Sass, ...]
    blocks: tuple[Block, ...]


def read_cubin(cubin: Path, nvdisasm: str = "nvdisasm") -> Listing:
    """What nvdisasm says of a cubin that was assembled with -lineinfo."""
    command = [nvdisasm, "-c", "-gp", "-hex", str(cubin)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return parse(done.stdout)


_PRODUCT = re.compile(r"^\s*wgmma\.mma_async\S*\.(m64n\d+k\d+)\.")
_WARPGROUP_PRODUCT = re.compile(r"HGMMA\.(\d+)x(\d+)x(\d+)")


def name_products(listing: Listing, ptx: str) -> Listing:
    """ptxas names no line of a warpgroup's products, but keeps them in the order of the text."""
    lines = [
        (number, match[1])
        for number, text in enumerate(ptx.splitlines(), 1)
        if (match := _PRODUCT.match(text))
    ]
    code = list(listing.code)
    places = [at for at, sass in enumerate(code) if sass.name == "HGMMA"]
    for at, (line, shape) in zip(places, lines, strict=True):
        found = _WARPGROUP_PRODUCT.match(code[at].opcode)
        if found is None or "m{}n{}k{}".format(*found.groups()) != shape:
            raise ValueError(f"{code[at].opcode} is no {shape}: products are in another order")
        code[at] = replace(code[at], line=line)
    return replace(listing, code=tuple(code))


def parse(text: str) -> Listing:
    """Listing of nvdisasm -c -gp -hex."""
    code: list[Sass] = []
    labels: dict[str, int] = {}
    pending: re.Match[str] | None = None
    line = 0
    for row in text.splitlines():
        if match := _CODE.match(row):
            pending = match
        elif (match := _CONTROL.match(row)) and pending is not None:
            code.append(_sass(pending, int(match[1], 16), line))
            pending = None
        elif match := _LINE.search(row):
            line = int(match[1])
        elif match := _LABEL.match(row):
            labels[match[1]] = len(code)
    return Listing(tuple(_name_waits(code, labels)), _blocks(code, labels))


def _name_waits(code: list[Sass], labels: dict[str, int]) -> Iterator[Sass]:
    """The first try of an mbarrier has no line of its own; the loop behind its failure has."""
    for at, sass in enumerate(code):
        if "TRYWAIT" in sass.opcode:
            failed = "!" + sass.operands.partition(",")[0]
            for branch in code[at + 1 : at + _REACH]:
                if branch.name == "BRA" and branch.guard == failed:
                    target = labels.get("".join(_TARGET.findall(branch.operands)), at)
                    sass = replace(sass, line=code[target].line)
                    break
        yield sass


def _sass(match: re.Match[str], word: int, line: int) -> Sass:
    control = word >> 41
    return Sass(
        at=int(match["at"], 16),
        opcode=match["opcode"],
        operands=match["operands"].strip(),
        guard=match["guard"] or "",
        line=line,
        stall=control & 15,
        sets=control >> 5 & 7,
        reads=control >> 8 & 7,
        waits=control >> 11 & 63,
    )


def _blocks(code: list[Sass], labels: dict[str, int]) -> tuple[Block, ...]:
    leaders = {0, len(code)}
    for at, sass in enumerate(code):
        for target in _TARGET.findall(sass.operands):
            leaders.add(labels.get(target, 0))
        if sass.name in _ENDS:
            leaders.add(at + 1)
    order = sorted(leaders)
    return tuple(Block(first, last) for first, last in itertools.pairwise(order))
