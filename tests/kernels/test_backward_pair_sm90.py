"""The Hopper backward in pairs of CTAs, compiled here without a GPU: what ptxas makes of it."""

from __future__ import annotations

import dataclasses
import re

import pytest

pytest.importorskip(
    "cutlass", reason="NOT COMPILED: CuTe DSL is a build requirement only; .ci/run has it"
)

from jax_fa4.kernels.sm90.backward_pair.config import PAIR_CONFIGS
from jax_fa4.kernels.sm90.backward_pair_narrow.config import NARROW_CONFIGS, config_of
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
    # Products are 16 deep: S and dP over the head dims, dV and dK over 64 queries (wide ones in two
    # halves of their columns), and a panel of dQ, or one of each width, over the keys of both CTAs.
    products = len(re.findall(r"wgmma\.mma_async", ptx))
    halves, keys = (2, 64) if variant.head_dim > 128 else (1, 128)
    scores = variant.head_dim // 16 + variant.head_dim_v // 16
    widths = 2 if variant.deterministic and variant.head_dim <= 128 else 1
    assert products == scores + 2 * halves * (64 // 16) + widths * 2 * (keys // 16)
    assert ("ld.acquire.gpu" in ptx) == variant.deterministic


def test_turns_cost_narrow_pairs_their_registers():
    """The queries' warpgroup has too few for panels of 32 columns."""
    variant = next(v for v in VARIANTS if v.head_dim == 128 and v.deterministic)
    config = config_of(variant)
    assert (config.threads, config.key_threads) == (512, 384)
    assert config.few_registers
    assert not NARROW_CONFIGS[128].few_registers
    with pytest.raises(ValueError, match="registers"):
        dataclasses.replace(config, turn_registers=config.turn_registers + 8)


@pytest.mark.parametrize("dims", PAIR_CONFIGS, ids=lambda dims: f"d{dims[0]}v{dims[1]}")
def test_the_memory_map_fits(dims):
    config = PAIR_CONFIGS[dims]
    assert config.smem_bytes <= 227 * 1024
    with pytest.raises(ValueError, match="bytes of shared memory"):
        dataclasses.replace(config, do_stages=config.do_stages + 1)
    with pytest.raises(ValueError, match="registers"):
        dataclasses.replace(config, load_registers=config.load_registers + 16)
    with pytest.raises(ValueError, match="whole panels"):
        dataclasses.replace(config, dq_columns=80)


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
