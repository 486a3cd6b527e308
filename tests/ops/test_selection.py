"""Which path a call takes, on machines that this one only pretends to be."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from machines import gpu

import jax_fa4
from jax_fa4 import ffi
from jax_fa4.ops import selection
from jax_fa4.ops.band import FULL
from jax_fa4.variants import CATALOG, BackwardVariant, parse
from jax_fa4.variants.catalog import is_deterministic
from jax_fa4.variants.problem import Problem

PLAIN = Problem(dtype="bfloat16", head_dim=128, softmax_scale=0.1)


@pytest.mark.parametrize("capability", ["9.0", "10.0", "10.3"])
def test_hopper_and_blackwell_take_the_kernel(machine, capability):
    registered = machine(capability)
    for implementation in (None, "fa4"):
        path = selection.select(PLAIN, implementation)
        one_query, keys = (1, 1, 8, 128), (1, 4096, 2, 128)
        hopper, blackwell = path.forward_for(one_query, keys, FULL)
        assert hopper == "fwd_sm90_bf16_d128"
        assert blackwell.startswith("fwd_sm100_bf16_d128")
        served = any(
            isinstance(v, BackwardVariant)
            and str(v.arch.compute_capability_major) == capability[:-2]
            for v in CATALOG
        )
        assert bool(path.backward) == served
        assert (path.backward_reason is None) == served
    assert registered


@pytest.mark.parametrize(("capability", "taken"), [("9.0", False), ("10.0", True), ("10.3", True)])
def test_8_bits_are_for_blackwell(machine, capability, taken):
    machine(capability)
    problem = Problem(dtype="float8_e4m3fn", head_dim=80, softmax_scale=0.1)
    path = selection.select(problem, None)
    assert path.forward == (("fwd_sm100_e4m3_d128",) if taken else ())
    assert path.backward == ()
    x = jax.ShapeDtypeStruct((1, 8, 2, 80), jnp.float8_e4m3fn)
    text = jax_fa4.explain(x, x, x, causal=True)
    if taken:
        assert text.startswith("kernel fwd_sm100_e4m3_d128 on NVIDIA Test")
        assert text.endswith("; no gradient: differentiating 8-bit elements raises")
    else:
        assert "compute capability 9.0" in path.reason
        assert "are for compute capability 10.x" in text


class TestGradient:
    """Which path the gradient of a call on the kernel takes."""

    def test_the_kernel_where_there_is_one(self, machine):
        machine("9.0")
        path = selection.select(PLAIN, None)
        assert "bwd_sm90_bf16_d128" in path.backward

    def test_none_for_the_head_dim(self, machine):
        without = {v.name for v in CATALOG if not isinstance(v, BackwardVariant)}
        machine("9.0", built=without)
        path = selection.select(PLAIN, "fa4")
        assert path.is_kernel
        assert path.backward == ()
        assert "no backward kernel for compute capability 9.x takes bfloat16, head dims 128 " in (
            path.backward_reason
        )

    @pytest.mark.parametrize("helper", ["bwd_preprocess_sm90_bf16", "bwd_postprocess_sm90_bf16"])
    def test_a_build_without_a_helper(self, machine, helper):
        machine("9.0", built={v.name for v in CATALOG} - {helper})
        assert selection.select(PLAIN, None).backward == ()

    def test_every_gpu_must_have_one(self, machine):
        """One program for two kinds of GPU: the gradient's kernel must be there for both."""
        hopper_only = {
            v.name
            for v in CATALOG
            if not (isinstance(v, BackwardVariant) and v.name.startswith("bwd_sm100"))
        }
        machine("9.0", "10.0", built=hopper_only)
        path = selection.select(PLAIN, None)
        assert path.is_kernel
        assert path.backward == ()
        assert "capability 10.x" in path.backward_reason

    def test_a_deterministic_one_or_none(self, machine):
        machine("9.0")
        path = selection.select(replace(PLAIN, deterministic=True), None)
        assert path.is_kernel
        assert all(is_deterministic(parse(name)) for name in path.backward)
        assert path.backward or "no deterministic backward kernel" in path.backward_reason


