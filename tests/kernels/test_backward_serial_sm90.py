"""The serial Hopper backward, compiled here without a GPU: what ptxas makes of it."""

from __future__ import annotations

import dataclasses
import re

import pytest

pytest.importorskip(
    "cutlass", reason="NOT COMPILED: CuTe DSL is a build requirement only; .ci/run has it"
)

from jax_fa4.kernels.sm90.backward_serial.config import SERIAL_CONFIGS
from jax_fa4.variants import CATALOG, Arch, BackwardVariant, Form
from jax_fa4.variants.catalog import is_deterministic

VARIANTS = [
    v
    for v in CATALOG
    if isinstance(v, BackwardVariant) and (v.arch, v.form) == (Arch.SM90, Form.SERIAL)
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_nothing_spills(variant, built):
    kernels, ptx = built(variant)
    assert all(kernel["stack_bytes"] == 0 for kernel in kernels), kernels
    assert ".target sm_90a" in ptx
    assert ".local" not in ptx
    # Products are 16 deep: S, before the loop, too, where it is made ahead, and dP over the head
    # dims, dV and dK over 64 queries, and over the keys a panel of dQ that is added and one that
    # is written.
    config = SERIAL_CONFIGS[variant.head_dim]
    scores = (2 + config.lookahead) * variant.head_dim // 16
    products = len(re.findall(r"wgmma\.mma_async", ptx))
    assert products == scores + 2 * (64 // 16) + 2 * config.tile_n // 16


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_is_deterministic_as_it_is(variant):
    assert is_deterministic(variant)
    assert dataclasses.replace(variant, deterministic=True) not in CATALOG


@pytest.mark.parametrize("head_dim", SERIAL_CONFIGS)
def test_the_memory_map_fits(head_dim):
    config = SERIAL_CONFIGS[head_dim]
    assert config.smem_bytes <= 227 * 1024
    with pytest.raises(ValueError, match="bytes of shared memory"):
        dataclasses.replace(config, stages=config.stages + 8)
    with pytest.raises(ValueError, match="registers"):
        dataclasses.replace(config, consumer_registers=232)
    with pytest.raises(ValueError, match="does not stage dK"):
        dataclasses.replace(config, ds_stages=1, head_dim=128, stages=2)
