"""Tile sizes, stages and registers of the Hopper backward, by head dim."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jax_fa4.variants.variant import BackwardVariant

KEYS_PER_WARPGROUP = 64
CONSUMER_WARP = 4  # the first of the consumers' in a CTA
DQ_ROWS = 64
TURN_WARPS = 3  # of a warpgroup, whose fourth loads
_REGISTERS = 65536  # of an SM
_SMEM_BYTES = 232448  # what one CTA may have on sm_90: 227 KiB
_BARRIER_BYTES = 1024
_ELEMENT_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class BackwardConfig:
    """How one CTA is built.

    Two consumer warpgroups have 64 keys each; a third makes dQ. One warp of it loads, or with
    `consumer_loads` one of the first consumer: then loads do not wait for dQ, nor dQ for them. Q
    and dO have rings of `stages` tiles of `tile_m` queries, with a log-sum-exp and a delta a query,
    and dS one of `ds_stages` tiles of `tile_m` queries and all keys. dQ is made in panels of
    `dq_columns`, one after the other. With `lookahead` a consumer issues the next block's scores
    before it waits for this block's sums. Of `early_groups` groups of eight queries it reads the
    log-sum-exps and deltas before it waits for the scores and gradients that want them.

    Registers bind at head dim 128: dK and dV take 128 a thread, S and dP 64, their operands 32.
    The queries' warpgroup pays for what the consumers have above 168; 32 columns of dQ want 16.

    Where additions to dQ have an order, a fourth warpgroup has `turn_warps` that see to it.
    """

    head_dim: int
    stages: int
    tile_m: int = DQ_ROWS
    consumers: int = 2
    ds_stages: int = 2
    lookahead: bool = True
    consumer_loads: bool = False
    early_groups: int = 0
    dq_columns: int
    query_registers: int
    consumer_registers: int
    turn_warps: int = 0
    turn_registers: int = 0

    def __post_init__(self) -> None:
        if self.smem_bytes > _SMEM_BYTES:
            raise ValueError(f"{self} needs {self.smem_bytes} bytes of shared memory")
        if self.tile_m != DQ_ROWS or self.head_dim % self.dq_columns != 0:
            raise ValueError(f"{self} does not cut dQ into whole panels")
        registers = self.query_registers + self.consumers * self.consumer_registers
        registers = 128 * (registers + self.turn_registers)
        if registers > _REGISTERS // self.threads // 8 * 8 * self.threads:
            raise ValueError(f"{self} needs {registers} registers, more than the launch has")

    @property
    def ctas(self) -> int:
        """Of a cluster."""
        return 1

    @property
    def ordered(self) -> bool:
        """Whether additions to dQ have an order."""
        return self.turn_warps > 0

    @property
    def blocks_of_a_head(self) -> int:
        """Of keys, at most, whose CTAs start together where they take turns by ascending keys."""
        return 8

    @property
    def ascends(self) -> bool:
        """Whether turns are by ascending keys always."""
        return False

    @property
    def counts_consumers(self) -> bool:
        """Whether consumers ask if they are, though all that are left may be."""
        # NOTES: at head dim 64 without need: what ptxas makes of it is faster, at 128 slower.
        return self.ordered or self.head_dim <= 64

    @property
    def few_registers(self) -> bool:
        """Whether panels of dQ are as few_registers.py says."""
        return self.query_registers <= 40

    @property
    def tile_n(self) -> int:
        """Keys of a CTA."""
        return KEYS_PER_WARPGROUP * self.consumers

    @property
    def head_dim_v(self) -> int:
        return self.head_dim

    @property
    def streams_queries(self) -> bool:
        """Whether Q and dO should leave room in L2 for what is read more often."""
        return False

    @property
    def query_columns(self) -> int:
        """Of a stage of Q."""
        return self.head_dim

    @property
    def gradient_columns(self) -> int:
        """Of a stage of dO."""
        return self.head_dim_v

    @property
    def q_stages(self) -> int:
        return self.stages

    @property
    def do_stages(self) -> int:
        return self.stages

    @property
    def key_threads(self) -> int:
        """Of the warpgroups that read K."""
        return 128 * (1 + self.consumers)

    @property
    def threads(self) -> int:
        return self.key_threads + (128 if self.ordered else 0)

    @property
    def panels(self) -> int:
        """Of a block of dQ."""
        return self.head_dim // self.dq_columns

    @property
    def smem_bytes(self) -> int:
        keys = 2 * self.tile_n * self.head_dim
        queries = 2 * self.stages * self.tile_m * (self.head_dim + 2)
        ds = self.ds_stages * self.tile_m * self.tile_n
        return (keys + queries + ds) * _ELEMENT_BYTES + _BARRIER_BYTES


BACKWARD_CONFIGS: dict[int, BackwardConfig] = {
    64: BackwardConfig(
        head_dim=64,
        stages=3,
        dq_columns=64,
        query_registers=88,
        consumer_registers=208,
    ),
    96: BackwardConfig(
        head_dim=96,
        stages=3,
        dq_columns=32,
        query_registers=72,
        consumer_registers=216,
    ),
    128: BackwardConfig(
        head_dim=128,
        stages=3,
        ds_stages=3,
        consumer_loads=True,
        early_groups=4,
        dq_columns=32,
        query_registers=56,
        consumer_registers=224,
    ),
}

# NOTES: 40 registers do not suffice for products of 32 columns.
_ORDERED: dict[int, dict[str, int]] = {
    64: {"query_registers": 64, "consumer_registers": 208, "turn_registers": 32},
    96: {"query_registers": 48, "consumer_registers": 216, "turn_registers": 32},
    128: {
        "ds_stages": 2,
        "consumer_loads": False,
        "early_groups": 0,
        "dq_columns": 16,
        "query_registers": 40,
        "consumer_registers": 224,
        "turn_registers": 24,
    },
}


# The tanh takes the registers of loads, and of rows read early.
_SOFTCAP: dict[int, dict[str, int]] = {128: {"consumer_loads": False, "early_groups": 2}}


def config_of(variant: BackwardVariant) -> BackwardConfig:
    """How the variant's CTAs are built."""
    config = BACKWARD_CONFIGS[variant.head_dim]
    if variant.softcap:
        return replace(config, **_SOFTCAP.get(variant.head_dim, {}))
    if not variant.deterministic:
        return config
    return replace(config, turn_warps=TURN_WARPS, **_ORDERED[variant.head_dim])
