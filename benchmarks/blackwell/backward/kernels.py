"""Recordings of a backward replayed: what a CTA costs, and the whole backward of a cell."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from benchmarks.blackwell.timing.cells import HIDDEN, TOKENS
from benchmarks.timing_model.lines import Line, fit, makespan
from benchmarks.timing_model.recorded import Folder
from benchmarks.timing_model.units import Chip

ROOT = Path(__file__).resolve().parents[3]
BLOCK = 128  # queries of a visit, and keys of a CTA
_FLOPS = 2.5  # of the forward's two products: five
_SHORT, _LONG = 1024, 2048  # queries of the recordings


@dataclass
class Backward(Folder):
    """The main kernel of a backward, whose blocks of keys are of 128 for each of `ctas` CTAs.

    `roles` are the first warps of what it has, by name.
    """

    head_dim: int
    roles: dict[str, int]
    ctas: int = 1
    _lines: dict[bool, tuple[Line, float]] = field(default_factory=dict)

    def line(self, causal: bool, chip: Chip) -> tuple[Line, float]:
        """Cycles of a CTA (or a pair) by its visits, and how far the worst one is from it."""
        if causal not in self._lines:
            points = self._causal(chip) if causal else self._full(chip)
            found = fit(points)
            worst = max(abs(found(visits) / cycles - 1) for visits, cycles in points)
            self._lines[causal] = found, worst
        return self._lines[causal]

    def _full(self, chip: Chip) -> list[tuple[float, float]]:
        return [
            (queries / BLOCK, max(self.replay(f"full_{queries}", chip).end.values()))
            for queries in (_SHORT, _LONG)
        ]

    def _causal(self, chip: Chip) -> list[tuple[float, float]]:
        points = []
        for length in (_SHORT, _LONG):
            ends = sorted(self.replay(f"causal_{length}", chip).end.values())
            last = ends[self.ctas - 1 :: self.ctas]  # of a pair, done at nearly the same time
            points += [(float((at + 1) * self.ctas), end) for at, end in enumerate(last)]
        return points

    @cached_property
    def instructions(self) -> dict[str, float]:
        """Of a warp of each role, for one visit."""
        short, long = (
            {each.warp: len(each.code) for each in self.streams(f"full_{queries}") if not each.cta}
            for queries in (_SHORT, _LONG)
        )
        visits = (_LONG - _SHORT) / BLOCK
        return {role: (long[warp] - short[warp]) / visits for role, warp in self.roles.items()}

    def seconds(self, causal: bool, length: int, chip: Chip) -> float:
        """Of preprocess, main kernel and postprocess, of TOKENS tokens. CTAs of a head in order,
        those with most visits first."""
        line, _ = self.line(causal, chip)
        blocks = range(0, length, BLOCK * self.ctas)
        visits = [(length - (row if causal else 0)) / BLOCK for row in blocks]
        heads = TOKENS // length * (HIDDEN // self.head_dim)
        costs = [line(each) + chip.launch for _ in range(heads) for each in visits]
        main = makespan(costs, chip.multiprocessors // self.ctas) / chip.hertz
        return main + around(chip) + 3 * chip.kernel_launch_seconds

    def tflops(self, causal: bool, length: int, chip: Chip) -> float:
        products = 4.0 * _FLOPS * length * TOKENS * HIDDEN * (0.5 if causal else 1.0)
        return products / self.seconds(causal, length, chip) / 1e12


def around(chip: Chip) -> float:
    """Seconds that memory takes for the preprocess (O, dO; zeros) and the postprocess of dQ."""
    elements = TOKENS * HIDDEN
    return elements * (2 * 2 + 4 + 4 + 2) / chip.memory


def ours(place: Path, nvdisasm: str, head_dim: int, ctas: int, library: str) -> Backward:
    if not place.is_dir():
        module = "benchmarks.blackwell.backward.record"
        variant = f"bwd_sm100_bf16_d{head_dim}{'_pair' if ctas == 2 else ''}"
        command = [sys.executable, "-m", module, str(place), variant, library]
        subprocess.run(command, cwd=ROOT, check=True)
    roles = {"compute": 0, "reduce": 8, "products": 12, "load": 13}
    return Backward(place, nvdisasm, head_dim, roles, ctas)


def theirs(
    place: Callable[[str], Path],
    nvdisasm: str,
    peer: tuple[str, str],
    head_dim: int,
    ctas: int,
) -> dict[bool, Backward]:
    """FlashAttention-4's by mask; `peer` is its environment's Python and the library."""
    script = Path(__file__).with_name("record_flash_attention_4.py")
    roles = {"compute": 4, "reduce": 0, "products": 12, "load": 13}
    found = {}
    for causal, mask in ((False, "full"), (True, "causal")):
        pair = ["two-ctas"] if ctas == 2 else []
        folder = place("_".join([mask, *(["two_ctas"] if pair else [])]))
        if not folder.is_dir():
            python, library = peer
            arguments = [str(folder), library, str(head_dim), mask, *pair]
            subprocess.run([python, "-W", "ignore", str(script), *arguments], check=True)
        found[causal] = Backward(folder, nvdisasm, head_dim, roles, ctas)
    return found
