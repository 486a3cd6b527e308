"""The Blackwell forward's code, compiled here without a GPU: what ptxas makes of it."""

from __future__ import annotations

import re

import pytest

pytest.importorskip(
    "cutlass", reason="NOT COMPILED: CuTe DSL is a build requirement only; .ci/run has it"
)

from cutlass import cute

from jax_fa4.aot.compile import compile_options
from jax_fa4.aot.cubin import kernel_facts
from jax_fa4.aot.signatures import fake_arguments
from jax_fa4.kernels.sm100.forward.config import FORWARD_CONFIGS, config_of
from jax_fa4.kernels.sm100.forward.context import barrier_table
from jax_fa4.kernels.sm100.forward.kernel import ForwardSm100
from jax_fa4.variants import CATALOG, Arch, ForwardVariant

VARIANTS = [v for v in CATALOG if isinstance(v, ForwardVariant) and v.arch is Arch.SM100]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_nothing_spills(variant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the compiler leaves its dumps
    monkeypatch.setenv("CUTE_DSL_DUMP_DIR", str(tmp_path))
    compiled = cute.compile(
        ForwardSm100(variant), *fake_arguments(variant), options=compile_options(variant)
    )
    facts = kernel_facts(compiled.__cubin__)
    assert all(kernel["stack_bytes"] == 0 for kernel in facts.values()), facts
    ptx = compiled.__ptx__
    assert ".target sm_100f" in ptx
    assert ".local" not in ptx
    products = len(re.findall(r"tcgen05\.mma", ptx))
    if config_of(variant).q_tiles == 1:
        # Products are 16 deep: S is multiplied at one place, O at 2.
        assert products == variant.head_dim // 16 + 2 * 128 // 16
    else:
        # S of each tile is multiplied at as many places as O.
        assert products % (variant.head_dim // 16 + 128 // 16) == 0


@pytest.mark.parametrize("key", FORWARD_CONFIGS, ids=lambda key: f"d{key[0]}{key[-1].value}")
def test_the_memory_maps_fit(key):
    config = FORWARD_CONFIGS[key]
    memory = config.tensor_memory
    assert memory.columns <= 512
    columns = [range(memory.scores_of(slot), memory.scores_of(slot) + 128) for slot in range(2)]
    if config.score_slots == 1:
        assert columns[0] == columns.pop()
    for t in range(2):
        p = range(memory.probabilities_of(t), memory.probabilities_of(t) + 64)
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
