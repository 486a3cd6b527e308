"""Which path a decoding call takes, in words."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jax_fa4.ops import checks as general
from jax_fa4.ops import errors
from jax_fa4.ops import selection as devices
from jax_fa4.ops.decode import checks
from jax_fa4.ops.decode.kernel_call import parts_of
from jax_fa4.ops.decode.plan import Operands
from jax_fa4.ops.decode.selection import select
from jax_fa4.variants import parse


def explain_decode(
    q: Any,
    k_cache: Any,
    v_cache: Any,
    *,
    key_value_seq_lengths: Any,
    page_table: Any = None,
    softmax_scale: Any = None,
    num_splits: int | None = None,
    implementation: Any = None,
    **options: Any,
) -> str:
    """Which path `decode_attention` takes on this machine, and why.

    Takes its arguments, of the sizes on one device; arrays may be `jax.ShapeDtypeStruct`. Those
    that are not named here (causal, window_size, softcap, return_lse, learnable_sink) change
    nothing.
    """
    _known(options)
    given = (q, k_cache, v_cache, key_value_seq_lengths, page_table)
    x = Operands(*(a if a is None or hasattr(a, "dtype") else jnp.asarray(a) for a in given))
    checks.operands(x)
    scale = general.scale("softmax_scale", softmax_scale, x.q.shape[3])
    wanted = checks.num_splits(num_splits)
    try:
        path = select(x, scale, implementation)
    except NotImplementedError as error:
        return str(error)
    if any(0 in a.shape for a in x if a is not None):
        return "portable path (XLA): there is nothing to compute, the arrays are empty"
    present = devices.cuda_devices()
    if not path.kernels or (path.emulator is None and not present):
        reason = path.reason or devices.no_device()
        return f"portable path (XLA): {reason}"
    parts = wanted or parts_of(x, tuple(map(parse, path.kernels)))
    cut = f"keys of a sequence in up to {parts} parts" if parts > 1 else "keys in one part"
    if path.emulator is not None:
        return f"kernel {path.kernels[0]} on the emulator, on the CPU; {cut}; no gradient"
    name = devices.kernel_for(present[0], path.kernels)
    return f"kernel {name} on {devices.describe(present[0])}; {cut}; no gradient"


def _known(options: dict[str, Any]) -> None:
    known = ("causal", "window_size", "softcap", "learnable_sink", "return_lse")
    for name in options:
        if name not in known:
            raise errors.bad_option(name, known)
