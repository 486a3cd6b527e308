"""The kernels of the backward as custom calls."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_fa4.emulator.settings import Settings
from jax_fa4.ffi import (
    BACKWARD_BOUNDED_TARGET,
    BACKWARD_PREPROCESS_TARGET,
    BACKWARD_TARGET,
    EMULATED_BACKWARD_BOUNDED_TARGET,
    EMULATED_BACKWARD_PREPROCESS_TARGET,
    EMULATED_BACKWARD_TARGET,
)
from jax_fa4.ops.band import Band
from jax_fa4.ops.bound_tables import BoundTables
from jax_fa4.ops.manual_axes import result_type
from jax_fa4.variants.workspace import Workspace


class Scratch(NamedTuple):
    """What the preprocess kernel writes, of the shapes of `Workspace`.

    On sm_90 what lies past the last tile of 64 queries is nobody's, and holds anything.
    After a whole backward dq_accum is the sum of dq / scale, in an order of the kernel's own.
    """

    delta: jax.Array
    lse_log2: jax.Array
    dq_accum: jax.Array
    semaphores: jax.Array


class Operands(NamedTuple):
    """q (B, Sq, Hq, D), k (B, Sk, Hkv, D), v (B, Sk, Hkv, Dv), the forward's out (B, Sq, Hq, Dv)
    and lse (B, Hq, Sq), and their cotangents. No dimension is 0; D and Dv are multiples of 8.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    out: jax.Array
    dout: jax.Array
    lse: jax.Array
    dlse: jax.Array


class Gradients(NamedTuple):
    """Like q, k and v."""

    dq: jax.Array
    dk: jax.Array
    dv: jax.Array


def backward(
    operands: Operands,
    *,
    softmax_scale: float,
    band: Band,
    variants: tuple[str, ...],
    emulator: Settings | None = None,
) -> tuple[Gradients, Scratch]:
    """The gradients, and the kernels' scratch as they left it, by `jax_fa4_bwd_v1`.

    The handler launches the one of `variants` that was built for the device, between its two
    helpers; with `emulator` settings it is `jax_fa4_emulated_bwd_v1`, which runs on the CPU.
    """
    results = jax.ffi.ffi_call(
        BACKWARD_TARGET if emulator is None else EMULATED_BACKWARD_TARGET,
        _result_types(operands, variants),
    )(
        *operands,
        variants=" ".join(variants),
        softmax_scale=np.float32(softmax_scale),
        band_lower=np.int32(band.lower),
        band_upper=np.int32(band.upper),
        **({} if emulator is None else emulator.attributes()),
    )
    return Gradients(*results[:3]), Scratch(*results[3:])


def backward_bounded(
    operands: Operands,
    tables: BoundTables,
    *,
    softmax_scale: float,
    softcap: float,
    variants: tuple[str, ...],
    emulator: Settings | None = None,
) -> tuple[Gradients, Scratch]:
    """The same where rows see what their bounds say, by `jax_fa4_bwd_bounded_v1`.

    `variants` are bounded kernels, which cap scores if `softcap` is not 0, and only then.
    """
    results = jax.ffi.ffi_call(
        BACKWARD_BOUNDED_TARGET if emulator is None else EMULATED_BACKWARD_BOUNDED_TARGET,
        _result_types(operands, variants),
    )(
        *operands,
        *tables,
        variants=" ".join(variants),
        softmax_scale=np.float32(softmax_scale),
        softcap=np.float32(softcap),
        **({} if emulator is None else emulator.attributes()),
    )
    return Gradients(*results[:3]), Scratch(*results[3:])


def backward_preprocess(
    out: jax.Array,
    dout: jax.Array,
    lse: jax.Array,
    dlse: jax.Array,
    *,
    width: int,
    variants: tuple[str, ...],
    emulator: Settings | None = None,
) -> Scratch:
    """The first of the backward's kernels alone, by `jax_fa4_bwd_preprocess_v1`.

    out and dout are (B, S, H, D), lse and dlse (B, H, S) float32; no dimension is 0 and D is a
    multiple of 8; `width` is that of dq_accum. With `emulator` settings it is
    `jax_fa4_emulated_bwd_preprocess_v1`, which runs on the CPU.
    """
    batch, length, heads, _ = out.shape
    workspace = Workspace.of_width(width, batch=batch, heads_q=heads, seqlen_q=length)
    call = jax.ffi.ffi_call(
        BACKWARD_PREPROCESS_TARGET if emulator is None else EMULATED_BACKWARD_PREPROCESS_TARGET,
        _scratch_types(workspace, out),
    )
    settings = {} if emulator is None else emulator.attributes()
    return Scratch(*call(out, dout, lse, dlse, variants=" ".join(variants), **settings))


def _result_types(operands: Operands, variants: tuple[str, ...]) -> tuple[Any, ...]:
    """Of the gradients and the scratch."""
    q, k, v = operands[:3]
    batch, length, heads, _ = q.shape
    workspace = Workspace.of(variants, batch=batch, heads_q=heads, seqlen_q=length)
    return (*(result_type(x.shape, x.dtype, q) for x in (q, k, v)), *_scratch_types(workspace, q))


def _scratch_types(workspace: Workspace, like: jax.Array) -> tuple[Any, ...]:
    return (
        result_type(workspace.delta, jnp.float32, like),
        result_type(workspace.lse_log2, jnp.float32, like),
        result_type(workspace.dq_accum, jnp.float32, like),
        result_type(workspace.semaphores, jnp.int32, like),
    )
