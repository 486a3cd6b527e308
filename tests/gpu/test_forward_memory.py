"""What the forward kernel writes: everything, the same every time, wherever it lies."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.gpu

# (B, Sq, Sk, Hq, Hkv, D, causal): tails, GQA, each native width and a padded one.
PROBLEMS = [
    (2, 113, 239, 4, 2, 64, False),
    (1, 1023, 1023, 2, 2, 128, True),
    (2, 257, 65, 3, 1, 256, False),
    (1, 300, 77, 2, 1, 128, True),  # the first rows attend nothing
    (1, 1, 1023, 2, 2, 96, False),
    (3, 192, 640, 2, 2, 64, True),
]


def _inputs(draw, problem, dtype=jnp.bfloat16, seed=0):
    batch, seqlen_q, seqlen_k, heads_q, heads_kv, head_dim, _ = problem
    kv = (batch, seqlen_k, heads_kv, head_dim)
    return draw(seed, ((batch, seqlen_q, heads_q, head_dim), dtype), (kv, dtype), (kv, dtype))


def _compiled(attend, causal):
    return jax.jit(lambda q, k, v: attend(q, k, v, causal=causal))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_element_is_written(draw, attend, run_on_poison, reference, problem, dtype):
    arrays = _inputs(draw, problem, dtype)
    causal = problem[-1]
    out, lse = run_on_poison(_compiled(attend, causal), *arrays)
    reference.close(out, lse, arrays, causal=causal)


def test_the_reference_can_fail(draw, attend, reference):
    arrays = _inputs(draw, PROBLEMS[0])
    out, lse = _compiled(attend, False)(*arrays)
    with pytest.raises(AssertionError):
        reference.close(out.at[1, 112, 3, 63].add(0.05), lse, arrays, causal=False)
    with pytest.raises(AssertionError):
        reference.close(out, lse.at[1, 3, 112].add(1e-4), arrays, causal=False)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_runs_are_bit_equal(draw, attend, problem):
    arrays = _inputs(draw, problem, seed=1)
    call = _compiled(attend, problem[-1])
    first = [np.asarray(x) for x in call(*arrays)]
    for _ in range(10):
        again = [np.asarray(x) for x in call(*arrays)]
        assert [x.tobytes() for x in again] == [x.tobytes() for x in first]


def _sampled(reference, out, lse, arrays, batches, heads):
    """The chosen (batch, head) pairs alone, against the reference: the rest is too big for it."""
    for b in batches:
        for h in heads:
            one = [x[b : b + 1, :, h : h + 1] for x in arrays]
            reference.close(
                out[b : b + 1, :, h : h + 1], lse[b : b + 1, h : h + 1], one, causal=False
            )


@pytest.mark.parametrize(
    ("query_shape", "keys"),
    [((2**13 + 3, 16, 128, 128), 16), ((1, 2**20 + 5, 16, 128), 16)],
    ids=["batch", "sequence"],
)
def test_arrays_past_two_billion_elements(attend, reference, query_shape, keys):
    """Queries and output larger than 2^31 elements, with few keys so that it stays quick."""
    batch, seqlen, heads, head_dim = query_shape
    draw_ = jax.jit(
        lambda seed, shape: jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16),
        static_argnums=1,
    )
    q = draw_(0, query_shape)
    k, v = (draw_(seed, (batch, keys, heads, head_dim)) for seed in (1, 2))
    out, lse = _compiled(attend, False)(q, k, v)
    tail = slice(seqlen - 200, seqlen) if seqlen > 200 else slice(None)
    _sampled(
        reference,
        out[:, tail],
        lse[:, :, tail],
        (q[:, tail], k, v),
        batches=sorted({0, batch - 1}),
        heads=(0, heads - 1),
    )