class TestBounded:
    """Which path calls take whose rows see what arrays say, or whose scores are capped."""

    @pytest.mark.parametrize("features", [{"has_bounds": True}, {"has_softcap": True}])
    def test_a_kernel_of_their_own(self, machine, features):
        machine("9.0")
        path = selection.select(replace(PLAIN, **features), "fa4")
        (name,) = path.forward_for((1, 100, 8, 128), (1, 100, 2, 128), FULL)[:1]
        assert name == "fwd_sm90_bf16_d128_bounded" + "_softcap" * ("has_softcap" in features)

    def test_none_in_the_build(self, machine):
        machine("9.0", built={v.name for v in CATALOG if not getattr(v, "bounded", False)})
        problem = replace(PLAIN, has_bounds=True)
        with pytest.raises(NotImplementedError, match="kernel fwd_sm90_bf16_d128_bounded"):
            selection.select(problem, "fa4")
        assert not selection.select(problem, None).is_kernel

    def test_a_deterministic_gradient_says_why_it_is_portable(self, machine):
        machine("9.0")
        problem = replace(PLAIN, has_bounds=True, deterministic=True)
        path = selection.select(problem, "fa4")
        assert path.is_kernel
        assert path.backward == ()
        assert path.backward_reason == (
            "no deterministic backward kernel for compute capability 9.x takes bfloat16, head dims "
            "128 (query, key) and 128 (value) with segment ids or sequence lengths in this build"
        )


def test_xla_never_takes_the_kernel(machine):
    registered = machine("9.0")
    assert not selection.select(PLAIN, "xla").is_kernel
    assert not registered


@pytest.mark.parametrize("capability", ["8.0", "11.0", "12.0", "gfx942"])
def test_other_gpus_take_the_portable_path(machine, capability):
    registered = machine(capability)
    path = selection.select(PLAIN, None)
    assert not path.is_kernel
    assert f"compute capability {capability}" in path.reason
    assert "9.x, 10.x" in path.reason
    with pytest.raises(NotImplementedError, match="compute capability"):
        selection.select(PLAIN, "fa4")
    assert not registered


@pytest.mark.parametrize(("capability", "taken"), [("9.0", True), ("10.0", False)])
def test_blackwell_wants_a_driver_of_cuda_13(machine, monkeypatch, capability, taken):
    machine(capability)
    monkeypatch.setattr(selection, "driver_cuda_version", lambda: (12, 8))
    path = selection.select(PLAIN, None)
    assert path.is_kernel == taken
    if not taken:
        assert "driver knows CUDA 12.8" in path.reason
        assert "update the driver" in path.reason
        with pytest.raises(NotImplementedError, match=r"need CUDA 13"):
            selection.select(PLAIN, "fa4")


def test_every_gpu_must_have_a_kernel(machine):
    machine("9.0", "8.0")
    assert "8.0" in selection.select(PLAIN, None).reason


def test_without_a_gpu_the_platform_decides(machine):
    registered = machine()
    assert selection.select(PLAIN, None).is_kernel
    assert not registered


def test_a_build_without_the_kernel_says_so(machine):
    machine("9.0", built={"bwd_preprocess_sm90_bf16"})
    path = selection.select(PLAIN, None)
    assert "fwd_sm90_bf16_d128" in path.reason
    with pytest.raises(NotImplementedError, match="lacks the kernel"):
        selection.select(PLAIN, "fa4")


def test_a_missing_extension_is_an_error_at_first_use(monkeypatch):
    def missing():
        raise ImportError("jax_fa4 was imported without its compiled extension")

    monkeypatch.setattr(selection, "cuda_devices", lambda: (gpu("9.0"),))
    monkeypatch.setattr(ffi, "built_variants", missing)
    with pytest.raises(ImportError, match="extension"):
        selection.select(PLAIN, None)
    x = jax.ShapeDtypeStruct((1, 8, 2, 64), jnp.bfloat16)
    assert "extension" in jax_fa4.is_supported(x, x, x)


def test_the_message_for_a_missing_extension(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(ffi.importlib, "import_module", missing)
    ffi.extension.cache_clear()
    try:
        with pytest.raises(ImportError, match=r"pip install \.") as info:
            ffi.extension()
        assert "implementation='xla'" in str(info.value)
        assert "missing" in jax_fa4.build_info()["extension"]
    finally:
        ffi.extension.cache_clear()
