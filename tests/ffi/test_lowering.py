"""What the program for a GPU contains, lowered and exported on a machine without one."""

import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4 import ffi
from jax_fa4.variants import Form

pytestmark = pytest.mark.usefixtures("no_gpu")


def shapes(sq=100, sk=100, heads=4, heads_kv=4, width=64, dtype=jnp.bfloat16):
    q = jax.ShapeDtypeStruct((2, sq, heads, width), dtype)
    k = jax.ShapeDtypeStruct((2, sk, heads_kv, width), dtype)
    return q, k, k


def lowered(function, *args, platform="cuda"):
    return jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text()


def call_of(text, target):
    (line,) = [line for line in text.splitlines() if f"@{target}(" in line]
    return line


def attributes(line):
    (found,) = re.findall(r"mhlo.backend_config = {(.*?)}", line)
    return dict(pair.split(" = ") for pair in found.split(", "))


def kernels(line):
    """Names of the call's kernels without their forms, which are a matter of lengths."""
    forms = "|".join(form.value for form in Form if form.value)
    return re.sub(f"_({forms})\\b", "", attributes(line)["variants"])


def test_forward_call():
    def call(q, k, v):
        return jax_fa4.flash_attention(q, k, v, causal=True, softmax_scale=0.5, return_lse=True)

    line = call_of(lowered(call, *shapes(sq=30, sk=50, heads_kv=2)), "jax_fa4_fwd_v1")
    assert attributes(line) | {"variants": kernels(line)} == {
        "variants": '"fwd_sm90_bf16_d64 fwd_sm100_bf16_d64"',
        "softmax_scale": "5.000000e-01 : f32",
        "band_lower": f"{-(2**30)} : i32",
        "band_upper": "20 : i32",
    }
    assert "(tensor<2x30x4x64xbf16>, tensor<2x50x2x64xbf16>, tensor<2x50x2x64xbf16>)" in line
    assert "-> (tensor<2x30x4x64xbf16>, tensor<2x4x30xf32>)" in line


@pytest.mark.parametrize(
    ("options", "lower", "upper"),
    [
        ({}, -(2**30), 2**30),
        ({"is_causal": True}, -(2**30), 0),
        ({"local_window_size": 7}, -7, 7),
        ({"local_window_size": (9, None), "is_causal": True}, -9, 0),
        ({"local_window_size": (9, 3), "causal_alignment": "bottom_right"}, 11, 23),
    ],
)
def test_bands_are_attributes_of_one_kernel(options, lower, upper):
    def call(q, k, v):
        return jax_fa4.dot_product_attention(q, k, v, **options)

    line = call_of(lowered(call, *shapes(sq=30, sk=50)), "jax_fa4_fwd_v1")
    found = attributes(line)
    assert found["band_lower"] == f"{lower} : i32"
    assert found["band_upper"] == f"{upper} : i32"
    assert kernels(line) == '"fwd_sm90_bf16_d64 fwd_sm100_bf16_d64"'


@pytest.mark.parametrize(
    ("width", "padded", "tiles"),
    [(1, 8, (64, 64)), (63, 64, (64, 64)), (72, 72, (96, 96)), (97, 104, (128, 128))],
)
def test_head_dims_are_padded_to_eight(width, padded, tiles):
    args = shapes(width=width, dtype=jnp.float16)
    text = lowered(jax.grad(lambda *a: jax_fa4.flash_attention(*a).sum()), *args)
    line = call_of(text, "jax_fa4_fwd_v1")
    assert f"(tensor<2x100x4x{padded}xf16>, " in line
    sm90, sm100 = tiles
    assert kernels(line) == f'"fwd_sm90_fp16_d{sm90} fwd_sm100_fp16_d{sm100}"'


def test_values_have_a_head_dim_of_their_own():
    q, k, _ = shapes(width=190)
    v = jax.ShapeDtypeStruct((2, 100, 4, 100), jnp.bfloat16)
    text = lowered(jax.grad(lambda *a: jax_fa4.flash_attention(*a).sum(), (0, 1, 2)), q, k, v)
    line = call_of(text, "jax_fa4_fwd_v1")
    wide, narrow = "tensor<2x100x4x192xbf16>", "tensor<2x100x4x104xbf16>"
    assert f"({wide}, {wide}, {narrow}) -> ({narrow}, tensor<2x4x100xf32>)" in line
    names = '"fwd_sm90_bf16_d192_v128 fwd_sm100_bf16_d192_v128"'
    assert attributes(line)["variants"] == names


