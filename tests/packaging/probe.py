"""Run with an installed wheel and any jax: is the extension accepted, and does a kernel run?

XLA's answer to a call that a handler refuses proves that it took the handler and understood what it
said. Then the first Hopper kernel of the build runs on the emulator, beside the portable path.
"""

import platform

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

import jax_fa4
from jax_fa4 import _ext


def refusal() -> str:
    """What the forward handler says to the name of a kernel that does not exist."""
    target = "jax_fa4_fwd_v1"
    jax.ffi.register_ffi_target("probe", _ext.registrations()[target], platform="cpu")
    q = jnp.zeros((1, 4, 2, 64), jnp.bfloat16)
    results = [jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((1, 2, 4), jnp.float32)]
    scalars = {
        "softmax_scale": np.float32(1),
        "band_lower": np.int32(0),
        "band_upper": np.int32(0),
    }
    try:
        call = jax.ffi.ffi_call("probe", results)
        jax.block_until_ready(call(q, q, q, variants="no_such_kernel", **scalars))
    except Exception as error:
        return str(error)
    raise SystemExit("the call was not refused")


def emulated() -> str:
    """How far a kernel on the emulator and the portable path are apart, in steps of bfloat16."""
    if "fwd_sm90_bf16_d64" not in _ext.variant_names():
        return "no kernel in this build to run"
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (1, 70, 2, 64), jnp.bfloat16) for key in keys)
    kernel, portable = (
        jax_fa4.dot_product_attention(q, k, v, is_causal=True, implementation=path)
        for path in ("emulator", "xla")
    )
    wide = portable.astype(jnp.float32)
    steps = jnp.abs(kernel.astype(jnp.float32) - wide).max() / jnp.abs(wide).max() * 2**8
    assert steps <= 2, f"{steps} steps apart"
    return f"a kernel ran on the emulator, {float(steps):.1f} steps from the portable path"


words = refusal()
assert "variant no_such_kernel is not in this build" in words, words
place = f"Python {platform.python_version()}, {platform.machine()}"
print(f"{place}, jax {jax.__version__}, jaxlib {jaxlib.__version__}: handler taken; {emulated()}")
