"""The forward kernel as one custom call."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jax_fa4.emulator.settings import Settings
from jax_fa4.ffi import (
    EMULATED_FORWARD_FP8_TARGET,
    EMULATED_FORWARD_TARGET,
    FORWARD_FP8_TARGET,
    FORWARD_TARGET,
)
from jax_fa4.ops.band import Band
from jax_fa4.ops.manual_axes import result_type


def forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    softmax_scale: float,
    band: Band,
    variants: tuple[str, ...],
    descales: tuple[jax.Array, ...] = (),
    emulator: Settings | None = None,
) -> tuple[jax.Array, jax.Array]:
    """out (B, Sq, Hq, Dv) in q's dtype and lse (B, Hq, Sq) float32, by `jax_fa4_fwd_v1`.

    q is (B, Sq, Hq, D), k (B, Sk, Hkv, D), v (B, Sk, Hkv, Dv); no dimension is 0, and D and Dv
    are multiples of 8. The handler launches the one of `variants` that was built for the device;
    with `emulator` settings it is `jax_fa4_emulated_fwd_v1`, which runs on the CPU.

    With `descales` (B, Hkv) of q, k and v it is `jax_fa4_fwd_fp8_v1`: e4m3 in, bfloat16 out, and D
    and Dv are multiples of 16.
    """
    targets = (
        (FORWARD_FP8_TARGET, EMULATED_FORWARD_FP8_TARGET)
        if descales
        else (FORWARD_TARGET, EMULATED_FORWARD_TARGET)
    )
    batch, length, heads, _ = q.shape
    call = jax.ffi.ffi_call(
        targets[emulator is not None],
        (
            result_type(
                (batch, length, heads, v.shape[3]), jnp.bfloat16 if descales else q.dtype, q
            ),
            result_type((batch, heads, length), jnp.float32, q),
        ),
    )
    out, lse = call(
        q,
        k,
        v,
        *descales,
        variants=" ".join(variants),
        softmax_scale=np.float32(softmax_scale),
        band_lower=np.int32(band.lower),
        band_upper=np.int32(band.upper),
        **({} if emulator is None else emulator.attributes()),
    )
    return out, lse
