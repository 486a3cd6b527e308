"""The Blackwell forward's code, compiled here without a GPU: what ptxas makes of it."""

from __future__ import annotations

import re

import pytest

pytest.importorskip(
    "cutlass", reason="NOT COMPILED: CuTe DSL is a build requirement only; .ci/run has it"
)

from jax_fa4.kernels.sm100.forward.configs import E4M3_CONFIGS, FORWARD_CONFIGS, config_of
from jax_fa4.kernels.sm100.forward.context import barrier_table
from jax_fa4.variants import CATALOG, Arch, ForwardVariant

CONFIGS = {f"d{d}{form.value}": config for (d, form), config in FORWARD_CONFIGS.items()}
CONFIGS |= {f"e4m3_d{d}{form.value}": config for (d, form), config in E4M3_CONFIGS.items()}
VARIANTS = [v for v in CATALOG if isinstance(v, ForwardVariant) and v.arch is Arch.SM100]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_nothing_spills(variant, built):
    kernels, ptx = built(variant)
    assert all(kernel["stack_bytes"] == 0 for kernel in kernels), kernels
    assert ".target sm_100f" in ptx
    assert ".local" not in ptx
    products = len(re.findall(r"tcgen05\.mma", ptx))
    depth = 32 // config_of(variant).element_bytes  # of a product
    if config_of(variant).q_tiles == 1:
        # S is multiplied at one place, O at 2.
        assert products == variant.head_dim // depth + 2 * 128 // depth
    else:
        # S of each tile is multiplied at as many places as O.
        assert products % (variant.head_dim // depth + 128 // depth) == 0


@pytest.mark.parametrize("key", CONFIGS)
def test_the_memory_maps_fit(key):
    config = CONFIGS[key]
    memory = config.tensor_memory
    assert memory.columns <= 512
    columns = [range(memory.scores_of(slot), memory.scores_of(slot) + 128) for slot in range(2)]
    if config.score_slots == 1:
        assert columns[0] == columns.pop()
    for t in range(2):
        p = range(
            memory.probabilities_of(t), memory.probabilities_of(t) + 32 * config.element_bytes
        )
        if config.q_tiles == 1:
            assert p == columns[t][64:]
        else:
            columns.append(p)
    for t in range(config.outputs):
        columns.append(range(memory.output_of(t), memory.output_of(t) + config.head_dim_v))
    used = [column for part in columns for column in part]
    assert len(set(used)) == len(used) == memory.columns
    assert config.smem_bytes <= 232448
    barriers = sum(spec.stages for spec in barrier_table(config).values())
    assert 8 * barriers + 4 + 4 * 2 * 128 * config.outputs <= 3072


@pytest.mark.parametrize("key", CONFIGS)
def test_p_is_within_its_type(key):
    """The largest P while the maximum is behind: 448 ends e4m3, 2^15 is far from float16's end."""
    config = CONFIGS[key]
    limit = 448 if config.element_bytes == 1 else 2**15
    assert config.p_factor * 2**config.rescale_threshold <= limit
