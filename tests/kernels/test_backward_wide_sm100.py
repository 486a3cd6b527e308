"""The Blackwell backward at wide heads, compiled here without a GPU: what ptxas makes of it."""

from __future__ import annotations

import re

import pytest

pytest.importorskip(
    "cutlass", reason="NOT COMPILED: CuTe DSL is a build requirement only; .ci/run has it"
)

from bands import bands, sees

from jax_fa4.kernels.sm100.backward_wide.config import WIDE_CONFIGS, Gradient
from jax_fa4.kernels.sm100.backward_wide.context import barrier_table
from jax_fa4.kernels.sm100.backward_wide.roles import (
    cuts_something,
    visited_keys,
    visited_queries,
)
from jax_fa4.variants import CATALOG, Arch, BackwardVariant, Form
from jax_fa4.variants.catalog import is_deterministic

VARIANTS = [
    v
    for v in CATALOG
    if isinstance(v, BackwardVariant)
    and v.arch is Arch.SM100
    and v.form is Form.USUAL
    and (v.head_dim, v.head_dim_v) in WIDE_CONFIGS
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_nothing_spills(variant, built):
    kernels, ptx = built(variant)
    assert all(kernel["stack_bytes"] == 0 for kernel in kernels), kernels
    assert ".target sm_100f" in ptx
    assert ".local" not in ptx
    # Products are 16 deep: S and dP stand once before the loop and in it, S twice before it where
    # it runs ahead, sums in it.
    of_s, of_dp, of_sum = variant.head_dim // 16, variant.head_dim_v // 16, 64 // 16
    products = {
        Gradient.DK: 3 * of_s + 2 * of_dp + of_sum,
        Gradient.DQ: 3 * of_s + 2 * of_dp + of_sum,
        Gradient.DV: 3 * of_s + of_sum,
        Gradient.DK_DV: 2 * of_s + 2 * of_dp + 2 * of_sum,
    }
    gradients = WIDE_CONFIGS[variant.head_dim, variant.head_dim_v].gradients
    found = len(re.findall(r"tcgen05\.mma", ptx))
    assert found == sum(products[gradient] for gradient in gradients)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_nothing_is_added_to_memory(variant, built):
    """Which is why the kernels are deterministic as they are."""
    _, ptx = built(variant)
    assert is_deterministic(variant)
    assert not re.search(r"^\s*(@\S+ )?(red|atom|cp\.reduce)\.", ptx, re.MULTILINE)


@pytest.mark.parametrize("dims", WIDE_CONFIGS, ids=lambda dims: f"d{dims[0]}v{dims[1]}")
def test_the_gradients_are_all_made(dims):
    made = WIDE_CONFIGS[dims].gradients
    assert sorted(name for g in made for name in g.name.split("_")) == ["DK", "DQ", "DV"]


@pytest.mark.parametrize("dims", WIDE_CONFIGS, ids=lambda dims: f"d{dims[0]}v{dims[1]}")
def test_the_memory_maps_fit(dims):
    config = WIDE_CONFIGS[dims]
    d, d_v = dims
    for gradient in config.gradients:
        memory = config.tensor_memory(gradient)
        parts = [
            range(memory.scores, memory.scores + 64),
            range(memory.dscores, memory.dscores + 64),
        ]
        if gradient is not Gradient.DV:
            parts.append(range(memory.wide, memory.wide + d))
        if gradient.takes_p:
            parts.append(range(memory.dv, memory.dv + d_v))
        if memory.holds_first:
            parts.append(range(memory.first, memory.first + d // 2))
        if memory.holds_second:
            parts.append(range(memory.second, memory.second + d_v // 2))
        used = [column for part in parts for column in part]
        assert len(set(used)) == len(used) == memory.columns <= 512
        own = 0 if memory.holds_first else 128 * d
        own += 0 if memory.holds_second or not gradient.takes_dp else 128 * d_v
        assert config.shares_own(gradient) == (own > 0)
        rings = 64 * (config.firsts(gradient) * d + config.seconds(gradient) * d_v)
        assert 2 * (own + rings) + 3072 == config.smem_bytes <= 232448
        # Two blocks at work, one on its way.
        assert config.firsts(gradient) >= 3
        assert config.seconds(gradient) >= 2
    barriers = sum(spec.stages for spec in barrier_table(config).values())
    assert 8 * barriers + 128 + 4 * 64 * 2 * 3 + 4 * 256 <= 3072


def _visits(band, of_keys):
    """The blocks of the stream that each tile of own rows visits."""
    length, visited = (band.seqlen_k, visited_queries) if of_keys else (band.seqlen_q, visited_keys)
    spans = (visited(band, row) for row in range(0, length, 128))
    return [range(first, first + blocks) for first, blocks in spans]


@pytest.mark.parametrize("gradient", [Gradient.DK, Gradient.DQ])
def test_every_visible_pair_is_visited_and_what_is_cut_is_masked(gradient):
    for band in bands(60):
        visits = _visits(band, gradient.of_keys)
        for query in range(0, band.seqlen_q, 31):
            for key in range(band.seqlen_k):
                own, streamed = (key, query) if gradient.of_keys else (query, key)
                if sees(band, query, key):
                    assert streamed // 64 in visits[own // 128], band
        for n, blocks in enumerate(visits):
            for m in blocks:
                corners = [(128 * n + i, 64 * m + j) for i in (0, 127) for j in (0, 63)]
                if gradient.of_keys:
                    corners = [(query, key) for key, query in corners]
                end = 128 * (n + 1) if gradient.of_keys else 64 * (m + 1)
                whole = all(sees(band, *corner) for corner in corners) and end <= band.seqlen_k
                assert bool(cuts_something(band, gradient, 128 * n, 64 * m)) == (not whole), band


def test_visits_stay_within_the_stream():
    for band in bands(1000):
        for of_keys, length in ((True, band.seqlen_q), (False, band.seqlen_k)):
            blocks = -(-length // 64)
            assert all(0 <= v.start < v.stop <= blocks for v in _visits(band, of_keys)), band
