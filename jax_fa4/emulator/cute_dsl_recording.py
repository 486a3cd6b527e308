"""What csrc/cute_dsl/library.cc hands over of recorded launches."""

from __future__ import annotations

import ctypes
from typing import Any

from jax_fa4.emulator.recording import Recording, read


class _Facts(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("grid", ctypes.c_uint64 * 3),
        ("block", ctypes.c_uint64 * 3),
        ("cluster", ctypes.c_uint64 * 3),
        ("instructions", ctypes.c_char_p),
        ("events", ctypes.c_void_p),
        ("events_bytes", ctypes.c_uint64),
        ("jumps", ctypes.c_void_p),
        ("jumps_bytes", ctypes.c_uint64),
        ("counts", ctypes.c_void_p),
        ("counts_bytes", ctypes.c_uint64),
        ("dropped", ctypes.c_uint64),
        ("steps", ctypes.c_uint64),
        ("finding", ctypes.c_char_p),
    )


def recordings_of(library: ctypes.CDLL) -> list[Recording]:
    """Ends the library's recording; a launch each, in order."""
    recordings: list[Recording] = []

    def take(facts: Any) -> None:
        recordings.append(read(_facts_of(facts.contents)))

    library.jax_fa4_take_recordings(ctypes.CFUNCTYPE(None, ctypes.POINTER(_Facts))(take))
    return recordings


def _facts_of(facts: _Facts) -> dict[str, Any]:
    instructions = [
        (opcode, int(line), file, int(source_line))
        for opcode, line, file, source_line in (
            text.split("\t") for text in facts.instructions.decode().splitlines()
        )
    ]
    return {
        "name": facts.name.decode(),
        "grid": tuple(facts.grid),
        "block": tuple(facts.block),
        "cluster": tuple(facts.cluster),
        "instructions": instructions,
        "events": ctypes.string_at(facts.events or 0, facts.events_bytes),
        "jumps": ctypes.string_at(facts.jumps or 0, facts.jumps_bytes),
        "counts": ctypes.string_at(facts.counts or 0, facts.counts_bytes),
        "dropped": facts.dropped,
        "steps": facts.steps,
        "finding": facts.finding.decode(),
    }
