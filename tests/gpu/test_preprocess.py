"""The backward preprocess kernel against numpy: delta = rowsum(dO * O) - dlse."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
    return draw(seed, (shape, dtype), (shape, dtype), ((batch, heads, seqlen), jnp.float32))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_numpy(draw, preprocess, shape, dtype):
    out, dout, dlse = _inputs(draw, shape, dtype)
    _check(jax.jit(preprocess)(out, dout, dlse), out, dout, dlse)


def test_the_check_can_fail(draw, preprocess):
    """One element of one row off by an ulp of bf16 must show."""
    out, dout, dlse = _inputs(draw, (2, 113, 3, 64), jnp.bfloat16)
    delta = jax.jit(preprocess)(out.at[1, 112, 2, 63].mul(1.01), dout, dlse)
    with pytest.raises(AssertionError):
        _check(delta, out, dout, dlse)


def test_every_element_is_written(draw, preprocess, run_on_poison):
    arguments = _inputs(draw, (2, 4099, 5, 64), jnp.bfloat16)
    (delta,) = run_on_poison(jax.jit(preprocess), *arguments)
    _check(delta, *arguments)


def test_two_runs_are_bit_equal(draw, preprocess):
    arguments = _inputs(draw, (2, 1023, 3, 128), jnp.bfloat16)
    first, second = (np.asarray(jax.jit(preprocess)(*arguments)) for _ in range(2))
    np.testing.assert_array_equal(first.view(np.uint32), second.view(np.uint32))


def test_inputs_past_two_billion_elements(preprocess):
    """Offsets of the last rows do not fit 32 bits: batch, then sequence, carries them there."""
    for shape in ((2**15 + 1, 4, 16, 1024), (1, 2**17 + 3, 128, 128)):
        batch, seqlen, heads, head_dim = shape
        rows = jnp.arange(batch * seqlen * heads, dtype=jnp.int32).reshape(shape[:3])
        # Small integers, exact in bf16; a wrong row has another sum.
        out = jnp.broadcast_to((rows % 251).astype(jnp.bfloat16)[..., None], shape) + 0
        dout = jnp.ones(shape, jnp.bfloat16)
        dlse = jnp.zeros((batch, heads, seqlen), jnp.float32)
        delta = jax.jit(preprocess)(out, dout, dlse)
        want = jnp.moveaxis((rows % 251).astype(jnp.float32) * head_dim, 2, 1)
        assert bool(jnp.all(delta == want)), shape
        del out, dout, dlse, delta, want, rows
