"""Every refusal of the FFI handlers, by its words, on a machine without a GPU.

The handlers are registered for the CPU under names of their own. Whatever is wrong with a call is
found before anything of CUDA is touched; a right call gets as far as the missing driver.
"""

import ctypes
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_fa4 import _ext

PREFIX = "on_cpu_"
FORWARD = "jax_fa4_fwd_v1"
BACKWARD = "jax_fa4_bwd_v1"
PREPROCESS = "jax_fa4_bwd_preprocess_v1"

FORWARD_FP8 = "jax_fa4_fwd_fp8_v1"
BF16, FP16, F32, E4M3 = jnp.bfloat16, jnp.float16, jnp.float32, jnp.float8_e4m3fn


@pytest.fixture(scope="module", autouse=True)
def handlers():
    for name, stages in _ext.registrations().items():
        jax.ffi.register_ffi_target(PREFIX + name, stages, platform="cpu")


def forward(q=((2, 8, 4, 64), BF16), k=None, v=None, out=None, lse=None, **attributes):
    """Calls the forward target; arguments are (shape, dtype), by default those that fit q."""
    (batch, seqlen, heads, *_), _ = q
    k = k or q
    attributes = {
        "variants": "fwd_sm90_bf16_d64",
        "softmax_scale": np.float32(1.0),
        "band_lower": np.int32(-(2**30)),
        "band_upper": np.int32(2**30),
        **attributes,
    }
    results = [out or q, lse or ((batch, heads, seqlen), F32)]
    return call(FORWARD, [q, k, v or k], results, attributes)


def forward_fp8(q=((2, 8, 4, 64), E4M3), k=None, v=None, out=None, descales=None, **attributes):
    """Calls the forward target for 8-bit elements; `descales` are all alike."""
    (batch, seqlen, heads, width), _ = q
    k = k or q
    descales = descales or ((k[0][0], k[0][2]), F32)
    attributes = {
        "variants": "fwd_sm100_e4m3_d64",
        "softmax_scale": np.float32(1.0),
        "band_lower": np.int32(-(2**30)),
        "band_upper": np.int32(2**30),
        **attributes,
    }
    results = [out or ((batch, seqlen, heads, width), BF16), ((batch, heads, seqlen), F32)]
    return call(FORWARD_FP8, [q, k, v or k, *[descales] * 3], results, attributes)


