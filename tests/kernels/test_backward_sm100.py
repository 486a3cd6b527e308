"""The Blackwell backward's code, compiled here without a GPU: what ptxas makes of it."""

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
from jax_fa4.kernels.sm100.backward.config import BACKWARD_CONFIGS
from jax_fa4.kernels.sm100.backward.context import barrier_table
from jax_fa4.kernels.sm100.backward.kernel import BackwardSm100
from jax_fa4.variants import Arch, BackwardVariant, DType


@pytest.mark.parametrize("dims", BACKWARD_CONFIGS, ids=lambda dims: f"d{dims[0]}v{dims[1]}")
@pytest.mark.parametrize("dtype", DType, ids=lambda dtype: dtype.value)
def test_nothing_spills(dims, dtype, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the compiler leaves its dumps
    monkeypatch.setenv("CUTE_DSL_DUMP_DIR", str(tmp_path))
    variant = BackwardVariant(arch=Arch.SM100, dtype=dtype, head_dim=dims[0], head_dim_v=dims[1])
    compiled = cute.compile(
        BackwardSm100(variant), *fake_arguments(variant), options=compile_options(variant)
    )
    facts = kernel_facts(compiled.__cubin__)
    assert all(kernel["stack_bytes"] == 0 for kernel in facts.values()), facts
    ptx = compiled.__ptx__
    assert ".target sm_100f" in ptx
    assert ".local" not in ptx
    # Products are 16 deep, and stand at two places each: before or in the loop, and after.
    of_scores = (dims[0] + dims[1]) // 16
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
