"""What a configuration of the Blackwell forward says: tiles, memory maps, registers."""

from __future__ import annotations

from dataclasses import dataclass

WARP_SIZE = 32
WARPS = 4  # of a warpgroup
ROWS = 128  # of a tile of queries: the lanes of tensor memory, a softmax thread each
TILE_N = 128  # keys of a block
P_HEAD = TILE_N * 3 // 4  # columns of P that a product with V may begin with
TILE_PLACES = 2  # for numbers of claimed tiles that not all roles have heard of
CLAIM_BYTES = 16  # of the answer to a claim
SLOTS = 2  # of scores and P in tensor memory where a CTA has one tile of queries
TMEM_COLUMNS = 512  # all of it: one CTA a multiprocessor
POLYNOMIAL_PERIOD = 16  # pairs of columns
RESCALE_THRESHOLD = 8.0  # P is below 2^8, far from overflow in bfloat16 and in float16
_SMEM_BYTES = 232448  # what one CTA may have on sm_100: 227 KiB
_SMALL_BYTES = 3072  # barriers and row statistics, before the tiles
_OUTPUT_BYTES = 2  # of an element
_REGISTERS = 65536
_LAUNCH_REGISTERS = 128  # of each of 512 threads


@dataclass(frozen=True, kw_only=True)
class TensorMemory:
    """Who has which columns of the 128 lanes x 512 columns of 32 bits.

    P takes half the columns of its scores, two elements a cell, or with 8 bits a quarter. Two
    tiles of queries:

        | S | P[0] | P[1] | O[0] | O[1] |            `score_slots` 1: both tiles' S, in turn
        | S[0] | S[1] | P[0] | P[1] | O[0] | O[1] |  2, where there is room: head dim 64

    Softmax takes a block's scores out at once, and the next S may be computed while it makes P
    of them. One tile:

        | S[0], P[0] | S[1], P[1] | O[0] | O[1] |    head dim 256: O[0] alone

    P lies in the upper half of its scores. What the next S must not overwrite is P, before the
    product with V has read it; one thread issues both.
    """

    outputs: int
    head_dim_v: int
    score_slots: int
    p_over_s: bool
    p_columns: int

    def scores_of(self, t):
        """First column of S[t]; `t` may be a value of the device if there are two slots."""
        return TILE_N * (t if self.score_slots == SLOTS else 0)

    def probabilities_of(self, t):
        """First column of P[t]."""
        if self.p_over_s:
            return TILE_N * t + TILE_N // 2
        return TILE_N * self.score_slots + self.p_columns * t

    def output_of(self, t):
        """First column of O[t]."""
        own = 0 if self.p_over_s else self.p_columns * self.outputs
        return TILE_N * self.score_slots + own + self.head_dim_v * t

    @property
    def columns(self) -> int:
        """How many there are in use."""
        return self.output_of(self.outputs)


