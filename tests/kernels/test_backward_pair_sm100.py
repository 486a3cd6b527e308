"""The Blackwell backward by pairs of CTAs, compiled without a GPU; and how pairs share work."""

from __future__ import annotations

import random
import re

import pytest

pytest.importorskip(
    "cutlass", reason="NOT COMPILED: CuTe DSL is a build requirement only; .ci/run has it"
)

from jax_fa4.kernels.sm100.backward.roles import turn_of, visited_queries
from jax_fa4.kernels.sm100.backward_pair.config import PAIR_CONFIGS, PAIR_KEYS
from jax_fa4.kernels.sm100.backward_pair.context import barrier_table
from jax_fa4.kernels.sm100.backward_pair.mma import _SLICES
from jax_fa4.kernels.toolkit.block_range import Band
from jax_fa4.variants import CATALOG, Arch, BackwardVariant, Form

VARIANTS = [
    v
    for v in CATALOG
    if isinstance(v, BackwardVariant) and (v.arch, v.form) == (Arch.SM100, Form.PAIR)
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_nothing_spills(variant, built):
    kernels, ptx = built(variant)
    assert all(kernel["stack_bytes"] == 0 for kernel in kernels), kernels
    assert ".target sm_100f" in ptx
    assert ".local" not in ptx
    # Products are 16 deep, and stand at two places each: before or in the loop, and after.
    of_scores = (variant.head_dim + variant.head_dim_v) // 16
    products = re.findall(r"tcgen05\.mma\.cta_group::(\d)", ptx)
    assert products == ["2"] * (2 * (of_scores + 2 * 128 // 16 + PAIR_KEYS // 16))


@pytest.mark.parametrize("dims", PAIR_CONFIGS, ids=lambda dims: f"d{dims[0]}v{dims[1]}")
def test_the_memory_maps_fit(dims):
    config = PAIR_CONFIGS[dims]
    memory = config.tensor_memory
    parts = [
        range(memory.scores, memory.scores + 128),
        range(memory.dscores, memory.dscores + 128),
        range(memory.dv, memory.dv + config.head_dim_v),
        range(memory.dk, memory.dk + config.head_dim),
    ]
    used = [column for part in parts for column in part]
    assert len(set(used)) == len(used) == memory.columns <= 512
    # dQ, half of whose columns are in other lanes, spares P^T, two elements of 16 bits a column.
    dq = range(memory.dq, memory.dq + config.head_dim // 2)
    assert set(dq) <= set(range(memory.scores + 128 // 2, memory.scores + 128))
    assert config.smem_bytes <= 232448
    barriers = sum(spec.stages for spec in barrier_table().values())
    assert 8 * barriers + 128 + 4 * 2 * 128 * 2 <= 3072


def test_depth_by_parts():
    """Compute warpgroup h has parts h and h + 2 of 32 queries, and one column for two of them."""
    queries = [32 * (h + 2 * part) + i for h in (0, 1) for part in (0, 1) for i in range(32)]
    assert [queries[16 * n] // 16 for n in range(8)] == list(_SLICES)


UNBOUNDED = 2**30


def _bands(count):
    """Lengths and bands at random, with ends beyond all queries and keys among them."""
    choose = random.Random(0)
    for _ in range(count):
        lower, upper = (
            choose.choice([-UNBOUNDED, UNBOUNDED, choose.randrange(-900, 900)]) for _ in range(2)
        )
        yield Band(lower, upper, choose.randrange(1, 800), choose.randrange(1, 1500))


def _visits(band):
    """The blocks of queries that each pair visits."""
    spans = (visited_queries(band, key, PAIR_KEYS) for key in range(0, band.seqlen_k, PAIR_KEYS))
    return [range(first, first + blocks) for first, blocks in spans]


def test_a_pair_visits_what_either_sees():
    for band in _bands(300):
        visits = _visits(band)
        blocks = -(-band.seqlen_q // 128)
        assert all(0 <= v.start < v.stop <= blocks for v in visits), band
        for key in range(0, band.seqlen_k, 128):
            first, count = visited_queries(band, key)
            seen = any(
                band.lower <= j - i <= band.upper
                for i in range(128 * first, min(128 * (first + count), band.seqlen_q))
                for j in range(key, min(key + 128, band.seqlen_k), 127)
            )
            if seen:
                own = set(range(first, first + count))
                assert own <= set(visits[key // PAIR_KEYS]), band


def test_turns_count_the_pairs_that_came_before():
    for band in _bands(1000):
        visits = _visits(band)
        for m in range(-(-band.seqlen_q // 128)):
            visitors = [n for n, blocks in enumerate(visits) if m in blocks]
            turns = [turn_of(band, PAIR_KEYS * n, m, PAIR_KEYS) for n in visitors]
            assert turns == list(range(len(visitors))), (band, m)
