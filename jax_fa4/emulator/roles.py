"""Which warps of a kernel do the same, and what to call them."""

from __future__ import annotations

import ast
import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jax_fa4.emulator.recording import Instruction, Recording

WARPGROUP = 4  # warps

# What a role is called that does it: the first that it does.
_TRADES = (
    ("tcgen05.mma", "products"),
    ("cp.async.bulk.tensor|global.tile.mbarrier", "loads"),
    ("cp.async.bulk.shared|global.mbarrier", "loads"),
    ("wgmma.mma_async", "consumer"),
    ("ex2", "softmax"),
    ("tcgen05.ld", "correction"),
    ("cp.async.bulk.tensor|global.shared", "stores"),
    ("cp.reduce", "stores"),
    ("cp.async", "loads"),
    ("st.global", "computes"),
)


@dataclass(frozen=True)
class Role:
    """Warps of a CTA that execute the same instructions."""

    name: str
    warps: tuple[int, ...]

    def __str__(self) -> str:
        first, last = self.warps[0], self.warps[-1]
        if len(self.warps) == 1:
            return f"{self.name} (warp {first})"
        if last - first + 1 == len(self.warps):
            return f"{self.name} (warps {first}-{last})"
        return f"{self.name} (warps {', '.join(map(str, self.warps))})"


def roles(recording: Recording) -> list[Role]:
    """The roles in order of their first warp; a role of several warpgroups is one role for each."""
    work = _by_work(recording)
    found = []
    for warps in work:
        name = _name(recording, warps)
        groups = _warpgroups(warps)
        for number, group in enumerate(groups):
            found.append(Role(f"{name} {number}" if len(groups) > 1 else name, group))
    return sorted(found, key=lambda role: role.warps[0])


def _by_work(recording: Recording) -> list[tuple[int, ...]]:
    """Warps by the instructions that matter among those that they execute."""
    telling = np.array([_tells(line.opcode) for line in recording.instructions], bool)
    same: dict[bytes, list[int]] = {}
    for warp, counts in enumerate(recording.counts):
        same.setdefault((counts["warps"] > 0)[telling].tobytes(), []).append(warp)
    return [tuple(warps) for warps in same.values()]


def _tells(opcode: str) -> bool:
    """Whether a role is told by it: elected lanes and masks differ between equal warps."""
    return opcode.startswith(("mbarrier.try_wait", "wgmma", "tcgen05", "ex2", "setmaxnreg"))


def _warpgroups(warps: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Whole warpgroups apart, if there is nothing else."""
    groups = [warps[i : i + WARPGROUP] for i in range(0, len(warps), WARPGROUP)]
    whole = all(
        len(group) == WARPGROUP and group[0] % WARPGROUP == 0 and group[-1] - group[0] == 3
        for group in groups
    )
    return groups if whole else [warps]


def _name(recording: Recording, warps: Iterable[int]) -> str:
    executed = recording.counts[list(warps)]["warps"].sum(0)
    done = [
        (line, int(times))
        for line, times in zip(recording.instructions, executed, strict=True)
        if times
    ]
    return _function(done) or _trade(done)


def _trade(done: list[tuple[Instruction, int]]) -> str:
    for words, trade in _TRADES:
        if any(all(word in line.opcode for word in words.split("|")) for line, _ in done):
            return trade
    return "idle"


def _function(done: list[tuple[Instruction, int]]) -> str:
    """The source's function that the role is in: the commonest around its waits and products."""
    names: Counter[str] = Counter()
    for line, times in done:
        if _tells(line.opcode) and line.file:
            name = _functions(line.file).get(line.source_line, "")
            names[name] += times if name else 0
    return max(names, key=lambda name: names[name], default="")


@functools.cache
def _functions(file: str) -> dict[int, str]:
    """The innermost function around each line of a Python file; nothing if it is not here.

    The kernels of the wheel name their sources from the package on. Those are not read: what
    their warps do tells the roles better than the functions that they share.
    """
    path = Path(file)
    if path.suffix != ".py" or not path.is_absolute() or not path.is_file():
        return {}
    names: dict[int, str] = {}
    for node in ast.walk(ast.parse(path.read_text())):  # outer functions come first
        if isinstance(node, ast.FunctionDef):
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                names[line] = node.name
    return names
