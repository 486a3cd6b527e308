"""Argument checks of the public functions; each refusal's words are in `errors`."""

from __future__ import annotations

import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_fa4.ops import errors
from jax_fa4.ops.band import UNBOUNDED, Window

# All that a check of query, key and value reads.
ShapeDtype = jax.Array | jax.ShapeDtypeStruct

_DTYPES = ("bfloat16", "float16", "float32")
FP8 = "float8_e4m3fn"
DESCALES = ("query_descale", "key_descale", "value_descale")


def qkv(
    names: tuple[str, str, str],
    q: ShapeDtype,
    k: ShapeDtype,
    v: ShapeDtype,
    *,
    takes_fp8: bool = False,
) -> None:
    """Shapes (B, Sq, Hq, D), (B, Sk, Hkv, D), (B, Sk, Hkv, Dv) and one dtype that a path takes."""
    arrays = dict(zip(names, (q, k, v), strict=True))
    for name, x in arrays.items():
        if x.ndim != 4:
            raise errors.wrong_rank(name, x.shape, "(batch, length, heads, head_dim)")
        if x.shape[2] == 0:
            raise errors.no_size(name, "heads", x.shape)
        if x.shape[3] == 0:
            raise errors.no_size(name, "head dim", x.shape)
        if x.shape[1] >= UNBOUNDED:
            raise errors.too_long(name, x.shape[1])
    if len({x.dtype for x in arrays.values()}) > 1:
        raise errors.mixed_dtypes({name: x.dtype for name, x in arrays.items()})
    if str(q.dtype) not in (*_DTYPES, *([FP8] if takes_fp8 else [])):
        raise errors.unsupported_dtype(names[0], q.dtype)
    batch, _, heads, width = q.shape
    if k.shape[0] != batch or k.shape[3] != width:
        expected = f"batch {batch} and head dim {width} as {names[0]} {q.shape}"
        raise errors.wrong_shape(names[1], k.shape, expected)
    if v.shape[:3] != k.shape[:3]:
        expected = f"batch, length and heads of {names[1]} {k.shape}, with any head dim"
        raise errors.wrong_shape(names[2], v.shape, expected)
    if heads % k.shape[2]:
        raise errors.heads_do_not_divide(heads, k.shape[2])


def descale(name: str, x: ShapeDtype | None, q: ShapeDtype, k: ShapeDtype) -> None:
    """None, or float32 of shape (B, Hkv) where query and key are of 8 bits."""
    if x is None:
        return
    if str(q.dtype) != FP8:
        raise errors.descale_without_fp8(name, q.dtype)
    if str(x.dtype) != "float32":
        raise errors.bad_descale_dtype(name, x.dtype)
    expected = (k.shape[0], k.shape[2])
    if x.shape != expected:
        raise errors.wrong_shape(name, x.shape, f"(batch, heads of key) = {expected}")


def dense(
    name: str, x: jax.Array, batch: tuple[int, ...], scores: tuple[int, int, int]
) -> jax.Array:
    """A bias or mask that broadcasts to (*batch, heads, Sq, Sk), as 4 axes of full size or 1."""
    full = (*batch, *scores)
    shape = (1,) * (len(full) - x.ndim) + x.shape
    if len(shape) > len(full) or any(
        n not in (1, whole) for n, whole in zip(shape, full, strict=True)
    ):
        raise errors.wrong_shape(name, x.shape, f"one that broadcasts to {full}")
    x = x.reshape(shape)
    leading = shape[: len(batch)]
    if any(n != 1 for n in leading):
        x = jnp.broadcast_to(x, (*batch, *shape[len(batch) :]))
        return x.reshape(math.prod(batch), *shape[len(batch) :])
    return x.reshape(1, *shape[len(batch) :])


def mask_dtype(mask: jax.Array) -> None:
    if mask.dtype != np.dtype(bool):
        raise errors.bad_mask_dtype(mask.dtype)


def bias_dtype(bias: jax.Array) -> None:
    if str(bias.dtype) not in _DTYPES:
        raise errors.bad_bias_dtype(bias.dtype)


