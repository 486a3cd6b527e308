"""The Hopper backward's code, compiled here without a GPU: what ptxas makes of it."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip(
    "cutlass", reason="NOT COMPILED: CuTe DSL is a build requirement only; .ci/run has it"
)

from jax_fa4.kernels.sm90.backward.barriers import mbarrier_table
from jax_fa4.kernels.sm90.backward.config import config_of
from jax_fa4.kernels.toolkit import mbarriers
from jax_fa4.variants import CATALOG, Arch, BackwardVariant, Form

VARIANTS = [
    v
    for v in CATALOG
    if isinstance(v, BackwardVariant) and v.arch is Arch.SM90 and v.form is Form.USUAL
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_nothing_spills(variant, built):
    kernels, ptx = built(variant)
    assert all(kernel["stack_bytes"] == 0 for kernel in kernels), kernels
    assert ".target sm_90a" in ptx
    assert ".local" not in ptx
    assert "red.relaxed.gpu.global.add.v4.f32" in ptx
    assert ("ld.acquire.gpu" in ptx) == variant.deterministic


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_a_cta_fits(variant):
    config = config_of(variant)
    assert config.smem_bytes <= 232448
    barriers = mbarriers.count(mbarrier_table(config))
    assert 8 * barriers <= 512  # of the 1024 for them and for alignment


def test_more_than_there_is_is_refused():
    config = config_of(VARIANTS[0])
    with pytest.raises(ValueError, match="shared memory"):
        dataclasses.replace(config, stages=12)
    with pytest.raises(ValueError, match="registers"):
        dataclasses.replace(config, consumer_registers=240)
    with pytest.raises(ValueError, match="panels"):
        dataclasses.replace(config, dq_columns=48)
