"""The kernels of the backward as custom calls."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_fa4.emulator.settings import Settings
from jax_fa4.ffi import BACKWARD_PREPROCESS_TARGET, EMULATED_BACKWARD_PREPROCESS_TARGET
from jax_fa4.ops.manual_axes import result_type


def backward_preprocess(
    out: jax.Array,
    dout: jax.Array,
    dlse: jax.Array,
    *,
    variants: tuple[str, ...],
    emulator: Settings | None = None,
) -> jax.Array:
    """delta = rowsum(dO * O) - dlse, (B, H, S) float32, by `jax_fa4_bwd_preprocess_v1`.

    out and dout are (B, S, H, D), dlse is (B, H, S) float32; no dimension is 0 and D is a
    multiple of 8. With `emulator` settings it is `jax_fa4_emulated_bwd_preprocess_v1`, which
    runs on the CPU.
    """
    result = result_type(dlse.shape, jnp.float32, out)
    target = BACKWARD_PREPROCESS_TARGET if emulator is None else EMULATED_BACKWARD_PREPROCESS_TARGET
    settings = {} if emulator is None else emulator.attributes()
    delta = jax.ffi.ffi_call(target, result)(
        out, dout, dlse, variants=" ".join(variants), **settings
    )
    assert isinstance(delta, jax.Array)
    return delta