def seq_lengths(name: str, x: ShapeDtype, batch: tuple[int, ...]) -> None:
    """Integers, one for each batch element."""
    if not np.issubdtype(x.dtype, np.integer):
        raise errors.bad_integers(name, x.dtype)
    if x.shape not in (batch, batch or (1,)):
        raise errors.wrong_shape(name, x.shape, f"{batch or (1,)}, one for each batch element")


def segment_ids(name: str, x: ShapeDtype, batch: tuple[int, ...], length: int) -> None:
    """Integers that int32 tells apart, one for each position."""
    if not np.issubdtype(x.dtype, np.integer) or x.dtype.itemsize > 4:
        raise errors.bad_integers(name, x.dtype)
    if x.shape != (*batch, length):
        raise errors.wrong_shape(
            name, x.shape, f"{(*batch, length)}, one for each position of each batch element"
        )


def cu_seqlens(name: str, x: ShapeDtype) -> None:
    """Integers, the ends of one document or more after a 0."""
    if not np.issubdtype(x.dtype, np.integer) or x.dtype.itemsize > 4:
        raise errors.bad_integers(name, x.dtype)
    if x.ndim != 1 or x.shape[0] < 2:
        expected = "(documents + 1,), for at least one document"
        raise errors.wrong_shape(name, x.shape, expected)


def max_seqlen(name: str, value: Any) -> None:
    """None or a length known at trace time."""
    if value is None:
        return
    expected = "an integer known at trace time, at least 0 (it may be left out)"
    try:
        number = operator.index(value)
    except TypeError:
        raise errors.bad_number(name, value, expected) from None
    if number < 0 or isinstance(value, bool):
        raise errors.bad_number(name, value, expected)


def softcap(name: str, value: Any) -> float:
    """The soft cap as a number, 0 for none: None or 0."""
    if value is None:
        return 0.0
    if isinstance(value, jax.core.Tracer):
        raise errors.traced_softcap(name)
    expected = "a finite number, positive, or 0 for none"
    if isinstance(value, bool) or np.ndim(value) != 0:
        raise errors.bad_number(name, value, expected)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise errors.bad_number(name, value, expected) from None
    if not math.isfinite(number) or number < 0:
        raise errors.bad_number(name, value, expected)
    return number


def dropout_rate(value: Any) -> float:
    if isinstance(value, jax.core.Tracer):
        raise errors.traced_dropout_rate()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise errors.bad_number("dropout_rate", value, "a number from 0 to below 1")
    return float(value)


def sinks(name: str, x: ShapeDtype, heads: int) -> None:
    """One floating-point number for each query head."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise errors.bad_sinks_dtype(name, x.dtype)
    if x.shape != (heads,):
        raise errors.wrong_shape(name, x.shape, f"({heads},), one for each query head")


def scale(name: str, value: Any, head_dim: int) -> float:
    """The softmax scale as a number, 1/sqrt(head_dim) for None."""
    if value is None:
        return 1.0 / math.sqrt(head_dim)
    if isinstance(value, jax.core.Tracer):
        raise errors.traced_scale(name)
    expected = "a finite number"
    if isinstance(value, bool) or np.ndim(value) != 0:
        raise errors.bad_number(name, value, expected)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise errors.bad_number(name, value, expected) from None
    if not math.isfinite(number):
        raise errors.bad_number(name, value, expected)
    return number


def window(name: str, value: Any) -> Window:
    """A window as (left, right): an int is symmetric, None anywhere is no bound."""
    if value is None:
        return None, None
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise errors.bad_window(name, value, f"{len(value)} entries")
        left, right = value
    else:
        left = right = value
    return _window_side(name, value, left), _window_side(name, value, right)


def _window_side(name: str, value: Any, side: Any) -> int | None:
    if side is None:
        return None
    try:
        if isinstance(side, bool):
            raise TypeError
        number = operator.index(side)
    except TypeError:
        raise errors.bad_window(name, value, f"{side!r} is not an integer") from None
    if number < 0:
        raise errors.bad_window(name, value, f"{number} keys means nothing")
    return number


def choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise errors.bad_choice(name, value, choices)
