"""The Hopper backward in pairs of CTAs, compiled here without a GPU: what ptxas makes of it."""

from __future__ import annotations

import dataclasses
import re

import pytest

pytest.importorskip(
    "cutlass", reason="NOT COMPILED: CuTe DSL is a build requirement only; .ci/run has it"
)

from jax_fa4.kernels.sm90.backward_pair.config import PAIR_CONFIGS
from jax_fa4.kernels.sm90.backward_pair_narrow.config import NARROW_CONFIGS
from jax_fa4.variants import CATALOG, Arch, BackwardVariant, Form

VARIANTS = [
    v
    for v in CATALOG
    if isinstance(v, BackwardVariant) and v.arch is Arch.SM90 and v.form is Form.PAIR
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_nothing_spills(variant, built):
    kernels, ptx = built(variant)
    assert all(kernel["stack_bytes"] == 0 for kernel in kernels), kernels
    assert ".target sm_90a" in ptx
    assert ".local" not in ptx
    # Products are 16 deep: S and dP over the head dim, dV and dK over 64 queries (in two halves of
    # 128 columns at 256), and a panel of dQ over the keys of both CTAs.
    products = len(re.findall(r"wgmma\.mma_async", ptx))
    halves, keys = (2, 64) if variant.head_dim == 256 else (1, 128)
    assert products == 2 * (variant.head_dim // 16) + 2 * halves * (64 // 16) + 2 * (keys // 16)


@pytest.mark.parametrize("head_dim", PAIR_CONFIGS)
def test_the_memory_map_fits(head_dim):
    config = PAIR_CONFIGS[head_dim]
    assert config.smem_bytes <= 227 * 1024
    with pytest.raises(ValueError, match="bytes of shared memory"):
        dataclasses.replace(config, do_stages=config.do_stages + 1)
    with pytest.raises(ValueError, match="registers"):
        dataclasses.replace(config, load_registers=config.load_registers + 8)
    with pytest.raises(ValueError, match="whole panels"):
        dataclasses.replace(config, dq_columns=48)


@pytest.mark.parametrize("head_dim", NARROW_CONFIGS)
def test_the_memory_map_of_narrow_heads_fits(head_dim):
    config = NARROW_CONFIGS[head_dim]
    assert config.smem_bytes <= 227 * 1024
    with pytest.raises(ValueError, match="bytes of shared memory"):
        dataclasses.replace(config, do_stages=config.do_stages + 8)
    with pytest.raises(ValueError, match="registers"):
        dataclasses.replace(config, consumer_registers=config.consumer_registers + 8)
    with pytest.raises(ValueError, match="whole panels"):
        dataclasses.replace(config, dq_columns=48)
