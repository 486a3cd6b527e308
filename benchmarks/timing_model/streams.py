"""What each warp of a recorded launch executed, in SASS: the emulator's path through the PTX,
followed in what ptxas made of it.

Every SASS basic block belongs to the PTX block that most of its instructions come from, and runs
when that one does. So code that ptxas moved counts as often as where it was moved to, and a
block that it doubled counts once: the copies after the first are dropped, and so is what only
runs when an mbarrier's first try fails.
"""

from __future__ import annotations

import bisect
import re
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.timing_model.listing import Block, Listing, Sass
from jax_fa4.emulator.recording import ASYNC, Recording

_LABEL = re.compile(r"^\s*\$?[\w$]+:")
_BRANCHES = ("bra", "brx", "ret", "exit")

# SASS that stands for an instruction with events; others of the same PTX line help it.
_CARRIERS = frozenset(
    [
        "SYNCS",
        "UTCHMMA",
        "UTCQMMA",
        "UTCBAR",
        "UTMALDG",
        "UTMASTG",
        "UTMACMDFLUSH",
        "DEPBAR",
        "BAR",
        "LDTM",
        "STTM",
        "UCGABAR_ARV",
        "UCGABAR_WAIT",
        "HGMMA",
        "WARPGROUP",
        "UBLKCP",
        "UBLKRED",
        "WARPSYNC",
        "UGETNEXTWORKID",
    ]
)


_ELECTED = frozenset(["UTCHMMA", "UTCBAR"])
_MANY = 1000  # more than a block has instructions


@dataclass(frozen=True)
class Event:
    """One executed PTX instruction that waits, arrives or starts something.

    `about` are (object, phase, amount) of the recording, `started` those of operations under way.
    """

    opcode: str
    about: tuple[tuple[int, int, int], ...]
    started: tuple[tuple[int, int, int], ...]


@dataclass
class Stream:
    """A warp's instructions, as indices into the listing, and the events that some stand for."""

    cta: int
    warp: int
    code: list[int] = field(default_factory=list)
    events: dict[int, Event] = field(default_factory=dict)  # by place in `code`
    unmatched: int = 0


def streams(recording: Recording, ptx: str, listing: Listing) -> list[Stream]:
    """Every warp's, in order of CTA and warp. Where lanes part, lane 0's: it is the elected one."""
    blocks = _PtxBlocks(recording, ptx)
    sass_of = _sass_of(listing, blocks)
    paths = _paths(recording)
    events = _events(recording, paths)
    found = []
    for (cta, warp), path in sorted(paths.items()):
        stream = Stream(cta, warp)
        for block in blocks.visits(path):
            for sass in sass_of.get(block, ()):
                stream.code.extend(range(sass.first, sass.last))
        _attach(stream, listing, events.get((cta, warp), []))
        found.append(stream)
    return found


@dataclass(frozen=True)
class _Run:
    """Instructions [begin, end) of a warp, which follow each other in the text from `pc` on."""

    begin: int
    end: int
    pc: int


def _paths(recording: Recording) -> dict[tuple[int, int], list[_Run]]:
    """The runs of lane 0 of each (CTA, warp)."""
    jumps: dict[tuple[int, int], list[Any]] = defaultdict(list)
    for jump in recording.jumps:
        jumps[int(jump["cta"]), int(jump["warp"])].append(jump)
    size = len(recording.instructions)
    paths = {}
    for key, path in jumps.items():
        begins = [int(jump["own"]) for jump in path]
        ends = [*begins[1:], begins[-1] + size]  # its last run ends with the text
        paths[key] = [
            _Run(begin, min(end, begin + size - int(jump["pc"])), int(jump["pc"]))
            for jump, begin, end in zip(path, begins, ends, strict=True)
            if int(jump["lanes"]) & 1
        ]
    return paths