@dataclass(frozen=True, kw_only=True)
class ForwardConfig:
    """How one CTA is built: `q_tiles` tiles of 128 queries against blocks of 128 keys.

    It has `outputs` accumulators, and for each a warpgroup of softmax. Two for one tile of
    queries each take every other block, and are merged at the tile's end. V and O have
    `head_dim_v` columns, the same as Q and K unless said. K and V share a ring of `kv_stages`
    stages: a block of K takes `k_parts` of them, each with a part of its columns, and a block of
    V takes `v_parts`, each with a part of its keys; all parts are of one size. With a `cta_group`
    of 2, a pair of CTAs multiplies tile t of both as one of 256 rows: each has its own rows of
    Q, S, P and O, and half of every block, of K its keys, of V its columns. `polynomial` says
    which of POLYNOMIAL_PERIOD neighbouring pairs of exponentials the CUDA cores compute instead
    of the special-function units. The output leaves through shared memory `output_columns` at a
    time, in as many stages as there are tiles; `scaled_columns` of it a correction thread has in
    registers while it scales it. P goes to tensor memory by columns as `p_parts` has it, of which
    one ends at P_HEAD. `score_slots` are those of `TensorMemory`. Registers
    are for a thread of a softmax warp, of a correction warp, and of the other four warps; without a
    second accumulator, the warps of its softmax keep the 128 of the launch. Q, K, V and P have
    `element_bytes` an element, O has two. P, and its sum, are `p_factor` times exp2 of the distance
    from the running maximum, which moves when that would be above `rescale_threshold`.
    With `claims_tiles` the grid has a CTA for every tile, and those that run claim the tiles of
    others: see `schedule`. `bounded` and `softcap`: see the
    modules of these names.
    """

    head_dim: int
    q_tiles: int
    outputs: int
    kv_stages: int
    output_columns: int
    polynomial: tuple[int, ...]
    softmax_registers: int
    correction_registers: int
    other_registers: int
    head_dim_v: int = 0
    score_slots: int = SLOTS
    scaled_columns: int = 32
    p_parts: tuple[tuple[int, int], ...] = ((0, 32), (32, 64), (64, 96), (96, 128))
    k_parts: int = 1
    v_parts: int = 1
    cta_group: int = 1
    element_bytes: int = 2
    p_factor: float = 1.0
    rescale_threshold: float = RESCALE_THRESHOLD
    claims_tiles: bool = False
    bounded: bool = False
    softcap: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "head_dim_v", self.head_dim_v or self.head_dim)
        if self.head_dim * self.v_parts != self.head_dim_v * self.k_parts:
            raise ValueError(f"{self} has parts of K and of V that differ in size")
        if self.claims_tiles and (self.q_tiles, self.cta_group) != (2, 1):
            raise ValueError(f"{self} claims tiles, for which a CTA must be alone and have two")
        if self.smem_bytes > _SMEM_BYTES:
            raise ValueError(f"{self} needs {self.smem_bytes} bytes of shared memory")
        registers = 128 * (
            self.outputs * self.softmax_registers
            + (2 - self.outputs) * _LAUNCH_REGISTERS
            + self.correction_registers
            + self.other_registers
        )
        if registers > _REGISTERS:
            raise ValueError(f"{self} needs {registers} registers of the SM's {_REGISTERS}")
        if self.tensor_memory.columns > TMEM_COLUMNS:
            raise ValueError(f"{self} needs more than {TMEM_COLUMNS} columns of tensor memory")

    @property
    def rows(self) -> int:
        """Rows of queries of a product."""
        return ROWS * self.cta_group

    @property
    def tile_m(self) -> int:
        """Rows of queries of a tile of the scheduler: of a CTA or of a pair."""
        return self.rows * self.q_tiles

    @property
    def smem_bytes(self) -> int:
        """Of one CTA."""
        rows = ROWS * self.q_tiles
        ring = self.kv_stages * TILE_N * self.head_dim // self.k_parts // self.cta_group
        elements = rows * self.head_dim + ring
        output = rows * self.output_columns
        return elements * self.element_bytes + output * _OUTPUT_BYTES + _SMALL_BYTES

    @property
    def divides_by_products(self) -> bool:
        """Whether tiles are found by divisors made before; elsewhere ptxas would spill."""
        alone = self.bounded and self.q_tiles == 1
        return self.head_dim == self.head_dim_v and self.element_bytes > 1 and not alone

    @property
    def output_parts(self) -> int:
        """How many pieces a tile of the output leaves in."""
        return self.head_dim_v // self.output_columns

    def output_stage(self, t: int, part: int) -> int:
        """The stage of sO that a piece of O[t] leaves by: each in turn."""
        return (t * self.output_parts + part) % self.q_tiles

    @property
    def tensor_memory(self) -> TensorMemory:
        return TensorMemory(
            outputs=self.outputs,
            head_dim_v=self.head_dim_v,
            score_slots=self.score_slots,
            p_over_s=self.q_tiles == 1,
            p_columns=TILE_N * self.element_bytes // 4,
        )
