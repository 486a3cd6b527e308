"""The Hopper forward's code, compiled here without a GPU: what ptxas makes of it."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip(
    "cutlass", reason="NOT COMPILED: CuTe DSL is a build requirement only; .ci/run has it"
)

from jax_fa4.kernels.sm90.forward.config import FORWARD_CONFIGS
from jax_fa4.variants import CATALOG, FORWARD_HEAD_DIMS, Arch, ForwardVariant

VARIANTS = [v for v in CATALOG if isinstance(v, ForwardVariant) and v.arch is Arch.SM90]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_nothing_spills(variant, built):
    kernels, ptx = built(variant)
    assert all(kernel["stack_bytes"] == 0 for kernel in kernels), kernels
    assert ".target sm_90a" in ptx
    assert ".local" not in ptx


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_p_is_converted_before_the_output_is_scaled_where_it_says_so(variant, built):
    """There exponentials hide it; a compiler would sink it below (benchmarks/NOTES.md)."""
    config = FORWARD_CONFIGS[variant.head_dim, variant.head_dim_v]
    _, ptx = built(variant)
    blocks = ptx.split("vote.sync.any")[:-1]  # the vote whether any row's scale has moved
    assert len(blocks) == 3  # masked, not masked, masked
    for block in blocks:
        since_values_read = block.rpartition("wgmma.wait_group")[2]
        expected = config.tile_n // 4 if config.converts_early else 0
        assert since_values_read.count("cvt.rn.") == expected


def test_every_variant_has_a_config():
    assert set(FORWARD_CONFIGS) == set(FORWARD_HEAD_DIMS[Arch.SM90])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tile_n": 136}, "bytes of shared memory"),
        ({"producer_registers": 32}, "needs 65536 registers of 64512"),
        ({"consumers": 3, "tile_n": 48, "consumer_registers": 160}, "skip more than a block"),
    ],
)
def test_configs_that_cannot_run_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(FORWARD_CONFIGS[128, 128], **change)
