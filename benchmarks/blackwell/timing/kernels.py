"""Recordings replayed: a kernel's lines, counts and spans."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.blackwell.timing.cells import BLOCK, Kernel
from benchmarks.timing_model.lines import Line, fit
from benchmarks.timing_model.recorded import Folder
from benchmarks.timing_model.units import Chip

ROOT = Path(__file__).resolve().parents[3]
_CORRECTION = slice(8, 12)  # its warps


@dataclass
class Recorded(Folder):
    """A folder of recordings of one kernel, whose tiles have `rows` queries on `ctas` CTAs."""

    head_dim: int
    rows: int = 256
    ctas: int = 1
    _kernels: dict[bool, tuple[Kernel, float]] = field(default_factory=dict)

    def kernel(self, causal: bool, chip: Chip) -> tuple[Kernel, float]:
        """What a tile costs, and how far the worst simulated CTA is from its line."""
        if causal not in self._kernels:
            self._kernels[causal] = self._make_kernel(causal, chip)
        return self._kernels[causal]

    def _make_kernel(self, causal: bool, chip: Chip) -> tuple[Kernel, float]:
        points, further = self._points(causal, chip)
        first = fit(points)
        worst = max(abs(first(blocks) / cycles - 1) for blocks, cycles in points)
        name = self.folder.name
        kernel = Kernel(
            name=name,
            head_dim=self.head_dim,
            causal=causal,
            rows=self.rows,
            multiprocessors=self.ctas,
            first=first,
            further=None if further is None else Line(further - 8 * first.slope, first.slope),
        )
        return kernel, worst

    def _points(self, causal: bool, chip: Chip) -> tuple[list[tuple[float, float]], float | None]:
        """(blocks, cycles) of CTAs with one tile; cycles of a further one of 8 blocks."""
        if not causal:
            runs = [(keys, 1) for keys in (1024, 2048, 3072, 4096)]
            ends = [self._end(f"full_{keys}_{tiles}", chip) for keys, tiles in [*runs, (1024, 3)]]
            points = [(keys / BLOCK, end) for (keys, _), end in zip(runs, ends, strict=False)]
            return points, (ends[-1] - ends[0]) / 2
        points = []
        for length in (1024, 2048):
            ends = sorted(self.replay(f"causal_{length}", chip).end.values())
            last = ends[self.ctas - 1 :: self.ctas]  # of a cluster, done at nearly the same time
            points += [((at + 1) * self.rows / BLOCK, end) for at, end in enumerate(last)]
        return points, None

    def _end(self, run: str, chip: Chip) -> float:
        return max(self.replay(run, chip).end.values())

    def block(self, chip: Chip) -> float:
        """Cycles of a block, full mask."""
        return (self._end("full_4096_1", chip) - self._end("full_1024_1", chip)) / 24

    def softmax_block(self) -> tuple[float, float]:
        """Instructions of the first softmax warp for a block, and special functions among them."""
        counts = []
        for run in ("full_1024_1", "full_4096_1"):
            code = next(each.code for each in self.streams(run) if each.warp == 0)
            special = sum(self.listing.code[index].name == "MUFU" for index in code)
            counts.append((len(code), special))
        short, long = counts
        return (long[0] - short[0]) / 24, (long[1] - short[1]) / 24

    def counts(self, run: str) -> Counter[str]:
        """What one run did, by what the emulator counted."""
        recording, found = self.recording(run), Counter[str]()
        totals = {name: recording.counts[name].sum(0) for name in ("warps", "lanes", "amount")}
        for at, line in enumerate(recording.instructions):
            warps, lanes = int(totals["warps"][at]), int(totals["lanes"][at])
            opcode = line.opcode
            if opcode.startswith("tcgen05.mma"):
                found["products"] += lanes
            elif memory := re.match(r"tcgen05\.(ld|st)\..*\.x(\d+)\.b32", opcode):
                found[f"tensor memory {memory[1]}, bytes"] += 4 * lanes * int(memory[2])
                scaled = int(recording.counts["warps"][_CORRECTION, at].sum()) * int(memory[2])
                # Counted in columns first: a warp stores all of its output if it scales it.
                found["scaled"] += scaled if memory[1] == "st" else 0
            elif opcode.startswith("cp.async.bulk.tensor"):
                way = "loads" if "mbarrier" in opcode else "stores"
                found[f"TMA {way}, bytes"] += int(totals["amount"][at])
            elif opcode.startswith("ex2"):
                found["exponentials, special units"] += lanes
            elif opcode.startswith("add.rm.f32x2"):
                found["exponentials, polynomial"] += 2 * lanes
            elif opcode.startswith("vote.sync.any"):
                found["votes on rescaling"] += warps
        found["outputs of 32 queries scaled"] = found.pop("scaled") // self.head_dim
        return found


def record(folder: Path, variant: str, library: str | None) -> None:
    """Run record.py, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.blackwell.timing.record", str(folder), variant]
    subprocess.run([*command, *([library] if library else [])], cwd=ROOT, check=True)


def record_peer(
    folder: Path, python: str, library: str, head_dim: int, mask: str, ctas: int = 1
) -> None:
    """Run record_flash_attention_4.py in the peer's environment."""
    script = Path(__file__).with_name("record_flash_attention_4.py")
    command = [python, "-W", "ignore", str(script), str(folder), library, str(head_dim), mask]
    subprocess.run([*command, *["two-ctas"] * (ctas == 2)], check=True)
