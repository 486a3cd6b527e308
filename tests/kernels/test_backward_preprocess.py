"""The preprocess kernel's code, compiled here without a GPU; tests/gpu runs it."""

from __future__ import annotations

import importlib
import re

import pytest

pytest.importorskip(
    "cutlass", reason="NOT COMPILED: CuTe DSL is a build requirement only; .ci/run has it"
)

from cutlass import cute

from jax_fa4.aot.arguments import fake_arguments
from jax_fa4.aot.compile import compile_options
from jax_fa4.aot.kernel_classes import kernel_class_path
from jax_fa4.aot.signatures import signature
from jax_fa4.kernels.common import backward_preprocess
from jax_fa4.kernels.common.backward_preprocess import BackwardPreprocess
from jax_fa4.variants import CATALOG, Arch, BackwardPreprocessVariant, BackwardVariant

VARIANTS = [variant for variant in CATALOG if isinstance(variant, BackwardPreprocessVariant)]
HOPPER_MAIN = [v for v in CATALOG if isinstance(v, BackwardVariant) and v.arch is Arch.SM90]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_loads_are_wide_and_nothing_spills(variant, built):
    """A step is 4 rows of O and 4 of dO, 16 bytes each, asked for before any is used."""
    kernels, ptx = built(variant)
    assert all(kernel["stack_bytes"] == 0 for kernel in kernels), kernels
    assert f".target {variant.arch.target}" in ptx
    loads = re.findall(r"ld\.global\.(\S+)", ptx)
    assert sorted(loads) == ["b32"] * 2 + ["v4.b32"] * 8  # the narrow ones are lse and dlse
    first_use = re.search(r"\n[^\n]*(cvt\.f32|fma\.rn)", ptx)
    assert first_use
    assert ptx[: first_use.start()].count("ld.global.v4") == 8
    assert ".local" not in ptx
    # Zeros of dq_accum and of semaphores; delta, and lse in base 2.
    *narrow, wide = sorted(re.findall(r"st\.global\.(\S+)", ptx))
    assert narrow == ["b32"] * 3
    assert wide in ("v4.b32", "v2.b64")


def test_a_lost_alignment_would_show(tmp_path, monkeypatch):
    """Without the assumption on offsets the same check fails: it looks at the right thing."""

    def forget(value, **_):
        return value

    monkeypatch.chdir(tmp_path)  # where the compiler leaves its dumps
    monkeypatch.setenv("CUTE_DSL_DUMP_DIR", str(tmp_path))
    monkeypatch.setattr(backward_preprocess.cute, "assume", forget)
    kernel = BackwardPreprocess(VARIANTS[0])
    arguments = fake_arguments(VARIANTS[0].dtype, signature(VARIANTS[0]))
    options = compile_options(VARIANTS[0])
    assert "ld.global.v4" not in cute.compile(kernel, *arguments, options=options).__ptx__


def test_a_cta_has_whole_warps_and_sectors():
    """What the docstring says of the shape of the work."""
    module = backward_preprocess
    assert module.TILE_ROWS == 64
    assert module.THREADS % 32 == 0
    rows_of_a_warp = 32 // module.LANES_PER_ROW * module.ROWS_PER_GROUP
    assert rows_of_a_warp * 4 == 32  # bytes of delta: one sector
    assert module.ROWS_PER_GROUP <= module.LANES_PER_ROW


@pytest.mark.parametrize("variant", HOPPER_MAIN, ids=lambda variant: variant.name)
def test_hopper_main_kernels_have_its_tiles_of_queries(variant):
    """On sm_90 it writes no scratch past the last tile with a query, so none may be longer."""
    module, _, name = kernel_class_path(variant).partition(":")
    kernel = getattr(importlib.import_module(module), name)(variant)
    assert kernel.config.tile_m == backward_preprocess.TILE_ROWS
