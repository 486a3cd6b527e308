"""One kernel by its name on the emulator, even if calls like this would get another one."""

from __future__ import annotations

import jax

from jax_fa4 import emulator, ffi
from jax_fa4.emulator import settings
from jax_fa4.ffi.backward import Gradients, Operands, Scratch
from jax_fa4.ffi.backward import backward as backward_call
from jax_fa4.ffi.backward import backward_bounded as backward_bounded_call
from jax_fa4.ffi.forward import forward as forward_call
from jax_fa4.ffi.forward import forward_bounded as forward_bounded_call
from jax_fa4.ops.band import Band
from jax_fa4.ops.bound_tables import bound_tables
from jax_fa4.ops.kernel_calls import pad_head_dim, pad_operands
from jax_fa4.ops.key_bounds import KeyBounds
from jax_fa4.variants import BackwardVariant, parse
from jax_fa4.variants.select import helpers


def forward(
    name: str,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *descales: jax.Array,
    softmax_scale: float,
    band: Band,
) -> tuple[jax.Array, jax.Array]:
    """out and lse (B, H, Sq) of the forward kernel `name`."""
    now = prepare(name)
    with jax.default_device(jax.devices("cpu")[0]):
        out, lse = forward_call(
            *map(pad_head_dim, (q, k, v)),
            descales=descales,
            softmax_scale=softmax_scale,
            band=band,
            variants=(name,),
            emulator=now,
        )
    return out[..., : v.shape[-1]], lse


def forward_bounded(
    name: str,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    bounds: KeyBounds,
    *,
    softmax_scale: float,
    softcap: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """out and lse (B, H, Sq) of the bounded forward kernel `name`."""
    now = prepare(name)
    with jax.default_device(jax.devices("cpu")[0]):
        out, lse = forward_bounded_call(
            pad_head_dim(q),
            pad_head_dim(k),
            pad_head_dim(v),
            bound_tables(*bounds),
            softmax_scale=softmax_scale,
            softcap=softcap,
            variants=(name,),
            emulator=now,
        )
    return out[..., : v.shape[-1]], lse


def backward(
    name: str, operands: Operands, *, softmax_scale: float, band: Band
) -> tuple[Gradients, Scratch]:
    """The gradients by the backward kernel `name`, and the scratch that its kernels left."""
    now = prepare(name)
    with jax.default_device(jax.devices("cpu")[0]):
        gradients, scratch = backward_call(
            pad_operands(operands),
            softmax_scale=softmax_scale,
            band=band,
            variants=(name,),
            emulator=now,
        )
    return _cut(gradients, operands), scratch


def backward_bounded(
    name: str,
    operands: Operands,
    bounds: KeyBounds,
    *,
    softmax_scale: float,
    softcap: float = 0.0,
) -> tuple[Gradients, Scratch]:
    """The same by the bounded backward kernel `name`."""
    now = prepare(name)
    with jax.default_device(jax.devices("cpu")[0]):
        gradients, scratch = backward_bounded_call(
            pad_operands(operands),
            bound_tables(*bounds),
            softmax_scale=softmax_scale,
            softcap=softcap,
            variants=(name,),
            emulator=now,
        )
    return _cut(gradients, operands), scratch


def _cut(gradients: Gradients, operands: Operands) -> Gradients:
    """Without the head dims' padding."""
    pairs = zip(gradients, operands[:3], strict=True)
    return Gradients(*(dx[..., : x.shape[-1]] for dx, x in pairs))


def prepare(name: str) -> settings.Settings:
    """Loads what a kernel's run needs; the settings of the run."""
    ffi.register_emulator()
    variant = parse(name)
    helping = helpers(variant) if isinstance(variant, BackwardVariant) else ()
    for needed in (name, *helping):
        emulator.load(needed)
    now = settings.current()
    if now.special == "h100":
        emulator.load_special_tables()
    return now
