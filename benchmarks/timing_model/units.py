"""What the parts of a multiprocessor cost, in cycles: every constant of the model, with its source.

[B] is measured on a B200 and published (microbench-blackwell: its fit of tcgen05.mma, TMA and LDG
latencies), [P] FlashAttention-4's paper, [G] the CUDA programming guide's throughput table, [C]
what compilers assume (ptxas' stall counts), [A] an assumption, measured nowhere that we know.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from benchmarks.timing_model.listing import Sass


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One multiprocessor's rates and latencies in cycles, and how many there are."""

    name: str
    multiprocessors: int
    hertz: float  # [P: the clock of its roofline]
    flops: int  # of the tensor core, 16-bit operands [B: 8153]
    # Latency of a product beyond its share of the pipe, from issue to a warp that saw its commit;
    # A in shared memory, A in tensor memory. [B] 136 and 104 for one CTA, 170 and 138 for two.
    product_latency: dict[tuple[int, bool], int]
    smem_bytes: int = 128  # a cycle [B: products with operands in shared memory meet it]
    tmem_bytes: int = 128  # a cycle and sub-partition [A: 4 bytes a lane]
    tmem_latency: int = 30  # [A]
    special: int = 8  # cycles of an instruction of a warp: 16 lanes a cycle [P]
    packed: int = 2  # two operations a lane at 128 lanes a cycle [P, A]
    half_rate: int = 2  # integers, selections, conversions, minima: 64 lanes a cycle [G, cc 9.0]
    # The same two while a warpgroup's product runs, whose accumulators are in registers, and a
    # special function's latency then.
    special_beside: float = 8
    half_rate_beside: float = 2
    special_late: float = 32
    wake: int = 30  # from a barrier's last arrival to the waiting warp's next instruction [A]
    try_latency: int = 20  # of an mbarrier that is complete already [A]
    special_latency: int = 24  # beyond the pipe's share [A]
    shared_latency: int = 29  # of ld.shared [A: Hopper's]
    constant_latency: int = 30  # constants, special registers, shuffles, votes [A]
    global_latency: int = 600  # of ld.global, mostly from L2 [B: 340 to 1200]
    load_latency: int = 800  # of a TMA load, mostly from L2 [B: 630 to 2000, DRAM and L2]
    load_bytes: int = 64  # a cycle, from L2 [A: Hopper's]
    memory_latency: int = 1000  # of a TMA load from device memory [A; B: up to 2000]
    memory: float = 8e12  # bytes a second, of the whole chip's device memory [data sheet]
    store_read_latency: int = 300  # until a TMA store has read shared memory [A]
    store_bytes: int = 128  # a cycle of that [A]
    remote_latency: int = 200  # beyond a local arrival, to the other CTA of a cluster [A]
    remote_copy_latency: int = 500  # of a copy from one CTA's shared memory to another's [A]
    remote_copy_bytes: int = 32  # a cycle of that [A: what a bulk store reads on an H100, U]
    fence_latency: int = 700  # of a fence for more than the CTA [A]
    launch: int = 1000  # from the end of a CTA to the first instruction of the next [A]
    kernel_launch_seconds: float = 2e-6  # of the whole grid: start and drain [A]

    @property
    def memory_bytes(self) -> float:
        """A multiprocessor's share of device memory, bytes a cycle."""
        return self.memory / self.multiprocessors / self.hertz


# [H] H100's white paper and the programming guide's table for compute capability 9.0, [L] measured
# on Hopper (arXiv 2402.13499), [N] measured on ours (benchmarks/NOTES.md), [U] measured on ours by
# kernels of one operation each (benchmarks/hopper/units, results/hopper-units.json).
H100 = Chip(
    name="H100 SXM",
    multiprocessors=132,  # [H; U: 64 cycles of m64n128k16, 8 and 2 of special and half rate]
    hertz=1.755e9,  # [A: every comparison has its own, measured]
    flops=4096,  # [H: 512 multiplications and additions a cycle and tensor core]
    # [U: 118 and 108 cycles of one m64n128k16, fence to wait, less its 64 and 11 until it is
    # issued; the same for 64 and 256 columns]
    product_latency={(1, False): 43, (1, True): 33},
    # [U: beside products of any shape minima and conversions take 3.9 cycles, exponentials 10.0
    # to 10.6; a softmax that takes 730 alone takes 1131, and the products 2 % longer]
    special_beside=10.5,
    half_rate_beside=4,
    # [U: chains of addition, multiplication and exponential, 16 of them in a warp: 3.3 cycles an
    # operation alone, 4.3 beside products; in the model 3.5 and 4.4]
    special_latency=11,
    special_late=36,
    global_latency=500,  # [L: 480]
    load_latency=290,  # [U: 298 of a copy of 128 bytes from L2 until its wait is over]
    load_bytes=87,  # [U: 196608 bytes in 2562 cycles, the same for all multiprocessors]
    memory_latency=615,  # [U: 621 for 128 bytes]
    memory=3.0e12,  # [N: a copy, read plus written]
    store_read_latency=43,  # [U: 47, 555 and 1067 cycles for 128, 16384 and 32768 bytes]
    store_bytes=32,
    launch=355,  # [U: median of 528 times]
)
B200 = Chip(
    name="B200",
    multiprocessors=148,
    hertz=1.85e9,
    flops=8192,
    product_latency={(1, False): 136, (1, True): 104, (2, False): 170, (2, True): 138},
)
ISSUE, FMA, ALU, UNIFORM, SPECIAL, MEMORY, TENSOR_MEMORY = range(7)

