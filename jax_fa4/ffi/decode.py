"""The decoding kernels as one custom call."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jax_fa4.emulator.settings import Settings
from jax_fa4.ffi import DECODE_TARGET, EMULATED_DECODE_TARGET
from jax_fa4.ops.band import Band
from jax_fa4.ops.manual_axes import result_type


def decode(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    page_table: jax.Array,
    lengths: jax.Array,
    sinks: jax.Array,
    *,
    softmax_scale: float,
    softcap: float,
    band: Band,
    num_splits: int,
    variants: tuple[str, ...],
    emulator: Settings | None = None,
) -> tuple[jax.Array, jax.Array]:
    """out (B, Sq, Hq, Dv) in q's dtype and lse (B, Hq, Sq) float32, by `jax_fa4_decode_v1`.

    q is (B, Sq, Hq, D), k (P, page_size, Hkv, D), v (P, page_size, Hkv, Dv), page_table (B, n)
    and lengths (B,) int32, sinks (Hq,) float32; no dimension is 0, D and Dv are multiples of 8,
    and page_size is one of 16 where n > 1. The band counts from each sequence's own diagonal. The
    handler launches the one of `variants` that was built for the device, and where `num_splits`
    is more than 1 the kernel that merges the parts, which lie in results that are dropped here.
    """
    batch, length, heads, _ = q.shape
    rows = (batch, heads, length)
    call = jax.ffi.ffi_call(
        DECODE_TARGET if emulator is None else EMULATED_DECODE_TARGET,
        (
            result_type((batch, length, heads, v.shape[3]), q.dtype, q),
            result_type(rows, jnp.float32, q),
            result_type((num_splits, *rows, v.shape[3]), jnp.float32, q),
            result_type((num_splits, *rows), jnp.float32, q),
        ),
    )
    out, lse, _, _ = call(
        q,
        k,
        v,
        page_table,
        lengths,
        sinks,
        variants=" ".join(variants),
        softmax_scale=np.float32(softmax_scale),
        softcap=np.float32(softcap),
        band_lower=np.int32(band.lower),
        band_upper=np.int32(band.upper),
        **({} if emulator is None else emulator.attributes()),
    )
    return out, lse
