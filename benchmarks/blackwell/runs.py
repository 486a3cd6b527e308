"""What whole runs of the forward do, counted by the emulator: products, bytes, scalings, waits.

Scores have the standard deviation that a row's name says: queries and keys are normal numbers, and
the scale of their products is that over sqrt(D).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jax_fa4 import emulator
from jax_fa4.emulator.one_kernel import forward
from jax_fa4.emulator.recording import Recording, record
from jax_fa4.emulator.roles import roles
from jax_fa4.ops.band import Band

BLOCK = 128  # keys; and queries of a tile
STEP = 16  # of an instruction's sum
ELEMENT = 2  # bytes
WARP = 32  # queries
LENGTH = 2048
SPREADS = (1, 2, 4)
HEAD_DIMS = (64, 128)


@dataclass(frozen=True)
class Run:
    """One head of `LENGTH` queries and keys."""

    head_dim: int
    causal: bool
    spread: int  # standard deviation of the scores

    @property
    def name(self) -> str:
        """Of its column."""
        return f"{self.head_dim} {'causal' if self.causal else 'full'}, {self.spread}"

    def record(self) -> Recording:
        """What the emulator saw of it."""
        generator = np.random.default_rng(self.head_dim)
        shape = (1, LENGTH, 1, self.head_dim)
        q, k, v = (jnp.asarray(generator.standard_normal(shape), jnp.bfloat16) for _ in range(3))
        band = Band.make(
            LENGTH, LENGTH, causal=self.causal, window=(None, None), alignment="bottom_right"
        )
        name = f"fwd_sm100_bf16_d{self.head_dim}"
        scale = self.spread * self.head_dim**-0.5
        with emulator.options(arch="sm100"), record(1) as found:
            jax.block_until_ready(forward(name, q, k, v, softmax_scale=scale, band=band))
        return found[0]


RUNS = tuple(
    Run(head_dim, causal, spread)
    for head_dim in HEAD_DIMS
    for causal, spreads in ((False, SPREADS), (True, SPREADS[:1]))
    for spread in spreads
)


def counts(recording: Recording, head_dim: int) -> dict[str, int | str]:
    """Row name -> what one run did."""
    found, correction = Counter[str](), _warps(recording)["correction"]
    sums = {name: recording.counts[name].sum(0).tolist() for name in ("warps", "lanes", "amount")}
    for at, line in enumerate(recording.instructions):
        opcode, lanes = line.opcode, sums["lanes"][at]
        if opcode.startswith("tcgen05.mma"):
            found["products"] += lanes
        elif memory := re.match(r"tcgen05\.(ld|st)\..*\.x(\d+)\.b32", opcode):
            found[f"tensor memory {memory[1]}"] += 4 * lanes * int(memory[2])
            if memory[1] == "st":
                stores = int(recording.counts["warps"][correction, at].sum())
                found["columns scaled"] += stores * int(memory[2])
        elif opcode.startswith("cp.async.bulk.tensor"):
            found["loads" if "mbarrier" in opcode else "stores"] += sums["amount"][at]
        elif opcode.startswith("ex2"):
            found["special"] += lanes
        elif opcode.startswith("add.rm.f32x2"):
            found["polynomial"] += 2 * lanes
        elif opcode.startswith("vote.sync.any"):
            # Softmax votes, too: whether to make a factor at all.
            found["votes"] += int(recording.counts["warps"][correction, at].sum())
    return _rows(found, head_dim)


def _rows(found: Counter[str], head_dim: int) -> dict[str, int | str]:
    """From what was counted, what it comes to."""
    steps = head_dim // STEP + BLOCK // STEP  # of a tile's two products over a block of keys
    blocks = found["products"] // steps
    operands = 2 * BLOCK * head_dim * ELEMENT + BLOCK * head_dim * ELEMENT  # Q and K, V
    scaled = found["columns scaled"] // head_dim
    share = found["polynomial"] / (found["polynomial"] + found["special"])
    return {
        "tcgen05.mma": found["products"],
        "tensor memory ld, MB": f"{found['tensor memory ld'] / 1e6:.1f}",
        "tensor memory st, MB": f"{found['tensor memory st'] / 1e6:.1f}",
        "shared memory, written by TMA, MB": f"{found['loads'] / 1e6:.1f}",
        "shared memory, read by products, MB": f"{blocks * operands / 1e6:.1f}",
        "output stored by TMA, MB": f"{found['stores'] / 1e6:.2f}",
        "exponentials by special units": found["special"],
        "exponentials by polynomial": f"{found['polynomial']} ({share:.1%})",
        "blocks of a warp's 32 rows after the first": found["votes"],
        "of these, output scaled": f"{scaled} ({scaled / found['votes']:.1%})",
    }


def _warps(recording: Recording) -> dict[str, list[int]]:
    """Role -> its warps, of all warpgroups and ways through it."""
    found: dict[str, list[int]] = {}
    for role in roles(recording):
        found.setdefault(role.name.rstrip(" 0123456789"), []).extend(role.warps)
    return found


def waits(recording: Recording) -> dict[str, str]:
    """Role -> waits for mbarriers and named barriers, and how many of them did wait."""
    found = {}
    for role, warps in _warps(recording).items():
        total = waited = 0
        for at, line in enumerate(recording.instructions):
            if re.match(r"mbarrier\.try_wait|bar(rier)?\.sync", line.opcode):
                total += int(recording.counts["warps"][warps, at].sum())
                waited += int(recording.counts["waits"][warps, at].sum())
        found[f"{role}: waits, of which waited"] = f"{total}, {waited}"
    return found


def section() -> Iterator[str]:
    """The page's section: a column a run."""
    recordings = {run: run.record() for run in RUNS}
    tables = {run: counts(each, run.head_dim) for run, each in recordings.items()}
    of_roles = {run: waits(each) for run, each in recordings.items()}
    yield from ("## On the emulator", "")
    yield f"One head of {LENGTH} queries and keys, by head dim, mask and the scores' standard"
    yield "deviation. What products read of shared memory is by their shapes. A role's waits are"
    yield "those of its warps for barriers, under one order of events; the emulator has no times."
    yield ""
    yield "| | " + " | ".join(run.name for run in RUNS) + " |"
    yield "| --- |" + " ---: |" * len(RUNS)
    for table in (tables, of_roles):
        for row in table[RUNS[0]]:
            yield f"| {row} | " + " | ".join(str(table[run][row]) for run in RUNS) + " |"
    yield ""
