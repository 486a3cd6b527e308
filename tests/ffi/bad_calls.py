"""Calls of the FFI handlers on the CPU, right but for what a test changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

PREFIX = "on_cpu_"
FORWARD = "jax_fa4_fwd_v1"
BACKWARD = "jax_fa4_bwd_v1"
PREPROCESS = "jax_fa4_bwd_preprocess_v1"

FORWARD_FP8 = "jax_fa4_fwd_fp8_v1"
FORWARD_BOUNDED = "jax_fa4_fwd_bounded_v1"
BACKWARD_BOUNDED = "jax_fa4_bwd_bounded_v1"
DECODE = "jax_fa4_decode_v1"
BF16, FP16, F32, E4M3 = jnp.bfloat16, jnp.float16, jnp.float32, jnp.float8_e4m3fn


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


def bounds(q, k):
    """Arguments that only bounded targets have, by name, for q and k as (shape, dtype)."""
    (batch, seqlen_q, *_), _ = q
    (_, seqlen_k, *_), _ = k
    shapes = {
        "row_bounds": (batch, seqlen_q, 2),
        "query_ids": (batch, seqlen_q),
        "key_ids": (batch, seqlen_k),
        "query_groups": (batch, -(-seqlen_q // 64), 4),
    }
    return {name: (shape, jnp.int32) for name, shape in shapes.items()}


def forward_bounded(**changes):
    """Calls the bounded forward target in the way of `backward`."""
    q = changes.get("q", ((2, 200, 4, 64), BF16))
    (batch, seqlen, heads, _), _ = q
    k = changes.get("k", q)
    arguments = {"q": q, "k": k, "v": k, **bounds(q, k), "sinks": ((heads,), F32)}
    results = {"out": q, "lse": ((batch, heads, seqlen), F32)}
    attributes = {
        "variants": "fwd_sm90_bf16_d64_bounded",
        "softmax_scale": np.float32(1.0),
        "softcap": np.float32(0.0),
    }
    return changed(FORWARD_BOUNDED, arguments, results, attributes, changes)


def backward_bounded(**changes):
    """Calls the bounded backward target in the way of `backward`."""
    arguments, results = backward_buffers(changes)
    q, k = arguments["q"], arguments["k"]
    (batch, seqlen_k, *_), _ = k
    groups = {"key_groups": ((batch, -(-seqlen_k // 64), 2), jnp.int32)}
    attributes = {
        "variants": "bwd_sm90_bf16_d64_bounded",
        "softmax_scale": np.float32(1.0),
        "softcap": np.float32(0.0),
    }
    arguments = {**arguments, **bounds(q, k), **groups}
    return changed(BACKWARD_BOUNDED, arguments, results, attributes, changes)


def backward(**changes):
    """Calls the backward target; buffers (shape, dtype) and attributes but for the changes."""
    arguments, results = backward_buffers(changes)
    attributes = {
        "variants": "bwd_sm90_bf16_d64",
        "softmax_scale": np.float32(1.0),
        "band_lower": np.int32(-(2**30)),
        "band_upper": np.int32(2**30),
    }
    return changed(BACKWARD, arguments, results, attributes, changes)


def backward_buffers(changes):
    """Arguments and results of a backward, by name."""
    q = changes.get("q", ((2, 200, 4, 64), BF16))
    (batch, seqlen, heads, *_), _ = q
    rows = ((batch, heads, seqlen), F32)
    k = changes.get("k", q)
    v = changes.get("v", k)
    arguments = {"q": q, "k": k, "v": v, "out": q, "dout": q, "lse": rows, "dlse": rows}
    return arguments, {"dq": q, "dk": k, "dv": v, **scratch(batch, seqlen, heads)}


def preprocess(**changes):
    """Calls the preprocess target in the same way."""
    out = changes.get("out", ((2, 8, 4, 64), BF16))
    (batch, seqlen, heads, _), _ = out
    rows = ((batch, heads, seqlen), F32)
    arguments = {"out": out, "dout": out, "lse": rows, "dlse": rows}
    attributes = {"variants": "bwd_preprocess_sm90_bf16"}
    return changed(PREPROCESS, arguments, scratch(batch, seqlen, heads), attributes, changes)


def decode(**changes):
    """Calls the decode target in the way of `backward`; by default 3 pages of 64 a sequence."""
    q = changes.get("q", ((2, 1, 4, 64), BF16))
    (batch, seqlen, heads, width), _ = q
    k = changes.get("k", ((8, 64, 2, 64), BF16))
    rows = (batch, heads, seqlen)
    arguments = {
        "q": q,
        "k": k,
        "v": k,
        "page_table": ((batch, 3), jnp.int32),
        "lengths": ((batch,), jnp.int32),
        "sinks": ((heads,), F32),
    }
    results = {
        "out": q,
        "lse": (rows, F32),
        "out_partial": ((2, *rows, width), F32),
        "lse_partial": ((2, *rows), F32),
    }
    attributes = {
        "variants": "decode_sm90_bf16_d64",
        "softmax_scale": np.float32(1.0),
        "softcap": np.float32(0.0),
        "band_lower": np.int32(-(2**30)),
        "band_upper": np.int32(2**30),
    }
    return changed(DECODE, arguments, results, attributes, changes)


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