@pytest.mark.parametrize(("width", "padded", "tile"), [(50, 64, 64), (72, 80, 128)])
def test_forward_call_of_8_bits(width, padded, tile):
    q, k, v = shapes(sq=30, sk=50, heads_kv=2, width=width, dtype=jnp.float8_e4m3fn)
    scale = jax.ShapeDtypeStruct((2, 2), jnp.float32)

    def call(q, k, v, scale):
        return jax_fa4.flash_attention(q, k, v, value_descale=scale, return_lse=True)

    line = call_of(lowered(call, q, k, v, scale), "jax_fa4_fwd_fp8_v1")
    assert attributes(line)["variants"] == f'"fwd_sm100_e4m3_d{tile}"'
    scales = "tensor<2x2xf32>, tensor<2x2xf32>, tensor<2x2xf32>"
    assert f"(tensor<2x30x4x{padded}xf8E4M3FN>, " in line
    assert f"{scales}) -> (tensor<2x30x4x{padded}xbf16>, tensor<2x4x30xf32>)" in line


def test_backward_call(hopper):
    """dK and dV keep the heads of K and V; scratch is as long as whole tiles."""

    def loss(q, k, v):
        out, lse = jax_fa4.flash_attention(q, k, v, causal=True, softmax_scale=0.5, return_lse=True)
        return out.astype(jnp.float32).sum() + lse.sum()

    gradient = jax.grad(loss, argnums=(0, 1, 2))
    text = lowered(gradient, *shapes(sq=30, sk=50, heads_kv=2, width=60))
    line = call_of(text, "jax_fa4_bwd_v1")
    assert attributes(line) | {"variants": kernels(line)} == {
        "variants": '"bwd_sm90_bf16_d64 bwd_sm100_bf16_d64"',
        "softmax_scale": "5.000000e-01 : f32",
        "band_lower": f"{-(2**30)} : i32",
        "band_upper": "20 : i32",
    }
    q, k, rows = "tensor<2x30x4x64xbf16>", "tensor<2x50x2x64xbf16>", "tensor<2x4x30xf32>"
    padded, sums, semaphores = "tensor<2x4x128xf32>", "tensor<2x4x128x64xf32>", "tensor<2x4x2xi32>"
    operands = ", ".join([q, k, k, q, q, rows, rows])
    results = ", ".join([q, k, k, padded, padded, sums, semaphores])
    assert f"({operands}) -> ({results})" in line


def test_calls_with_segment_ids(hopper):
    """By bounded kernels, whose bounds are arrays."""
    q, k, v = shapes(sq=130, sk=300, heads_kv=2, width=60)
    ids = [jax.ShapeDtypeStruct((2, n), jnp.int32) for n in (130, 300)]

    def loss(q, k, v, *ids):
        names = ("query_segment_ids", "key_value_segment_ids")
        options = dict(zip(names, ids, strict=True))
        out = jax_fa4.dot_product_attention(q, k, v, scale=0.5, is_causal=True, **options)
        return out.astype(jnp.float32).sum()

    text = lowered(jax.grad(loss, argnums=(0, 1, 2)), q, k, v, *ids)
    forward, backward = (call_of(text, f"jax_fa4_{way}_bounded_v1") for way in ("fwd", "bwd"))
    for line, way in ((forward, "fwd"), (backward, "bwd")):
        assert attributes(line) | {"variants": kernels(line).split()[0].strip('"')} == {
            "variants": f"{way}_sm90_bf16_d64_bounded",
            "softmax_scale": "5.000000e-01 : f32",
            "softcap": "0.000000e+00 : f32",
        }
    bounds = "tensor<2x130x2xi32>, tensor<2x130xi32>, tensor<2x300xi32>, tensor<2x3x4xi32>"
    assert f"{bounds}, tensor<4xf32>) -> " in forward
    assert f"{bounds}, tensor<2x5x2xi32>) -> " in backward


@pytest.mark.parametrize("target", ["jax_fa4_fwd_v1", "jax_fa4_bwd_v1"])
def test_calls_ask_for_arrays_in_rows(hopper, target):
    """The kernels take no strides: whatever layout XLA has for an array, it copies to this one."""

    def loss(q, k, v):
        q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, k, v))
        return jax_fa4.flash_attention(q, k, v, causal=True).astype(jnp.float32).sum()

    line = call_of(lowered(jax.grad(loss, argnums=(0, 1, 2)), *shapes()), target)
    layouts = re.findall(r"(?:operand|result)_layouts = \[(.*?>)\]", line)
    orders = re.findall(r"dense<\[(.*?)\]>", " ".join(layouts))
    assert len(layouts) == 2
    assert len(orders) == {"jax_fa4_fwd_v1": 5, "jax_fa4_bwd_v1": 14}[target]
    assert set(orders) == {"3, 2, 1, 0", "2, 1, 0"}