class _PtxBlocks:
    """The basic blocks of a PTX text, by number."""

    def __init__(self, recording: Recording, ptx: str) -> None:
        lines = [line.line for line in recording.instructions]
        leaders = {0}
        for number, text in enumerate(ptx.splitlines(), 1):
            if _LABEL.match(text):
                leaders.add(bisect.bisect_left(lines, number))
        for pc, line in enumerate(recording.instructions):
            if line.opcode.split(".")[0] in _BRANCHES:
                leaders.add(pc + 1)
        self.leaders = sorted(leaders)
        self.of_line = {line: self.of_pc(pc) for pc, line in enumerate(lines)}

    def of_pc(self, pc: int) -> int:
        return bisect.bisect_right(self.leaders, pc) - 1

    def visits(self, path: list[_Run]) -> Iterator[int]:
        """The blocks that a path goes through."""
        last_block, last_pc = -1, -1
        for run in path:
            block, stop = self.of_pc(run.pc), run.pc + run.end - run.begin
            # Instructions whose guard is false are no part of a path; it goes on behind them.
            if block != last_block or run.pc <= last_pc:
                yield block
            while block + 1 < len(self.leaders) and self.leaders[block + 1] < stop:
                block += 1
                yield block
            last_block, last_pc = block, stop - 1


def _sass_of(listing: Listing, blocks: _PtxBlocks) -> dict[int, list[Block]]:
    seen: set[tuple[int, str]] = set()
    found: dict[int, list[Block]] = defaultdict(list)
    for block in listing.blocks:
        code = listing.code[block.first : block.last]
        if any(sass.name == "NANOSLEEP" for sass in code):
            continue
        carriers = {(sass.line, sass.name) for sass in code if sass.name in _CARRIERS}
        if carriers and carriers <= seen:
            continue
        seen |= carriers
        # What ptxas made conditional is of a block that it merged into this one, but what one
        # elected lane does.
        always = [sass for sass in code if not sass.guard or sass.name in _ELECTED]
        votes: Counter[int] = Counter()
        for sass in always:
            if sass.line in blocks.of_line:
                # Nothing moves what synchronises, while an address may come from far away.
                votes[blocks.of_line[sass.line]] += _MANY if sass.name in _CARRIERS else 1
        if votes:
            found[votes.most_common(1)[0][0]].append(block)
    return found


def _events(
    recording: Recording, paths: dict[tuple[int, int], list[_Run]]
) -> dict[tuple[int, int], list[tuple[int, Event]]]:
    """(PTX line, event) of every warp in its own order, those on its path."""
    grouped: dict[tuple[int, int, int, int], list[Any]] = defaultdict(list)
    for event in recording.events:
        key = (int(event["cta"]), int(event["warp"]), int(event["own"]), int(event["pc"]))
        grouped[key].append(event)
    found: dict[tuple[int, int], list[tuple[int, Event]]] = defaultdict(list)
    begins = {key: [run.begin for run in path] for key, path in paths.items()}
    for (cta, warp, own, pc), events in sorted(grouped.items()):
        run = bisect.bisect_right(begins[cta, warp], own) - 1
        if own >= paths[cta, warp][run].end:
            continue
        about, started = [], []
        for event in events:
            facts = (int(event["object"]), int(np.int64(event["phase"])), int(event["amount"]))
            (started if event["kind"] == ASYNC else about).append(facts)
        line = recording.instructions[pc]
        if line.opcode.startswith("bar.warp"):
            continue  # often nothing in SASS, and another's place there if it stood for something
        found[cta, warp].append((line.line, Event(line.opcode, tuple(about), tuple(started))))
    return found


def _attach(stream: Stream, listing: Listing, events: list[tuple[int, Event]]) -> None:
    """Give each event to the next SASS instruction that stands for its PTX line."""
    waiting: dict[int, deque[Event]] = defaultdict(deque)
    for line, event in events:
        waiting[line].append(event)
    for place, index in enumerate(stream.code):
        sass: Sass = listing.code[index]
        if sass.name in _CARRIERS and waiting.get(sass.line):
            stream.events[place] = waiting[sass.line].popleft()
    stream.unmatched = sum(map(len, waiting.values()))
