"""What a chip allows the forward kernel: cycles of each unit for one step of one warpgroup.

A step is 64 query rows (one warpgroup) against one tile of keys: S = Q K^T, softmax,
O += P V. Each unit of a multiprocessor would need, were it alone,

    tensor cores   4 * 64 * N * D / flops_per_cycle
    exponentials   64 * N / ex2_per_cycle
    shared memory  (read Q, K, V operands + this step's share of the K, V tiles written)
                   / smem_bytes_per_cycle
    issue slots    instructions of the softmax and of the rescaling / lanes_per_cycle

so the largest of the four bounds the kernel, if everything overlaps. `python -m
benchmarks.roofline` prints the table; NOTES.md holds predictions and outcomes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.cells import HEAD_DIMS, Cell

ROWS = 64  # of one warpgroup's WGMMA
BYTES = 2  # bf16

# max, fma (scale and subtract), ex2, add, and half a pack of two floats to bf16.
SOFTMAX_INSTRUCTIONS = 4.5


@dataclass(frozen=True, kw_only=True)
class Chip:
    """Rates of one multiprocessor per cycle, and of the whole chip."""

    name: str
    multiprocessors: int
    flops_per_cycle: float  # dense bf16 tensor cores
    ex2_per_cycle: float
    smem_bytes_per_cycle: float
    lanes_per_cycle: float  # 4 schedulers of 32
    memory_bytes_per_second: float  # measured, reads plus writes
    matmul_tflops: float  # measured, 8192^3 bf16

    @property
    def sustained_hertz(self) -> float:
        """The clock at which the measured product would be perfect: the pace of all cycles."""
        return self.matmul_tflops * 1e12 / (self.multiprocessors * self.flops_per_cycle)


# Rates: CUDA programming guide and Hopper tuning guide, compute capability 9.0; the two
# measured figures were taken on one H100 80GB HBM3, driver 580.
H100 = Chip(
    name="H100 SXM",
    multiprocessors=132,
    flops_per_cycle=4096,
    ex2_per_cycle=16,
    smem_bytes_per_cycle=128,
    lanes_per_cycle=128,
    memory_bytes_per_second=3.0e12,
    matmul_tflops=801.0,
)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """The forward's work of one CTA: `warpgroups` x 64 query rows, `keys` keys a step."""

    head_dim: int
    warpgroups: int
    keys: int

    @property
    def rows(self) -> int:
        return ROWS * self.warpgroups


# The tiles of jax_fa4/kernels/sm90/forward/config.py, then others that fit the registers.
TILES: tuple[Tile, ...] = (
    Tile(head_dim=64, warpgroups=3, keys=128),
    Tile(head_dim=128, warpgroups=2, keys=128),
    Tile(head_dim=256, warpgroups=2, keys=80),
    Tile(head_dim=64, warpgroups=2, keys=128),
    Tile(head_dim=128, warpgroups=2, keys=176),
    Tile(head_dim=256, warpgroups=2, keys=64),
)


@dataclass(frozen=True, kw_only=True)
class StepCycles:
    """Cycles of each unit for one step of one warpgroup."""

    tensor: float
    exponential: float
    shared_memory: float
    issue: float

    @property
    def bound(self) -> float:
        return max(self.tensor, self.exponential, self.shared_memory, self.issue)


def step_cycles(tile: Tile, chip: Chip = H100) -> StepCycles:
    """The four costs. Q comes from shared memory, P from registers (the first product's
    A operand is read again for every step, K and V once by every warpgroup)."""
    n, d = tile.keys, tile.head_dim
    reads = BYTES * (ROWS * d + n * d + n * d)
    writes = BYTES * 2 * n * d / tile.warpgroups
    softmax = SOFTMAX_INSTRUCTIONS * ROWS * n
    rescale = ROWS * d
    return StepCycles(
        tensor=4 * ROWS * n * d / chip.flops_per_cycle,
        exponential=ROWS * n / chip.ex2_per_cycle,
        shared_memory=(reads + writes) / chip.smem_bytes_per_cycle,
        issue=(softmax + rescale) / chip.lanes_per_cycle,
    )


def keys_visited(cell: Cell, tile: Tile) -> float:
    """Mean keys that one CTA's rows go through, whole tiles only."""
    if not cell.causal:
        return math.ceil(cell.seqlen / tile.keys) * tile.keys
    starts = range(0, cell.seqlen, tile.rows)
    ends = [min(start + tile.rows, cell.seqlen) for start in starts]
    return sum(math.ceil(end / tile.keys) * tile.keys for end in ends) / len(ends)


def predict_tflops(
    cell: Cell, tile: Tile, *, cycles_per_step: float, fixed_seconds: float, chip: Chip = H100
) -> float:
    """TFLOP/s of a forward whose steps take `cycles_per_step` (of a warpgroup, one after
    another on the multiprocessor) and whose CTAs have a start and an end that overlap nothing."""
    ctas = cell.batch * cell.heads * math.ceil(cell.seqlen / tile.rows)
    steps = keys_visited(cell, tile) / tile.keys * tile.warpgroups
    seconds_per_cta = steps * cycles_per_step / chip.sustained_hertz + fixed_seconds
    # Full waves for equal CTAs; unequal ones, longest first, fill the last wave well.
    waves = ctas / chip.multiprocessors if cell.causal else math.ceil(ctas / chip.multiprocessors)
    return cell.flops / (waves * seconds_per_cta) / 1e12


def memory_seconds(cell: Cell, chip: Chip = H100) -> float:
    """Q, K, V read and O written once, with the float32 lse."""
    batch, seqlen, heads, head_dim = cell.shape
    rows = batch * seqlen * heads
    return rows * (4 * head_dim * BYTES + 4) / chip.memory_bytes_per_second


def preprocess_bytes(cell: Cell) -> int:
    """The backward's preprocess: O, dO, lse and dlse read; delta, lse_log2 and dq_accum written."""
    batch, seqlen, heads, head_dim = cell.shape
    return batch * seqlen * heads * (2 * head_dim * BYTES + 16 + 4 * head_dim)


def main() -> None:
    """Print cycles of each unit, the bound they imply, and the memory floors."""
    chip = H100
    print(
        f"{chip.name}: {chip.matmul_tflops:.0f} TFLOP/s measured, "
        f"paced at {chip.sustained_hertz / 1e9:.2f} GHz; cycles of one 64-row step"
    )
    print("D    tile      tensor  ex2  smem  issue  bound TFLOP/s  nothing overlaps")
    for tile in TILES:
        c = step_cycles(tile, chip)
        alone = chip.matmul_tflops * c.tensor / c.bound
        serial = chip.matmul_tflops * c.tensor / (c.tensor + c.exponential + c.issue)
        print(
            f"{tile.head_dim:<4} {tile.rows}x{tile.keys:<5} {c.tensor:6.0f} {c.exponential:5.0f}"
            f" {c.shared_memory:5.0f} {c.issue:6.0f} {alone:14.0f} {serial:17.0f}"
        )
    for head_dim in HEAD_DIMS:
        cell = Cell(head_dim=head_dim, seqlen=512, mask="full", pass_="fwd")
        print(
            f"D = {head_dim}: memory floor {memory_seconds(cell) * 1e6:.0f} us, "
            f"tensor floor {cell.flops / chip.matmul_tflops / 1e6:.0f} us at S = 512; "
            f"preprocess {preprocess_bytes(cell) / chip.memory_bytes_per_second * 1e6:.0f} us"
        )


if __name__ == "__main__":
    main()
