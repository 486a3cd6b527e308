"""What emulated launches did, step by step: for reports, pictures and models of time.

    with jax_fa4.emulator.record() as recordings:
        jax.block_until_ready(function(q, k, v))
    recordings[0].events  # a NumPy array, one record an event

The emulator models no time. Its clock is the step: one instruction of one warp, in the order of
the scheduler that the seed decides.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from jax_fa4 import ffi

# Laid out as TraceEvent, TraceJump and TraceCount in csrc/emulator/trace/trace.h.
EVENT = np.dtype(
    [
        ("begin", np.uint64),
        ("end", np.uint64),
        ("object", np.uint64),
        ("amount", np.uint64),
        ("phase", np.uint64),
        ("cta", np.uint32),
        ("own", np.uint32),
        ("pc", np.uint32),
        ("warp", np.uint16),
        ("kind", np.uint8),
        ("padding", np.uint8),
    ]
)
JUMP = np.dtype([(name, np.uint32) for name in ("own", "pc", "cta", "warp", "lanes")])
COUNT = np.dtype([(name, np.uint64) for name in ("warps", "lanes", "waits", "waited", "amount")])

# The values of EVENT's `kind`.
DONE, WAIT, ASYNC, STUCK = range(4)

MAX_EVENTS = 1 << 20


@dataclass(frozen=True)
class Instruction:
    """One instruction of a kernel; `file` is "" where the text does not name its source."""

    opcode: str
    line: int
    file: str
    source_line: int


@dataclass(frozen=True)
class Recording:
    """One launch.

    `events` (dtype EVENT) holds every wait, arrival, asynchronous operation and commit in order of
    their end (those under way, of their issue): `begin` and `end` in steps; `own`, how many
    instructions the warp had done; `pc`, an index into `instructions`; `kind`: DONE (it had no
    reason to wait), WAIT (it waited from begin to end), ASYNC (under way from issue to completion),
    STUCK (not over when the run ended). `object` is the shared::cluster address of an mbarrier or
    the number of a named barrier, `phase` counts its completions (or is the number of a group of
    copies or products), `amount` is bytes, multiplications of a product (of a warp's share, for
    wgmma) or arrivals. An instruction waits for the arrivals, and the asynchronous operations, of
    its object and phase. Of `dropped` events, those beyond the limit, only `counts` knows.

    `jumps` (dtype JUMP) are the warps' paths: from its `own`-th on, a warp's executed instructions
    are those from `pc` on, executed by `lanes` (a bit each), up to its next jump.

    `counts` (dtype COUNT), by warp of a CTA and instruction, sums over CTAs: times that a warp and
    that a lane executed it, times and steps that it waited, and amounts.
    """

    name: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    cluster: tuple[int, int, int]
    instructions: tuple[Instruction, ...]
    events: npt.NDArray[np.void]
    jumps: npt.NDArray[np.void]
    counts: npt.NDArray[np.void]
    dropped: int
    steps: int
    finding: str


def read(facts: dict[str, Any]) -> Recording:
    """What a launch left behind, from the library that ran it."""
    instructions = tuple(Instruction(*line) for line in facts["instructions"])
    return Recording(
        name=facts["name"],
        grid=facts["grid"],
        block=facts["block"],
        cluster=facts["cluster"],
        instructions=instructions,
        events=np.frombuffer(facts["events"], EVENT),
        jumps=np.frombuffer(facts["jumps"], JUMP),
        counts=np.frombuffer(facts["counts"], COUNT).reshape(-1, len(instructions)),
        dropped=facts["dropped"],
        steps=facts["steps"],
        finding=facts["finding"],
    )


@contextlib.contextmanager
def record(max_events: int = MAX_EVENTS) -> Iterator[list[Recording]]:
    """Record every launch on the emulator that ends within; the list is filled at the end.

    Up to `max_events` events of 56 bytes are kept of each. Results must be ready before the context
    ends (`jax.block_until_ready`). One at a time in a process: ValueError for a bad limit,
    RuntimeError for a second one.
    """
    global _recording
    if not 1 <= max_events <= 2**32:
        raise ValueError(f"max_events is {max_events}, expected a number from 1 to 2**32")
    if _recording:
        raise RuntimeError("this process is recording already: end the other record() first")
    recordings: list[Recording] = []
    extension = ffi.extension()
    _recording = True
    extension.emulator_start_recording(max_events)
    try:
        yield recordings
    finally:
        recordings += map(read, extension.emulator_take_recordings())
        _recording = False


_recording = False