@pytest.mark.parametrize("is_built", [False, True])
def test_a_gradient_without_a_kernel_is_portable(is_built, hopper, monkeypatch):
    def loss(q, k, v):
        out = jax_fa4.flash_attention(q, k, v, deterministic=True, implementation="fa4")
        return out.astype(jnp.float32).sum()

    if not is_built:
        names = {name for name in ffi.built_variants() if not name.endswith("_deterministic")}
        monkeypatch.setattr(ffi, "built_variants", lambda: frozenset(names))
    text = lowered(jax.grad(loss), *shapes(width=256))
    assert "@jax_fa4_fwd_v1(" in text
    assert ("@jax_fa4_bwd_v1(" in text) == is_built


def test_other_platforms_get_the_portable_path():
    for platform in ("cpu", "tpu", "rocm"):
        text = lowered(jax_fa4.flash_attention, *shapes(), platform=platform)
        assert "custom_call" not in text or "jax_fa4" not in text


@pytest.mark.parametrize(("sq", "sk"), [(0, 5), (5, 0)])
def test_empty_arrays_never_reach_the_target(sq, sk):
    args = shapes(sq=sq, sk=sk)
    assert "jax_fa4" not in lowered(jax.grad(lambda *a: jax_fa4.flash_attention(*a).sum()), *args)


class TestExport:
    args = shapes(sq=20, sk=30)

    @staticmethod
    def call(q, k, v):
        return jax_fa4.flash_attention(q, k, v, causal=True, return_lse=True)

    def test_round_trip_on_cpu(self):
        pytest.importorskip("flatbuffers", reason="jax.export serializes with flatbuffers")
        exported = jax.export.export(jax.jit(self.call), platforms=["cpu"])(*self.args)
        again = jax.export.deserialize(exported.serialize())
        keys = jax.random.split(jax.random.key(0), 3)
        arrays = [
            jax.device_put(jax.random.normal(key, s.shape, s.dtype), jax.devices("cpu")[0])
            for key, s in zip(keys, self.args, strict=True)
        ]
        for ours, wanted in zip(again.call(*arrays), self.call(*arrays), strict=True):
            ours, wanted = (np.asarray(x, np.float32) for x in (ours, wanted))
            np.testing.assert_allclose(ours, wanted, rtol=1e-2, atol=1e-5)

    def test_for_cuda(self):
        pytest.importorskip("flatbuffers", reason="jax.export serializes with flatbuffers")
        exported = jax.export.export(
            jax.jit(self.call),
            platforms=["cuda"],
            disabled_checks=jax_fa4.EXPORT_DISABLED_CHECKS,
        )(*self.args)
        again = jax.export.deserialize(exported.serialize())
        assert again.platforms == ("cuda",)
        assert "jax_fa4_fwd_v1" in again.mlir_module()

    def test_gradients_for_cuda(self, hopper):
        """Both kernels are in the file, and what is read again still holds them."""
        pytest.importorskip("flatbuffers", reason="jax.export serializes with flatbuffers")

        def loss(*qkv):
            out, lse = self.call(*qkv)
            return out.astype(jnp.float32).sum() + lse.sum()

        exported = jax.export.export(
            jax.jit(jax.grad(loss, argnums=(0, 1, 2))),
            platforms=["cuda"],
            disabled_checks=jax_fa4.EXPORT_DISABLED_CHECKS,
        )(*self.args)
        module = jax.export.deserialize(exported.serialize()).mlir_module()
        for target in (ffi.FORWARD_TARGET, ffi.BACKWARD_TARGET):
            assert module.count(f"@{target}(") == 1

    def test_for_both_at_once(self):
        exported = jax.export.export(
            jax.jit(self.call),
            platforms=["cpu", "cuda"],
            disabled_checks=jax_fa4.EXPORT_DISABLED_CHECKS,
        )(*self.args)
        assert exported.platforms == ("cpu", "cuda")

    def test_the_checks_are_needed(self):
        with pytest.raises(ValueError, match="jax_fa4_fwd_v1"):
            jax.export.export(jax.jit(self.call), platforms=["cuda"])(*self.args)

    def test_every_target_has_its_check(self):
        assert [str(check).rsplit(":", 1)[-1] for check in jax_fa4.EXPORT_DISABLED_CHECKS] == list(
            ffi.TARGETS
        )
