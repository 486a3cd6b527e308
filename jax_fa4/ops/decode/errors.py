"""Refusals of decoding: what was wrong, with which value, and what to do instead."""

from __future__ import annotations

from typing import Any

Shape = tuple[int, ...]


def not_int32(name: str, dtype: Any) -> ValueError:
    return ValueError(f"{name} has dtype {dtype}, expected int32; cast it with .astype(jnp.int32)")


def not_float(name: str, dtype: Any) -> ValueError:
    return ValueError(
        f"{name} has dtype {dtype}, expected floating-point numbers; cast it with "
        ".astype(jnp.float32)"
    )


def too_many_queries(name: str, shape: Shape, capacity: int) -> ValueError:
    return ValueError(
        f"{name} of shape {shape} has {shape[1]} new tokens, and the cache holds {capacity} keys "
        "of a sequence; make it longer (max_length, or more pages for each sequence)"
    )


def bad_softcap(value: Any) -> ValueError:
    return ValueError(f"softcap is {value!r}, expected a finite number >= 0, with 0 for no cap")


def traced_softcap() -> NotImplementedError:
    return NotImplementedError(
        "softcap is a traced value, and it must be a number known at trace time; make the argument "
        "static"
    )


def bad_num_splits(value: Any, largest: int) -> ValueError:
    return ValueError(
        f"num_splits is {value!r}, expected a whole number from 1 to {largest}, or None to let "
        "the shapes decide"
    )


def no_gradient() -> NotImplementedError:
    return NotImplementedError(
        "decode_attention has no gradient, and it was differentiated; train with flash_attention "
        "or dot_product_attention, or take its arguments as constants with jax.lax.stop_gradient"
    )
