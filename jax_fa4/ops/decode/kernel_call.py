"""Decoding by the kernels: what a device runs on what it holds."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jax_fa4 import emulator
from jax_fa4.ffi.decode import decode
from jax_fa4.ops import manual_axes
from jax_fa4.ops.decode.plan import DecodePlan, Operands
from jax_fa4.variants import Variant, parse
from jax_fa4.variants.select_decode import combine_of, num_splits


def forward(plan: DecodePlan, *operands: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """out and lse by the custom call; a contiguous cache is a page for each sequence."""
    x = Operands(*operands)  # type: ignore[arg-type]
    batch, _, heads, _ = x.q.shape
    axes = manual_axes.varying_axes(x.q)
    table, sinks = x.page_table, x.sinks
    if table is None:
        table = manual_axes.vary(jnp.arange(batch, dtype=jnp.int32)[:, None], axes)
    if sinks is None:
        sinks = manual_axes.vary(jnp.full((heads,), -jnp.inf, jnp.float32), axes)
    variants = tuple(map(parse, plan.path.kernels))
    if plan.path.emulator is not None:
        for variant in variants:
            emulator.load(variant.name)
            emulator.load(combine_of(variant).name)
    return decode(
        x.q,
        x.k,
        x.v,
        table,
        x.lengths,
        sinks.astype(jnp.float32),
        softmax_scale=plan.softmax_scale,
        softcap=plan.softcap,
        band=plan.band,
        num_splits=plan.num_splits or parts_of(x, variants),
        variants=plan.path.kernels,
        emulator=plan.path.emulator,
    )


def parts_of(x: Operands, variants: tuple[Variant, ...]) -> int:
    """Into how many parts the kernels cut the keys, where the caller does not say."""
    heads, heads_kv = x.q.shape[2], x.k.shape[2]
    return num_splits(
        sequences=x.q.shape[0],
        heads_kv=heads_kv,
        rows=x.q.shape[1] * (heads // heads_kv),
        capacity=x.capacity,
        archs=tuple(variant.arch for variant in variants),
    )
