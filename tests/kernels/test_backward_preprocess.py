"""The preprocess kernel's code, compiled here without a GPU; tests/gpu runs it."""

from __future__ import annotations

import re

import pytest

pytest.importorskip(
    "cutlass", reason="NOT COMPILED: CuTe DSL is a build requirement only; .ci/run has it"
)

from cutlass import cute

from jax_fa4.aot.compile import compile_options
from jax_fa4.aot.signatures import fake_arguments
from jax_fa4.kernels.common import backward_preprocess
from jax_fa4.kernels.common.backward_preprocess import BackwardPreprocess
from jax_fa4.variants import CATALOG, BackwardPreprocessVariant

VARIANTS = [variant for variant in CATALOG if isinstance(variant, BackwardPreprocessVariant)]


@pytest.fixture
def ptx_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the compiler leaves its dumps
    monkeypatch.setenv("CUTE_DSL_DUMP_DIR", str(tmp_path))

    def compile_(variant):
        kernel = BackwardPreprocess(variant)
        arguments = fake_arguments(variant)
        return cute.compile(kernel, *arguments, options=compile_options(variant)).__ptx__

    return compile_


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_loads_are_wide_and_nothing_spills(ptx_of, variant):
    """A step is 4 rows of O and 4 of dO, 16 bytes each, asked for before any is used."""
    ptx = ptx_of(variant)
    assert f".target {variant.arch.target}" in ptx
    loads = re.findall(r"ld\.global\.(\S+)", ptx)
    assert sorted(loads) == ["b32"] + ["v4.b32"] * 8  # the narrow one is dlse
    first_use = re.search(r"\n[^\n]*(cvt\.f32|fma\.rn)", ptx)
    assert first_use
    assert ptx[: first_use.start()].count("ld.global.v4") == 8
    assert ".local" not in ptx
    assert len(re.findall(r"st\.global", ptx)) == 1


def test_a_lost_alignment_would_show(ptx_of, monkeypatch):
    """Without the assumption on offsets the same check fails: it looks at the right thing."""

    def forget(value, **_):
        return value

    monkeypatch.setattr(backward_preprocess.cute, "assume", forget)
    assert "ld.global.v4" not in ptx_of(VARIANTS[0])


def test_a_cta_has_whole_warps_and_sectors():
    """What the docstring says of the shape of the work."""
    module = backward_preprocess
    assert module.TILE_ROWS == 64
    assert module.THREADS % 32 == 0
    rows_of_a_warp = 32 // module.LANES_PER_ROW * module.ROWS_PER_GROUP
    assert rows_of_a_warp * 4 == 32  # bytes of delta: one sector
    assert module.ROWS_PER_GROUP <= module.LANES_PER_ROW
