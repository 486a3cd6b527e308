"""The Blackwell backward's code, compiled here without a GPU: what ptxas makes of it."""

from __future__ import annotations

import re

import pytest

pytest.importorskip(
    "cutlass", reason="NOT COMPILED: CuTe DSL is a build requirement only; .ci/run has it"
)

from bands import bands, sees

from jax_fa4.kernels.sm100.backward.config import BACKWARD_CONFIGS
from jax_fa4.kernels.sm100.backward.context import barrier_table
from jax_fa4.kernels.sm100.backward.roles import cuts_something, turn_of, visited_queries
from jax_fa4.kernels.toolkit.block_range import Band
from jax_fa4.variants import CATALOG, Arch, BackwardVariant, Form

VARIANTS = [
    v
    for v in CATALOG
    if isinstance(v, BackwardVariant)
    and v.arch is Arch.SM100
    and v.form is Form.USUAL
    and (v.head_dim, v.head_dim_v) in BACKWARD_CONFIGS
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_nothing_spills(variant, built):
    kernels, ptx = built(variant)
    assert all(kernel["stack_bytes"] == 0 for kernel in kernels), kernels
    assert ".target sm_100f" in ptx
    assert ".local" not in ptx
    # Products are 16 deep, and stand at two places each: before or in the loop, and after.
    of_scores = (variant.head_dim + variant.head_dim_v) // 16
    products = len(re.findall(r"tcgen05\.mma", ptx))
    assert products == 2 * (of_scores + 3 * 128 // 16)


@pytest.mark.parametrize("dims", BACKWARD_CONFIGS, ids=lambda dims: f"d{dims[0]}v{dims[1]}")
def test_the_memory_maps_fit(dims):
    config = BACKWARD_CONFIGS[dims]
    memory = config.tensor_memory
    parts = [
        range(memory.scores, memory.scores + 128),
        range(memory.dscores, memory.dscores + 128),
        range(memory.dv, memory.dv + config.head_dim_v),
        range(memory.dk, memory.dk + config.head_dim),
    ]
    dq = range(memory.dq, memory.dq + config.head_dim)
    if memory.dq_apart:
        parts.append(dq)
    else:
        assert set(dq) <= set(parts[1])
    used = [column for part in parts for column in part]
    assert len(set(used)) == len(used) == memory.columns <= 512
    assert config.smem_bytes <= 232448
    barriers = sum(spec.stages for spec in barrier_table(config).values())
    assert 8 * barriers + 128 + 4 * 2 * 128 * 2 <= 3072


def _visits(band):
    """The blocks of queries that each block of keys visits."""
    spans = (visited_queries(band, key) for key in range(0, band.seqlen_k, 128))
    return [range(first, first + blocks) for first, blocks in spans]


def test_every_visible_pair_is_visited_and_what_is_cut_is_masked():
    for band in bands(100):
        visits = _visits(band)
        for query in range(0, band.seqlen_q, 31):
            for key in range(band.seqlen_k):
                if sees(band, query, key):
                    assert query // 128 in visits[key // 128], band
        for n, blocks in enumerate(visits):
            for m in blocks:
                corners = [(128 * m + i, 128 * n + j) for i in (0, 127) for j in (0, 127)]
                whole = all(sees(band, *corner) for corner in corners)
                whole = whole and 128 * (n + 1) <= band.seqlen_k
                assert bool(cuts_something(band, 128 * n, 128 * m)) == (not whole), band


def test_visits_stay_within_the_queries():
    for band in bands(1000):
        blocks = -(-band.seqlen_q // 128)
        assert all(0 <= v.start < v.stop <= blocks for v in _visits(band)), band


# A window that begins far along the keys: more CTAs than rows in a block have none before them.
FAR_WINDOW = Band(32412, 32512, 256, 32768)


def test_turns_count_those_who_came_before():
    for band in (FAR_WINDOW, *bands(1000)):
        visits = _visits(band)
        for m in range(-(-band.seqlen_q // 128)):
            visitors = [n for n, blocks in enumerate(visits) if m in blocks]
            turns = [turn_of(band, 128 * n, m) for n in visitors]
            assert turns == list(range(len(visitors))), (band, m)
