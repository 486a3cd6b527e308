"""Gradients within programs: what tests on the emulator and on a GPU ask of them alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jax_fa4.ffi import BACKWARD_TARGET, FORWARD_TARGET
from jax_fa4.testing import tolerances
from jax_fa4.testing.inputs import Inputs

Attend: TypeAlias = Callable[[Any, Any, Any], tuple[jax.Array, jax.Array]]  # (out, lse)


def pull(attend: Attend) -> Callable[[Inputs], Any]:
    """dq, dk, dv of out and lse."""

    def gradients(x: Inputs) -> Any:
        _, vjp = jax.vjp(attend, *x[:3])
        return vjp((x.dout, x.dlse))

    return gradients


def square_loss(attend: Attend) -> Callable[[Any, Any, Any], jax.Array]:
    """Of out and lse."""

    def loss(q: Any, k: Any, v: Any) -> jax.Array:
        out, lse = attend(q, k, v)
        return (out.astype(jnp.float32) ** 2).sum() + lse.sum()

    return loss


def ramp_gradient(attend: Attend) -> Callable[..., Any]:
    """dq, dk, dv of a loss that tells every element of out from every other."""

    def loss(q: Any, k: Any, v: Any) -> jax.Array:
        out, lse = attend(q, k, v)
        weights = jnp.arange(out.size, dtype=jnp.float32).reshape(out.shape) / out.size
        return (out.astype(jnp.float32) * weights).sum() + lse.sum()

    gradient: Callable[..., Any] = jax.grad(loss, argnums=(0, 1, 2))
    return gradient


def assert_close(found: Iterable[Any], wanted: Iterable[Any], ulps: int = 1) -> None:
    """As two orders of one sum may differ, rounded once to bfloat16."""
    eps = ulps * tolerances.ulp(jnp.bfloat16)
    for a, b in zip(found, wanted, strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, atol=eps * np.abs(b).max())


def train_twice(attend: Attend, start: tuple[Any, ...], steps: int) -> tuple[Any, Any]:
    """q, k, v after so many steps: in donated buffers, and without."""
    gradient = jax.grad(square_loss(attend), argnums=(0, 1, 2))

    def step(*arrays: Any) -> tuple[Any, ...]:
        gradients = gradient(*arrays)
        return tuple(x - (g / 64).astype(x.dtype) for x, g in zip(arrays, gradients, strict=True))

    kept, donated = jax.jit(step), jax.jit(step, donate_argnums=(0, 1, 2))
    x, y = start, tuple(jnp.array(a) for a in start)
    for _ in range(steps):
        before = y
        y = donated(*y)
        assert all(a.is_deleted() for a in before)
        x = kept(*x)
    return y, x


def assert_nan_stays(attend: Attend, x: Inputs) -> None:
    """NaN in a member of the batch, and in heads of another, shows in no other's gradients.

    Of the three members the middle one is poisoned, and the first half of the last one's heads.
    """
    gradients = jax.jit(pull(attend))
    clean = gradients(x)

    def poison(a: jax.Array, axis: int) -> jax.Array:
        heads = (slice(None),) * (axis - 1) + (slice(a.shape[axis] // 2),)
        return a.at[1].set(jnp.nan).at[(2, *heads)].set(jnp.nan)

    tensors = {name: poison(getattr(x, name), 2) for name in ("q", "k", "v", "dout")}
    found = gradients(x._replace(**tensors, dlse=poison(x.dlse, 1)))
    for name, a, b in zip(("dq", "dk", "dv"), found, clean, strict=True):
        for place in (np.s_[0], np.s_[2, :, a.shape[2] // 2 :]):
            if name == "dq":  # a sum in a varying order
                assert_close([a[place]], [b[place]])
            else:
                np.testing.assert_array_equal(np.asarray(a[place]), np.asarray(b[place]))


def custom_calls(function: Callable[..., Any], *args: Any) -> tuple[int, int]:
    """How often forward and backward are called in the program lowered for CUDA."""
    text = jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()
    forwards, backwards = (
        text.count(f"custom_call @{name}(") for name in (FORWARD_TARGET, BACKWARD_TARGET)
    )
    return forwards, backwards
