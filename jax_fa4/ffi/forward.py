"""The forward kernel as one custom call."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_fa4.emulator.settings import Settings
from jax_fa4.ffi import (
    EMULATED_FORWARD_BOUNDED_TARGET,
    EMULATED_FORWARD_FP8_TARGET,
    EMULATED_FORWARD_TARGET,
    FORWARD_BOUNDED_TARGET,
    FORWARD_FP8_TARGET,
    FORWARD_TARGET,
)
from jax_fa4.ops.band import Band
from jax_fa4.ops.bound_tables import BoundTables
from jax_fa4.ops.manual_axes import result_type, vary, varying_axes


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
    call = jax.ffi.ffi_call(
        targets[emulator is not None], _result_types(q, v, jnp.bfloat16 if descales else q.dtype)
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


def forward_bounded(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    tables: BoundTables,
    *,
    softmax_scale: float,
    softcap: float,
    variants: tuple[str, ...],
    emulator: Settings | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The same where rows see what their bounds say, by `jax_fa4_fwd_bounded_v1`.

    `variants` are bounded kernels, which cap scores if `softcap` is not 0, and only then.
    """
    target = FORWARD_BOUNDED_TARGET if emulator is None else EMULATED_FORWARD_BOUNDED_TARGET
    # Sinks are a matter of lse, and added outside; these are none.
    sinks = vary(jnp.full(q.shape[2], -jnp.inf, jnp.float32), varying_axes(q))
    out, lse = jax.ffi.ffi_call(target, _result_types(q, v, q.dtype))(
        q,
        k,
        v,
        *tables.of_forward(),
        sinks,
        variants=" ".join(variants),
        softmax_scale=np.float32(softmax_scale),
        softcap=np.float32(softcap),
        **({} if emulator is None else emulator.attributes()),
    )
    return out, lse


def _result_types(q: jax.Array, v: jax.Array, dtype: Any) -> tuple[Any, Any]:
    """Of out and lse."""
    batch, length, heads, _ = q.shape
    return (
        result_type((batch, length, heads, v.shape[3]), dtype, q),
        result_type((batch, heads, length), jnp.float32, q),
    )
