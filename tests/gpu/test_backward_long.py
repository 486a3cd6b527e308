"""Gradients of long sequences on the GPU: 64k, and arrays of more than 2^31 elements."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    ("shape", "keys"),
    [((2**10 + 3, 128, 128, 128), 16), ((1, 2**20 + 5, 16, 128), 16)],
    ids=["batch", "sequence"],
)
def test_arrays_past_two_billion_elements(shape, keys):
    """dq_accum alone is 8.6 GB; rows of the tail against the same rows alone."""
    batch, seqlen, heads, head_dim = shape
    draw = jax.jit(
        lambda seed, shape: jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16),
        static_argnums=1,
    )
    q = draw(0, shape)
    k, v = (draw(seed, (batch, keys, heads, head_dim)) for seed in (1, 2))

    @jax.jit
    def gradient(q, k, v):
        """dO = 2 O in bfloat16: large cotangents need no array of their own."""
        call = functools.partial(jax_fa4.flash_attention, implementation="fa4")
        out, vjp = jax.vjp(call, q, k, v)
        return vjp(out)

    dq, dk, dv = gradient(q, k, v)
    tail = slice(max(seqlen - 256, 0), seqlen)
    for b, h in {(0, 0), (batch - 1, heads - 1)}:
        rows = q[b : b + 1, tail, h : h + 1]
        one = [x[b : b + 1, :, h : h + 1] for x in (k, v)]
        wanted, _, _ = gradient(rows, *one)
        found = np.asarray(dq[b : b + 1, tail, h : h + 1], np.float32)
        wanted = np.asarray(wanted, np.float32)
        np.testing.assert_allclose(found, wanted, atol=2**-8 * np.abs(wanted).max())
    assert bool(
        jnp.isfinite(dk.astype(jnp.float32)).all() & jnp.isfinite(dv.astype(jnp.float32)).all()
    )
    if batch > 1:  # a batch element's keys see its own rows alone
        last = [x[-1:] for x in (q, k, v)]
        for ours, wanted in zip((dk[-1:], dv[-1:]), gradient(*last)[1:], strict=True):
            assert np.asarray(ours).tobytes() == np.asarray(wanted).tobytes()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("head_dim", "deterministic"), [(64, False), (128, False), (256, False), (128, True)]
)
def test_long_sequences(head_dim, deterministic, causal):
    """64k rows and keys: some rows of dq and keys of dk, dv against float64 of those alone."""
    length = 65536
    shape = (1, length, 1, head_dim)
    q, k, v, dout = (
        jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16) for seed in range(4)
    )

    @jax.jit
    def run(q, k, v, dout):
        call = functools.partial(
            jax_fa4.flash_attention,
            causal=causal,
            deterministic=deterministic,
            return_lse=True,
            implementation="fa4",
        )
        (out, lse), vjp = jax.vjp(call, q, k, v)
        return out, lse, *vjp((dout, jnp.zeros_like(lse)))

    out, lse, dq, dk, dv = (np.asarray(x, np.float64) for x in run(q, k, v, dout))
    q, k, v, dout = (np.asarray(x, np.float64)[0, :, 0] for x in (q, k, v, dout))
    delta = (out[0, :, 0] * dout).sum(-1)
    scale = head_dim**-0.5
    rows = np.array([0, 1, 77, length // 2, length - 1])
    seen = np.arange(length)[None] <= rows[:, None] if causal else np.ones((5, length), bool)
    p = np.where(seen, np.exp(q[rows] @ k.T * scale - lse[0, 0, rows, None]), 0)
    ds = p * (dout[rows] @ v.T - delta[rows, None])
    terms = p * (np.abs(dout[rows]) @ np.abs(v.T) + np.abs(delta[rows, None]))
    _near(dq[0, rows, 0], scale * ds @ k, scale * terms @ np.abs(k))
    seen = np.arange(length)[:, None] >= rows[None] if causal else np.ones((length, 5), bool)
    p = np.where(seen, np.exp(q @ k[rows].T * scale - lse[0, 0, :, None]), 0)
    ds = p * (dout @ v[rows].T - delta[:, None])
    terms = p * (np.abs(dout) @ np.abs(v[rows].T) + np.abs(delta[:, None]))
    _near(dk[0, rows, 0], scale * ds.T @ q, scale * terms.T @ np.abs(q))
    _near(dv[0, rows, 0], p.T @ dout, p.T @ np.abs(dout))


def _near(found, wanted, terms):
    """A row's error beside its own size: bfloat16 keeps 8 bits of P, dS and the result.

    Sums that cancel (the first row under a mask has dS = 0) keep float32's rounding of their terms.
    """
    error, size, size_of_terms = (
        np.linalg.norm(x, axis=-1) for x in (found - wanted, wanted, terms)
    )
    floor = np.finfo(np.float32).eps * size_of_terms
    assert (error <= 0.02 * size + floor).all(), (error, size, floor)


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