_UNIFORM = re.compile(r"^U(?!TC|TMA|CGABAR|SETMAXREG|BLK|VIRT)|^(R2UR|VOTEU|ELECT)")
_FMA = frozenset(
    ["FFMA", "FMUL", "FADD", "FFMA2", "FMUL2", "FADD2", "IMAD", "HFMA2", "HMUL2", "HADD2"]
)
_SPECIAL = frozenset(["MUFU", "I2F", "F2I", "F2F", "I2FP"])
_LATE = frozenset(
    ["LDC", "LDCU", "S2R", "S2UR", "SHFL", "CS2UR", "REDUX", "VOTE", "R2UR", "ELECT", "B2R"]
)
_FREE = frozenset(
    ["NOP", "BRA", "BSSY", "BSYNC", "EXIT", "BRX", "CALL", "RET", "WARPSYNC", "YIELD", "DEPBAR"]
)
_WIDTH = re.compile(r"\.(?:U|S)?(64|128)\b")
_TIMES = re.compile(r"\.x(\d+)")


@dataclass(frozen=True)
class Cost:
    """What one instruction of a warp takes: a pipe for so long, and its result after `latency`.

    `beside` and `late` are the same two while a warpgroup's product runs.
    """

    pipe: int
    cycles: float
    latency: float
    beside: float
    late: float


def cost_of(sass: Sass, chip: Chip) -> Cost:
    """By its opcode alone."""
    pipe, cycles, latency = _cost(sass, chip)
    if pipe == SPECIAL:
        return Cost(pipe, cycles, latency, chip.special_beside, chip.special_late)
    return Cost(pipe, cycles, latency, chip.half_rate_beside if pipe == ALU else cycles, latency)


def _cost(sass: Sass, chip: Chip) -> tuple[int, float, float]:
    name = sass.name
    if name in _SPECIAL:
        return (SPECIAL, chip.special, chip.special + chip.special_latency)
    if name in ("LDTM", "STTM"):
        times = _TIMES.search(sass.opcode)
        cycles = 128 * int(times[1] if times else 1) // chip.tmem_bytes
        return (TENSOR_MEMORY, cycles, cycles + chip.tmem_latency)
    if name in ("LDS", "STS", "LDSM", "STSM", "ATOMS"):
        width = _WIDTH.search(sass.opcode)
        cycles = 4 * 32 * (int(width[1]) // 32 if width else 1) // chip.smem_bytes
        return (MEMORY, cycles, cycles + chip.shared_latency)
    if name in ("LDG", "LD", "ATOMG", "STG", "ST", "RED"):
        return (MEMORY, 4, chip.global_latency)
    if name == "MEMBAR" and "CTA" not in sass.opcode:
        return (ISSUE, 1, chip.fence_latency)
    if name == "SYNCS":
        return (ISSUE, 1, chip.try_latency)
    if name in _LATE:
        return (UNIFORM, chip.half_rate, chip.constant_latency)
    if name in _FMA:
        packed = name.endswith("2") or name == "IMAD"
        return (FMA, chip.packed if packed else 1, 4)
    if name in _FREE or name.startswith(("UTC", "UTMA", "BAR", "FENCE", "MEMBAR", "HGMMA")):
        return (ISSUE, 1, 12)
    if _UNIFORM.match(name):
        return (UNIFORM, chip.half_rate, 12)
    return (ALU, chip.half_rate, 6)


def product_cycles(rows: int, columns: int, depth: int, from_shared: bool, chip: Chip) -> float:
    """Of one tcgen05.mma on the pipe, for the rows and columns that one CTA holds: the larger of
    its arithmetic and its operands' way out of shared memory [B, within a cycle].

    Two CTAs each bring their own rows and half of the columns, and multiply them by all.
    """
    math = 2 * rows * columns * depth / chip.flops
    operands = 2 * depth * (columns + (rows if from_shared else 0))
    return max(math, operands / chip.smem_bytes)
