"""The backward kernels on the GPU within programs: donated buffers, NaN next door, long keys."""

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


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("lengths", [(113, 239), (1, 300), (577, 640)], ids=str)
def test_nan_in_neighbours_stays_there(lengths, head_dim):
    """Past a ragged tile's last row lies the next batch element, beside each row another head."""
    case = inputs.Case(
        name="neighbours",
        query_length=lengths[0],
        key_length=lengths[1],
        batch=3,
        heads=4,
        heads_kv=2,
        head_dim=head_dim,
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


@pytest.mark.parametrize(
    ("batch", "length", "heads"),
    [(65, 2**15 + 8, 8), (1, 2**20 + 5, 16)],
    ids=["batch", "sequence"],
)
def test_keys_past_two_billion_elements(batch, length, heads):
    """K, V, dK and dV larger than 2^31 elements, beside the portable path on single heads."""
    head_dim, queries = 128, 16
    assert batch * length * heads * head_dim > 2**31
    draw = jax.jit(
        lambda seed, shape: jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16),
        static_argnums=1,
    )
    keys, rows = (batch, length, heads, head_dim), (batch, queries, heads, head_dim)
    k, v, q = draw(0, keys), draw(1, keys), draw(2, rows)
    dout = 1024 * draw(3, rows)  # so that gradients of a million keys are no tiny numbers

    @functools.partial(jax.jit, static_argnums=0)
    def run(implementation, q, k, v, dout):
        call = functools.partial(jax_fa4.flash_attention, implementation=implementation)
        out, vjp = jax.vjp(call, q, k, v)
        return out, *vjp(dout)

    out, dq, dk, dv = run("fa4", q, k, v, dout)
    sampled = np.array([0, 1, length // 2, length - 65, length - 1])
    for b, h in {(0, 0), (batch - 1, heads - 1), (batch // 2, 1)}:
        one = [x[b : b + 1, :, h : h + 1] for x in (q, k, v, dout)]
        wanted = run("xla", *one)
        found = [x[b : b + 1, :, h : h + 1] for x in (out, dq, dk, dv)]
        for at, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
            if at >= 2:
                ours, theirs = ours[:, sampled], theirs[:, sampled]
            ours, theirs = (np.asarray(x, np.float64) for x in (ours, theirs))
            error = np.linalg.norm(ours - theirs, axis=-1)
            assert (error <= 0.02 * np.linalg.norm(theirs, axis=-1) + 1e-6).all(), (b, h, at)
