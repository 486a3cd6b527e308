"""Waits of each warp of one CTA in the order of the scheduler, as text and as a picture."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jax_fa4.emulator.recording import ASYNC, DONE, STUCK, WAIT, Recording
from jax_fa4.emulator.roles import roles

AXIS = "steps of the scheduler: one instruction of one warp each, in an order that the seed decides"
NOT_TIME = "The emulator models no time; lengths say what waited for what, not how long."
NO_MATPLOTLIB = (
    "a picture needs matplotlib, which the extra `demo` installs:\n"
    "    pip install '.[demo]'        (in a checkout of jax_fa4)\n"
    "    pip install matplotlib\n"
    "without --output the timeline is printed as text"
)

# What a wait is for: its name, the beginning of its opcode, a letter, a colour.
_WAITS = (
    ("mbarrier", "mbarrier", "m", "#c0392b"),
    ("barrier of warps", "bar", "b", "#e08e0b"),
    ("products", "wgmma", "p", "#8e44ad"),
    ("tensor memory", "tcgen05", "t", "#8e44ad"),
    ("copies", "cp.", "c", "#2c5f9e"),
    ("other", "", "o", "#555555"),
)
# Asynchronous operations likewise.
_ASYNC = (
    ("copy under way", "cp.", "#5b9bd5"),
    ("product under way", "wgmma", "#58a55c"),
    ("product under way", "tcgen05.mma", "#58a55c"),
    ("commit under way", "tcgen05.commit", "#b7b7b7"),
    ("store to tensor memory", "tcgen05.st", "#d5a6bd"),
)


def text(recording: Recording, cta: int = 0, width: int = 100, longest: int = 5) -> str:
    """One strip a warp, and what its longest waits were for."""
    return "\n".join(_text(recording, cta, width, longest))


def _text(recording: Recording, cta: int, width: int, longest: int) -> Iterator[str]:
    events = of_cta(recording, cta)
    begin, end = _span(events)
    names = ", ".join(f"{letter} {name}" for name, _, letter, _ in _WAITS)
    scale = f"{(end - begin) / width:.0f} a column"
    yield f"{recording.name}, CTA {cta}, steps {begin} to {end}, {scale}"
    yield f"waits for: {names}; - runs or is ready; ! never went on"
    yield f"({AXIS})"
    yield NOT_TIME
    for role in roles(recording):
        yield f"{role}"
        for warp in role.warps:
            own = events[events["warp"] == warp]
            yield f"  {warp:3d} {_strip(recording, own, begin, end, width)}"
        waits = events[np.isin(events["warp"], role.warps) & _waiting(recording, events)]
        order = np.argsort(waits["begin"].astype(np.int64) - waits["end"].astype(np.int64))
        for event in waits[order[:longest]]:
            yield f"      {describe(recording, event)}"


def of_cta(recording: Recording, cta: int) -> npt.NDArray[np.void]:
    """The events of one CTA; ValueError if there are none."""
    events: npt.NDArray[np.void] = recording.events[recording.events["cta"] == cta]
    if not len(events):
        known = ", ".join(map(str, np.unique(recording.events["cta"])))
        where = f"there are some of the CTAs {known}" if known else "the kernel never synchronises"
        raise ValueError(f"no events of CTA {cta}: {where}")
    return events


def describe(recording: Recording, event: npt.NDArray[np.void]) -> str:
    """One event in words."""
    line = recording.instructions[event["pc"]]
    where = f"PTX line {line.line}"
    if line.file:
        where += f", {Path(line.file).name}:{line.source_line}"
    of = f"0x{int(event['object']):x}" if event["object"] > 15 else str(event["object"])
    return (
        f"warp {event['warp']}: {event['begin']} to {event['end']}"
        f"{' (never went on)' if event['kind'] == STUCK else ''}: {line.opcode} "
        f"of {of}, phase {event['phase']}, {where}"
    )


def _span(events: npt.NDArray[np.void]) -> tuple[int, int]:
    return int(events["begin"].min()), max(int(events["end"].max()), int(events["begin"].min()) + 1)


def _waiting(recording: Recording, events: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    """Which events are waits, ended or not; what is under way is none."""
    waits = np.array(["wait" in i.opcode or "sync" in i.opcode for i in recording.instructions])
    stuck = (events["kind"] == STUCK) & waits[events["pc"]]
    return np.asarray((events["kind"] == WAIT) | stuck)


def _kind(opcode: str) -> tuple[str, str, str, str]:
    return next(kind for kind in _WAITS if opcode.startswith(kind[1]))


def _strip(
    recording: Recording, events: npt.NDArray[np.void], begin: int, end: int, width: int
) -> str:
    if not len(events):
        return ""
    scale = width / (end - begin)
    strip = [" "] * width
    first, last = _span(events[events["kind"] != ASYNC] if len(events) else events)

    def fill(start: int, stop: int, letter: str) -> None:
        for at in range(int((start - begin) * scale), max(int((stop - begin) * scale), 1)):
            strip[min(at, width - 1)] = letter

    fill(first, last, "-")
    for event in events[_waiting(recording, events)]:
        letter = _kind(recording.instructions[event["pc"]].opcode)[2]
        fill(int(event["begin"]), int(event["end"]), "!" if event["kind"] == STUCK else letter)
    return "".join(strip).rstrip()


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(recording: Recording, path: Path, cta: int = 0) -> None:
    """The same as a picture, PNG or SVG by the name's ending; ModuleNotFoundError if it cannot."""
    if not can_draw():
        raise ModuleNotFoundError(NO_MATPLOTLIB)
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import patches, pyplot

    events = of_cta(recording, cta)
    rows = [(role, warp) for role in roles(recording) for warp in role.warps]
    figure, axes = pyplot.subplots(figsize=(14, 1.6 + 0.34 * len(rows)), layout="constrained")
    used: dict[str, str] = {}
    for row, (_, warp) in enumerate(rows):
        _draw_warp(recording, axes, events[events["warp"] == warp], row, used)
    axes.set_yticks(range(len(rows)), [f"{role.name}, warp {warp}" for role, warp in rows])
    axes.invert_yaxis()
    axes.set_xlabel(f"{AXIS}\n{NOT_TIME}")
    axes.set_title(f"{recording.name}, CTA {cta}: waits, and what is under way")
    handles = [patches.Rectangle((0, 0), 1, 1, color=color) for color in used.values()]
    axes.legend(handles, used, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def _draw_warp(
    recording: Recording, axes: Any, events: npt.NDArray[np.void], row: int, used: dict[str, str]
) -> None:
    """A warp's row: grey while it lives, waits as bars, what it started as lines below them."""
    if not len(events):
        return

    def bars(name: str, color: str, of: npt.NDArray[np.void], low: float, height: float) -> None:
        used.setdefault(name, color)
        begin = of["begin"].astype(np.int64)
        spans = list(zip(begin, of["end"].astype(np.int64) - begin, strict=True))
        axes.broken_barh(spans, (row + low, height), facecolors=color, linewidth=0)

    own = events[np.isin(events["kind"], (DONE, WAIT, STUCK))]
    first, last = _span(own if len(own) else events)
    alive = np.array([(first, last)], dtype=[("begin", np.uint64), ("end", np.uint64)])
    bars("runs or is ready", "#dddddd", alive, -0.35, 0.45)
    opcodes = np.array([line.opcode for line in recording.instructions])[events["pc"]]
    waiting = _waiting(recording, events)
    kinds = np.array([_kind(opcode)[0] for opcode in opcodes])
    for name, _, _, color in _WAITS:
        if (waiting & (kinds == name)).any():
            bars(f"waits: {name}", color, events[waiting & (kinds == name)], -0.35, 0.45)
    under_way = (events["kind"] == ASYNC) | ((events["kind"] == STUCK) & ~waiting)
    for name, prefix, color in _ASYNC:
        these = under_way & np.char.startswith(opcodes, prefix)
        if these.any():
            bars(name, color, events[these], 0.15, 0.15)