def scratch(batch, seqlen, heads, width=64):
    """Results that the preprocess kernel writes, by name."""
    rows = -(-seqlen // 128) * 128
    return {
        "delta": ((batch, heads, rows), F32),
        "lse_log2": ((batch, heads, rows), F32),
        "dq_accum": ((batch, heads, rows, width), F32),
        "semaphores": ((batch, heads, rows // 64), jnp.int32),
    }


def backward(**changes):
    """Calls the backward target; buffers (shape, dtype) and attributes but for the changes."""
    q = changes.get("q", ((2, 200, 4, 64), BF16))
    (batch, seqlen, heads, *_), _ = q
    rows = ((batch, heads, seqlen), F32)
    k = changes.get("k", q)
    v = changes.get("v", k)
    arguments = {"q": q, "k": k, "v": v, "out": q, "dout": q, "lse": rows, "dlse": rows}
    results = {"dq": q, "dk": k, "dv": v, **scratch(batch, seqlen, heads)}
    attributes = {
        "variants": "bwd_sm90_bf16_d64",
        "softmax_scale": np.float32(1.0),
        "band_lower": np.int32(-(2**30)),
        "band_upper": np.int32(2**30),
    }
    return changed(BACKWARD, arguments, results, attributes, changes)


def preprocess(**changes):
    """Calls the preprocess target in the same way."""
    out = changes.get("out", ((2, 8, 4, 64), BF16))
    (batch, seqlen, heads, _), _ = out
    rows = ((batch, heads, seqlen), F32)
    arguments = {"out": out, "dout": out, "lse": rows, "dlse": rows}
    attributes = {"variants": "bwd_preprocess_sm90_bf16"}
    return changed(PREPROCESS, arguments, scratch(batch, seqlen, heads), attributes, changes)


def changed(target, arguments, results, attributes, changes):
    unknown = set(changes) - {*arguments, *results, *attributes, "extra"}
    assert not unknown
    groups = [
        {n: changes.get(n, x) for n, x in g.items()} for g in (arguments, results, attributes)
    ]
    if "extra" in changes:
        groups[0]["extra"] = changes["extra"]
    return call(target, list(groups[0].values()), list(groups[1].values()), groups[2])


def call(target, arguments, results, attributes):
    results = [jax.ShapeDtypeStruct(*result) for result in results]
    arrays = [jnp.zeros(*argument) for argument in arguments]
    device = jax.devices("cpu")[0]
    with jax.default_device(device):
        function = jax.jit(lambda *a: jax.ffi.ffi_call(PREFIX + target, results)(*a, **attributes))
        return jax.block_until_ready(function(*arrays))


def refused(words, function, **arguments):
    with pytest.raises(jax.errors.JaxRuntimeError, match=words) as caught:
        function(**arguments)
    return str(caught.value)


FORWARD_REFUSALS = {
    "q of float32": (
        dict(q=((2, 8, 4, 64), F32)),
        "q fp32(2, 8, 4, 64): dtype must be bf16 or fp16",
    ),
    "k of another dtype": (
        dict(k=((2, 8, 4, 64), FP16)),
        "k fp16(2, 8, 4, 64): dtype must be bf16",
    ),
    "v of another dtype": (
        dict(v=((2, 8, 4, 64), FP16)),
        "v fp16(2, 8, 4, 64): dtype must be bf16",
    ),
    "out of another dtype": (
        dict(out=((2, 8, 4, 64), F32)),
        "out fp32(2, 8, 4, 64): dtype must be bf16",
    ),
    "lse of half precision": (
        dict(lse=((2, 4, 8), BF16)),
        "lse bf16(2, 4, 8): dtype must be fp32",
    ),
    "a q of 8 bits": (
        dict(q=((2, 8, 4, 64), E4M3)),
        "q e4m3(2, 8, 4, 64): dtype must be bf16 or fp16",
    ),
    "an integer q": (
        dict(q=((2, 8, 4, 64), jnp.int32)),
        "q int32(2, 8, 4, 64): dtype must be bf16 or fp16",
    ),
    "q of rank 3": (
        dict(q=((2, 8, 64), BF16), lse=((2, 8), F32)),
        "q bf16(2, 8, 64): rank must be 4, (batch, seqlen, heads, head_dim)",
    ),
    "k of rank 5": (
        dict(k=((2, 8, 4, 64, 1), BF16)),
        "k bf16(2, 8, 4, 64, 1): rank must be 4, (batch, seqlen, heads, head_dim)",
    ),
    "no keys": (
        dict(k=((2, 0, 4, 64), BF16)),
        "k bf16(2, 0, 4, 64): every dimension must be from 1 to 2147483647",
    ),
    "a head_dim that is no multiple of 8": (
        dict(q=((2, 8, 4, 60), BF16)),
        "head_dim 60 is not a multiple of 8; pad it with zeros",
    ),
    "k of another batch": (
        dict(k=((3, 8, 4, 64), BF16)),
        "k bf16(3, 8, 4, 64): shape must be (2, 8, 4, 64), batch and head_dim as in q",
    ),
    "k of another head_dim": (
        dict(k=((2, 8, 4, 32), BF16)),
        "k bf16(2, 8, 4, 32): shape must be (2, 8, 4, 64), batch and head_dim as in q",
    ),
    "v of rank 3": (
        dict(v=((2, 8, 4), BF16)),
        "v bf16(2, 8, 4): rank must be 4, (batch, seqlen, heads, head_dim)",
    ),
    "a head_dim of v that is no multiple of 8": (
        dict(v=((2, 8, 4, 36), BF16)),
        "head_dim_v 36 is not a multiple of 8; pad it with zeros",
    ),
    "v unlike k": (
        dict(v=((2, 9, 4, 32), BF16)),
        "v bf16(2, 9, 4, 32): shape must be (2, 8, 4, 32), the same as k but for head_dim",
    ),
    "out without the head_dim of v": (
        dict(v=((2, 8, 4, 32), BF16)),
        "out bf16(2, 8, 4, 64): shape must be (2, 8, 4, 32), the same as q with the head_dim of v",
    ),
    "out unlike q": (
        dict(out=((2, 8, 2, 64), BF16)),
        "out bf16(2, 8, 2, 64): shape must be (2, 8, 4, 64), the same as q with the head_dim of v",
    ),
    "lse in the order of q": (
        dict(lse=((2, 8, 4), F32)),
        "lse fp32(2, 8, 4): shape must be (2, 4, 8), (batch, heads_q, seqlen_q)",
    ),
    "heads that do not divide": (
        dict(k=((2, 8, 3, 64), BF16)),
        "q bf16(2, 8, 4, 64), k bf16(2, 8, 3, 64): the 3 heads of k must divide the 4 heads of q",
    ),
    "an infinite scale": (
        dict(softmax_scale=np.float32(np.inf)),
        "softmax_scale inf: must be finite and greater than 0",
    ),
    "a negative scale": (
        dict(softmax_scale=np.float32(-0.5)),
        "softmax_scale -0.5: must be finite and greater than 0",
    ),
    "an empty band": (
        dict(band_lower=np.int32(1), band_upper=np.int32(0)),
        "band_lower 1, band_upper 0: must satisfy -2**30 <= band_lower <= band_upper <= 2**30",
    ),
    "a band beyond the unbounded": (
        dict(band_upper=np.int32(2**30 + 1)),
        "band_lower -1073741824, band_upper 1073741825: must satisfy",
    ),
    "no variant": (
        dict(variants=" "),
        'variants=" " names no kernel; this build has: ' + " ".join(_ext.variant_names()),
    ),
    "an unknown variant": (
        dict(variants="fwd_sm90_bf16_d64 fwd_sm75_bf16_d64"),
        "variant fwd_sm75_bf16_d64 is not in this build, which has: "
        + " ".join(_ext.variant_names()),
    ),
    "a variant of another operation": (
        dict(variants="bwd_preprocess_sm90_bf16"),
        "variant bwd_preprocess_sm90_bf16 is a backward preprocess kernel; "
        "a forward kernel is needed",
    ),
    "a variant of another dtype": (
        dict(variants="fwd_sm90_fp16_d64"),
        "variant fwd_sm90_fp16_d64 does not take q bf16(2, 8, 4, 64)",
    ),
    "a variant that is too narrow": (
        dict(q=((2, 8, 4, 72), BF16)),
        "variant fwd_sm90_bf16_d64 takes head_dim up to 64, not q bf16(2, 8, 4, 72)",
    ),
    "a variant that is too narrow for v": (
        dict(v=((2, 8, 4, 72), BF16), out=((2, 8, 4, 72), BF16)),
        "variant fwd_sm90_bf16_d64 takes head_dim up to 64 of v, not v bf16(2, 8, 4, 72)",
    ),
}

FP8_REFUSALS = {
    "q of 16 bits": (
        dict(q=((2, 8, 4, 64), BF16)),
        "q bf16(2, 8, 4, 64): dtype must be e4m3",
    ),
    "v of 16 bits": (
        dict(v=((2, 8, 4, 64), BF16)),
        "v bf16(2, 8, 4, 64): dtype must be e4m3",
    ),
    "out of 8 bits": (
        dict(out=((2, 8, 4, 64), E4M3)),
        "out e4m3(2, 8, 4, 64): dtype must be bf16",
    ),
    "a head_dim that is no multiple of 16": (
        dict(q=((2, 8, 4, 56), E4M3)),
        "head_dim 56 is not a multiple of 16; pad it with zeros",
    ),
    "a head_dim of v that is no multiple of 16": (
        dict(v=((2, 8, 4, 24), E4M3)),
        "head_dim_v 24 is not a multiple of 16; pad it with zeros",
    ),
    "descales of the query heads": (
        dict(k=((2, 8, 2, 64), E4M3), descales=((2, 4), F32)),
        "q_descale fp32(2, 4): shape must be (2, 2), (batch, heads of k)",
    ),
    "descales of 16 bits": (
        dict(descales=((2, 4), BF16)),
        "q_descale bf16(2, 4): dtype must be fp32",
    ),
    "a scale of 0": (
        dict(softmax_scale=np.float32(0)),
        "softmax_scale 0: must be finite and greater than 0",
    ),
    "a variant of another dtype": (
        dict(variants="fwd_sm100_bf16_d64"),
        "variant fwd_sm100_bf16_d64 does not take q e4m3(2, 8, 4, 64)",
    ),
    "a variant that is too narrow": (
        dict(q=((2, 8, 4, 80), E4M3)),
        "variant fwd_sm100_e4m3_d64 takes head_dim up to 64, not q e4m3(2, 8, 4, 80)",
    ),
}

PADDED = "(batch, heads_q, seqlen_q rounded up to 128)"
SCRATCH_REFUSALS = {
    "delta without padding": (
        dict(delta=((2, 4, 8), F32)),
        f"delta fp32(2, 4, 8): shape must be (2, 4, 128), {PADDED}",
    ),
    "lse_log2 without padding": (
        dict(lse_log2=((2, 4, 8), F32)),
        f"lse_log2 fp32(2, 4, 8): shape must be (2, 4, 128), {PADDED}",
    ),
    "dq_accum of half precision": (
        dict(dq_accum=((2, 4, 128, 64), BF16)),
        "dq_accum bf16(2, 4, 128, 64): dtype must be fp32",
    ),
    "dq_accum in the order of out": (
        dict(dq_accum=((2, 128, 4, 64), F32)),
        "dq_accum fp32(2, 128, 4, 64): shape must be (2, 4, 128, 64), the rows of delta",
    ),
    "too few semaphores": (
        dict(semaphores=((2, 4, 1), jnp.int32)),
        "semaphores int32(2, 4, 1): shape must be (2, 4, 2), one for each 64 rows of delta",
    ),
    "semaphores of float32": (
        dict(semaphores=((2, 4, 2), F32)),
        "semaphores fp32(2, 4, 2): dtype must be int32",
    ),
}

PREPROCESS_REFUSALS = {
    "out of float32": (
        dict(out=((2, 8, 4, 64), F32)),
        "out fp32(2, 8, 4, 64): dtype must be bf16 or fp16",
    ),
    "dout of another dtype": (
        dict(dout=((2, 8, 4, 64), FP16)),
        "dout fp16(2, 8, 4, 64): dtype must be bf16",
    ),
    "nothing to sum": (
        dict(out=((2, 8, 4, 0), BF16)),
        "out bf16(2, 8, 4, 0): every dimension must be from 1 to 2147483647",
    ),
    "a head_dim that is no multiple of 8": (
        dict(out=((2, 8, 4, 12), BF16)),
        "head_dim 12 is not a multiple of 8; pad it with zeros",
    ),
    "dout unlike out": (
        dict(dout=((2, 8, 4, 32), BF16)),
        "dout bf16(2, 8, 4, 32): shape must be (2, 8, 4, 64), the same as out",
    ),
    "a count of arguments": (
        dict(extra=((1,), F32)),
        "5 arguments given, 4 expected",
    ),
    "lse of half precision": (
        dict(lse=((2, 4, 8), BF16)),
        "lse bf16(2, 4, 8): dtype must be fp32",
    ),
    "dlse of half precision": (
        dict(dlse=((2, 4, 8), BF16)),
        "dlse bf16(2, 4, 8): dtype must be fp32",
    ),
    "dlse in the order of out": (
        dict(dlse=((2, 8, 4), F32)),
        "dlse fp32(2, 8, 4): shape must be (2, 4, 8), (batch, heads_q, seqlen_q)",
    ),
    **SCRATCH_REFUSALS,
    "an unknown variant": (
        dict(variants="bwd_preprocess_sm75_bf16"),
        "variant bwd_preprocess_sm75_bf16 is not in this build",
    ),
    "a variant of another operation": (
        dict(variants="fwd_sm90_bf16_d64"),
        "variant fwd_sm90_bf16_d64 is a forward kernel; a backward preprocess kernel is needed",
    ),
    "a variant of another dtype": (
        dict(variants="bwd_preprocess_sm90_fp16"),
        "variant bwd_preprocess_sm90_fp16 does not take out bf16(2, 8, 4, 64)",
    ),
}


BACKWARD_REFUSALS = {
    "q of float32": (
        dict(q=((2, 200, 4, 64), F32)),
        "q fp32(2, 200, 4, 64): dtype must be bf16 or fp16",
    ),
    "out of another dtype": (
        dict(out=((2, 200, 4, 64), FP16)),
        "out fp16(2, 200, 4, 64): dtype must be bf16",
    ),
    "dout of another dtype": (
        dict(dout=((2, 200, 4, 64), F32)),
        "dout fp32(2, 200, 4, 64): dtype must be bf16",
    ),
    "no keys": (
        dict(k=((2, 0, 4, 64), BF16)),
        "k bf16(2, 0, 4, 64): every dimension must be from 1 to 2147483647",
    ),
    "heads that do not divide": (
        dict(k=((2, 200, 3, 64), BF16)),
        "q bf16(2, 200, 4, 64), k bf16(2, 200, 3, 64): the 3 heads of k must divide the 4 heads",
    ),
    "out without the head_dim of v": (
        dict(v=((2, 200, 4, 32), BF16)),
        "out bf16(2, 200, 4, 64): shape must be (2, 200, 4, 32), the same as q with the head_dim",
    ),
    "dout unlike out": (
        dict(dout=((2, 200, 4, 32), BF16)),
        "dout bf16(2, 200, 4, 32): shape must be (2, 200, 4, 64), the same as out",
    ),
    "lse in the order of q": (
        dict(lse=((2, 200, 4), F32)),
        "lse fp32(2, 200, 4): shape must be (2, 4, 200), (batch, heads_q, seqlen_q)",
    ),
    "dlse of half precision": (
        dict(dlse=((2, 4, 200), BF16)),
        "dlse bf16(2, 4, 200): dtype must be fp32",
    ),
    "dq in float32": (
        dict(dq=((2, 200, 4, 64), F32)),
        "dq fp32(2, 200, 4, 64): dtype must be bf16",
    ),
    "dq unlike q": (
        dict(dq=((2, 256, 4, 64), BF16)),
        "dq bf16(2, 256, 4, 64): shape must be (2, 200, 4, 64), the same as q",
    ),
    "dk expanded to the heads of q": (
        dict(k=((2, 200, 2, 64), BF16), dk=((2, 200, 4, 64), BF16)),
        "dk bf16(2, 200, 4, 64): shape must be (2, 200, 2, 64), the same as k",
    ),
    "dv unlike v": (
        dict(dv=((2, 200, 4, 72), BF16)),
        "dv bf16(2, 200, 4, 72): shape must be (2, 200, 4, 64), the same as v",
    ),
    "delta without padding": (
        dict(delta=((2, 4, 200), F32)),
        f"delta fp32(2, 4, 200): shape must be (2, 4, 256), {PADDED}",
    ),
    "dq_accum that is too narrow": (
        dict(dq_accum=((2, 4, 256, 32), F32)),
        "dq_accum fp32(2, 4, 256, 32): variant bwd_sm90_bf16_d64 needs 64 columns",
    ),
    "a count of arguments": (
        dict(extra=((1,), F32)),
        "8 arguments given, 7 expected",
    ),
    "a negative scale": (
        dict(softmax_scale=np.float32(-0.5)),
        "softmax_scale -0.5: must be finite and greater than 0",
    ),
    "an empty band": (
        dict(band_lower=np.int32(1), band_upper=np.int32(0)),
        "band_lower 1, band_upper 0: must satisfy -2**30 <= band_lower <= band_upper <= 2**30",
    ),
    "no variant": (
        dict(variants=""),
        'variants="" names no kernel; this build has: ' + " ".join(_ext.variant_names()),
    ),
    "a variant of another operation": (
        dict(variants="fwd_sm90_bf16_d64"),
        "variant fwd_sm90_bf16_d64 is a forward kernel; a backward kernel is needed",
    ),
    "a helper": (
        dict(variants="bwd_postprocess_sm90_bf16"),
        "variant bwd_postprocess_sm90_bf16 is a backward postprocess kernel; "
        "a backward kernel is needed",
    ),
    "a variant of another dtype": (
        dict(variants="bwd_sm90_fp16_d64"),
        "variant bwd_sm90_fp16_d64 does not take q bf16(2, 200, 4, 64)",
    ),
    "a variant that is too narrow": (
        dict(q=((2, 200, 4, 72), BF16)),
        "variant bwd_sm90_bf16_d64 takes head_dim up to 64, not q bf16(2, 200, 4, 72)",
    ),
}


@pytest.mark.parametrize("case", FORWARD_REFUSALS)
def test_forward_refuses(case):
    arguments, words = FORWARD_REFUSALS[case]
    message = refused(re.escape(words), forward, **arguments)
    assert message.startswith(f"INVALID_ARGUMENT: {FORWARD}: ")


@pytest.mark.parametrize("case", FP8_REFUSALS)
def test_forward_of_8_bits_refuses(case):
    arguments, words = FP8_REFUSALS[case]
    message = refused(re.escape(words), forward_fp8, **arguments)
    assert message.startswith(f"INVALID_ARGUMENT: {FORWARD_FP8}: ")


@pytest.mark.parametrize("case", BACKWARD_REFUSALS)
def test_backward_refuses(case):
    arguments, words = BACKWARD_REFUSALS[case]
    message = refused(re.escape(words), backward, **arguments)
    assert message.startswith(f"INVALID_ARGUMENT: {BACKWARD}: ")


@pytest.mark.parametrize("case", PREPROCESS_REFUSALS)
def test_preprocess_refuses(case):
    arguments, words = PREPROCESS_REFUSALS[case]
    message = refused(re.escape(words), preprocess, **arguments)
    assert message.startswith(f"INVALID_ARGUMENT: {PREPROCESS}: ")


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        (dict(softmax_scale=1.0), "expected F32 but got F64"),
        (dict(band_lower=0), "expected S32 but got S64"),
        (dict(extra=np.int32(1)), "Wrong number of attributes: expected 4 but got 5"),
    ],
)
def test_attributes_are_typed(attributes, words):
    refused(words, forward, **attributes)


def has_driver():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(has_driver(), reason="speaks of a machine without a CUDA driver")
@pytest.mark.parametrize(
    ("function", "target"),
    [
        (forward, FORWARD),
        (forward_fp8, FORWARD_FP8),
        (backward, BACKWARD),
        (preprocess, PREPROCESS),
    ],
)
def test_a_right_call_gets_as_far_as_the_driver(function, target):
    message = refused("no CUDA driver: libcuda.so.1", function)
    assert message.startswith(f"FAILED_PRECONDITION: {target}: ")


@pytest.mark.skipif(has_driver(), reason="speaks of a machine without a CUDA driver")
@pytest.mark.parametrize(
    "arguments",
    [
        dict(q=((1, 1, 1, 8), BF16)),
        dict(q=((2, 8, 4, 64), BF16), k=((2, 5, 2, 64), BF16)),
        dict(q=((2, 8, 4, 256), FP16), variants="fwd_sm90_fp16_d256"),
        dict(band_lower=np.int32(-5), band_upper=np.int32(-5)),
    ],
)
def test_what_the_kernels_take_is_not_refused(arguments):
    refused("no CUDA driver", forward, **arguments)
