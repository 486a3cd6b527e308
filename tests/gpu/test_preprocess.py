"""The backward preprocess kernel against numpy: delta, lse in base 2, and clean scratch."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_fa4.ffi.backward import Scratch

pytestmark = pytest.mark.gpu

SHAPES = [  # (B, S, H, D)
    (1, 1, 1, 8),
    (2, 113, 3, 64),
    (3, 64, 2, 128),
    (1, 65, 5, 72),
    (2, 239, 4, 136),
    (1, 1023, 2, 256),
    (2, 31, 7, 512),
    (1, 4097, 1, 96),
    (70000, 2, 1, 8),  # more batches than a grid's y dimension holds
    (3, 1, 300, 40),
]


def _check(delta, out, dout, dlse):
    """Within twice the error of a plain float32 sum, plus an ulp of the largest row."""
    wide = [np.asarray(x, dtype=np.float64) for x in (out, dout)]
    products = wide[0] * wide[1]
    want = np.moveaxis(products.sum(-1), 2, 1) - np.asarray(dlse, dtype=np.float64)
    plain = np.moveaxis(products.astype(np.float32).sum(-1), 2, 1) - np.asarray(dlse)
    size = np.max(np.abs(products).sum(-1)) + np.max(np.abs(np.asarray(dlse)))
    bound = 2 * np.max(np.abs(plain - want)) + np.finfo(np.float32).eps * size
    np.testing.assert_allclose(np.asarray(delta, dtype=np.float64), want, rtol=0, atol=bound)


def _inputs(draw, shape, dtype, seed=0):
    batch, seqlen, heads, _ = shape
    rows = ((batch, heads, seqlen), jnp.float32)
    return draw(seed, (shape, dtype), (shape, dtype), rows, rows)


def _of_whole_tiles(scratch, seqlen):
    """What a main kernel may read: on sm_90 tiles have 64 rows, and what is past them is left."""
    rows = scratch.delta.shape[2]
    if jax.devices()[0].compute_capability.startswith("9."):
        rows = -(-seqlen // 64) * 64
    cut = [x[:, :, :rows] for x in scratch[:3]]
    return Scratch(*cut, scratch.semaphores[:, :, : rows // 64])


def _check_scratch(scratch, out, dout, lse, dlse):
    """All of it that a tile of queries has: the rows, their padding, and the zeros."""
    seqlen = out.shape[1]
    scratch = _of_whole_tiles(scratch, seqlen)
    _check(scratch.delta[..., :seqlen], out, dout, dlse)
    want = np.asarray(lse, np.float64) * np.log2(np.e)
    found = np.asarray(scratch.lse_log2)
    np.testing.assert_allclose(found[..., :seqlen], want, rtol=3e-7)
    assert np.all(found[..., seqlen:] == np.inf)
    assert np.all(np.asarray(scratch.delta)[..., seqlen:] == 0)
    assert not np.any(np.asarray(scratch.dq_accum))
    assert not np.any(np.asarray(scratch.semaphores))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_numpy(draw, preprocess, shape, dtype):
    arguments = _inputs(draw, shape, dtype)
    _check_scratch(jax.jit(preprocess)(*arguments), *arguments)


def test_rows_that_saw_no_key(draw, preprocess):
    """The cotangent of an lse of -inf is easily infinite; nothing may come of it."""
    out, dout, lse, dlse = _inputs(draw, (1, 100, 2, 64), jnp.bfloat16)
    lse, dlse = lse.at[:, :, 7].set(-jnp.inf), dlse.at[:, 0, 7].set(-jnp.inf)
    dlse = dlse.at[:, 1, 7].set(jnp.nan)
    scratch = jax.jit(preprocess)(out, dout, lse, dlse)
    assert np.all(np.asarray(scratch.delta)[:, :, 7] == 0)
    assert np.all(np.asarray(scratch.lse_log2)[:, :, 7] == np.inf)


def test_the_check_can_fail(draw, preprocess):
    """One element of one row off by an ulp of bf16 must show."""
    out, dout, lse, dlse = _inputs(draw, (2, 113, 3, 64), jnp.bfloat16)
    scratch = jax.jit(preprocess)(out.at[1, 112, 2, 63].mul(1.01), dout, lse, dlse)
    with pytest.raises(AssertionError):
        _check_scratch(scratch, out, dout, lse, dlse)


@pytest.mark.parametrize("width", [64, 96, 256])
def test_every_element_is_written(draw, preprocess, run_on_poison, width):
    arguments = _inputs(draw, (2, 4099, 5, 64), jnp.bfloat16)
    call = functools.partial(preprocess, width=width)
    _check_scratch(Scratch(*run_on_poison(call, *arguments)), *arguments)


def test_two_runs_are_bit_equal(draw, preprocess):
    arguments = _inputs(draw, (2, 1023, 3, 128), jnp.bfloat16)
    first, second = (np.asarray(jax.jit(preprocess)(*arguments).delta) for _ in range(2))
    np.testing.assert_array_equal(first.view(np.uint32), second.view(np.uint32))


def test_inputs_past_two_billion_elements(preprocess):
    """Offsets of the last rows do not fit 32 bits: batch, then sequence, carries them there."""
    for shape in ((2**15 + 1, 4, 16, 1024), (1, 2**17 + 3, 128, 128)):
        batch, seqlen, heads, head_dim = shape
        rows = jnp.arange(batch * seqlen * heads, dtype=jnp.int32).reshape(shape[:3])
        # Small integers, exact in bf16; a wrong row has another sum.
        out = jnp.broadcast_to((rows % 251).astype(jnp.bfloat16)[..., None], shape) + 0
        dout = jnp.ones(shape, jnp.bfloat16)
        zeros = jnp.zeros((batch, heads, seqlen), jnp.float32)
        delta = jax.jit(preprocess)(out, dout, zeros, zeros).delta[..., :seqlen]
        want = jnp.moveaxis((rows % 251).astype(jnp.float32) * head_dim, 2, 1)
        assert bool(jnp.all(delta == want)), shape
        del out, dout, zeros, delta, want, rows
