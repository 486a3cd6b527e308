"""The backward kernels on the GPU within programs: donated buffers, NaN next door."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4.testing import inputs

pytestmark = pytest.mark.gpu

attend = functools.partial(
    jax_fa4.flash_attention, causal=True, return_lse=True, implementation="fa4"
)


@jax.jit
def pull(x):
    _, vjp = jax.vjp(attend, *x[:3])
    return vjp((x.dout, x.dlse))


def close(found, wanted, ulps=1):
    """As two orders of one sum may differ, rounded once."""
    eps = ulps * float(jnp.finfo(jnp.bfloat16).eps)
    for a, b in zip(found, wanted, strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, atol=eps * np.abs(b).max())


@pytest.mark.parametrize("head_dims", [(64, 64), (128, 128), (192, 128), (256, 256)], ids=str)
@pytest.mark.parametrize("lengths", [(113, 239), (1, 300), (577, 640)], ids=str)
def test_nan_in_neighbours_stays_there(lengths, head_dims):
    """Past a ragged tile's last row lies the next batch element, beside each row another head."""
    case = inputs.Case(
        name="neighbours",
        query_length=lengths[0],
        key_length=lengths[1],
        batch=3,
        heads=4,
        heads_kv=2,
        head_dim=head_dims[0],
        head_dim_v=head_dims[1],
    )
    x = inputs.make(case, jnp.bfloat16)
    clean = pull(x)
    poisoned = x._replace(
        **{
            name: getattr(x, name).at[1].set(jnp.nan).at[2, :, : heads // 2].set(jnp.nan)
            for name, heads in (("q", 4), ("k", 2), ("v", 2), ("dout", 4))
        },
        dlse=x.dlse.at[1].set(jnp.nan).at[2, :2].set(jnp.nan),
    )
    found = pull(poisoned)
    for name, a, b in zip(("dq", "dk", "dv"), found, clean, strict=True):
        for place in (np.s_[0], np.s_[2, :, a.shape[2] // 2 :]):
            if name == "dq":  # a sum in a varying order
                close([a[place]], [b[place]])
            else:
                np.testing.assert_array_equal(np.asarray(a[place]), np.asarray(b[place]))


def test_training_with_donated_buffers():
    """Each step's arrays lie where the last one's did: nothing may depend on what they held."""
    case = inputs.Case(name="donated", query_length=200, key_length=200, heads=4, heads_kv=2)
    start = inputs.make(case, jnp.bfloat16)[:3]

    def loss(q, k, v):
        out, lse = attend(q, k, v)
        return (out.astype(jnp.float32) ** 2).sum() + lse.sum()

    def step(q, k, v):
        gradients = jax.grad(loss, argnums=(0, 1, 2))(q, k, v)
        return tuple(
            x - (g / 64).astype(x.dtype) for x, g in zip((q, k, v), gradients, strict=True)
        )

    kept, donated = jax.jit(step), jax.jit(step, donate_argnums=(0, 1, 2))
    x, y = start, tuple(jnp.array(a) for a in start)
    for _ in range(10):
        before = y
        y = donated(*y)
        assert all(a.is_deleted() for a in before)
        x = kept(*x)
    # dq's last bits vary, and with them every later step.
    close(y, x, ulps=4)
