"""Packed documents, and all else at once, over fake CPU devices: the same as on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import jax_fa4
from jax_fa4.testing import inputs, meshes

CASE = inputs.Case(
    name="packed", query_length=48, key_length=48, heads=4, heads_kv=2, head_dim=8, head_dim_v=12
)
SINKS = jnp.asarray([0.3, -1.0, 2.0, 0.5])


def documents(case, seed=0):
    """Ids of documents, some over several devices, one in two parts, one that no query has."""
    generator = np.random.default_rng(seed)
    ends = np.sort(generator.integers(0, case.query_length, (case.batch, 4)))
    ids = (np.arange(case.query_length)[None, :, None] >= ends[:, None]).sum(-1) % 4 - 1
    keys = np.where(generator.random(ids.shape) < 0.1, 7, ids)
    return jnp.asarray(ids, jnp.int32), jnp.asarray(keys, jnp.int32)


def results(attention, x):
    """out, lse and the gradients of q, k, v and the sinks, for random cotangents."""

    def run(q, k, v, sinks, dout, dlse):
        (out, lse), pull = jax.vjp(attention, q, k, v, sinks)
        return out, lse, *pull((dout, jnp.where(jnp.isneginf(lse), 0, dlse)))

    return jax.jit(run)(*x[:3], SINKS, *x[3:])


def one_device(q, k, v, sinks, *, ids, window, softcap):
    out, lse = jax_fa4.dot_product_attention(
        *(q, k, v),
        is_causal=window[1] is None,
        local_window_size=window,
        query_segment_ids=ids[0],
        key_value_segment_ids=ids[1],
        logits_soft_cap=softcap,
        sinks=sinks,
        return_residual=True,
    )
    return out, lse.swapaxes(1, 2)


def devices(over, strategy, layout, *, ids, window, softcap):
    lay = functools.partial(jax_fa4.to_layout, layout=layout, shards=over.shape["context"])

    def attention(q, k, v, sinks):
        return meshes.context_parallel(
            over,
            spec=PartitionSpec("data", "context"),
            strategy=strategy,
            layout=layout,
            causal=window[1] is None,
            window_size=window,
            query_segment_ids=lay(ids[0]),
            key_value_segment_ids=lay(ids[1]),
            softcap=softcap,
            learnable_sink=sinks,
        )(q, k, v)

    return attention


def check(case, over, strategy, layout, **options):
    x = inputs.make(case, jnp.float32)
    options["ids"] = documents(case)
    found = results(devices(over, strategy, layout, **options), x)
    wanted = results(functools.partial(one_device, **options), x)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    ("strategy", "layout", "window"),
    [
        ("ring", "zigzag", (None, None)),
        ("ring", "zigzag", (6, 3)),
        ("ring", "striped", (6, 3)),
        ("ring", "contiguous", (9, None)),
        ("ulysses", "contiguous", (None, None)),
        ("ulysses", "zigzag", (6, 3)),
    ],
)
def test_documents_soft_cap_sinks_and_windows(strategy, layout, window):
    over = meshes.mesh(data=2, context=2)
    check(CASE, over, strategy, layout, window=window, softcap=2.0)


@pytest.mark.parametrize("strategy", ["ring", "ulysses"])
def test_head_dims_of_192_and_128(strategy):
    case = inputs.Case(**{**vars(CASE), "head_dim": 192, "head_dim_v": 128})
    over = meshes.mesh(data=1, context=4)
    check(case, over, strategy, "zigzag", window=(20, None), softcap=0.0)


def test_rows_without_keys():
    """A document that has no keys: 0 and -inf there, and no gradient."""
    x = inputs.make(CASE, jnp.float32)
    ids = jnp.arange(CASE.query_length)[None].repeat(CASE.batch, 0) // 16
    over = meshes.mesh(context=2)
    attention = functools.partial(
        jax_fa4.context_parallel_attention,
        mesh=over,
        spec=PartitionSpec(None, "context"),
        layout="contiguous",
        query_segment_ids=ids,
        key_value_segment_ids=jnp.where(ids == 1, 3, ids),
        return_lse=True,
    )
    out, lse = jax.jit(attention)(*x[:3])
    assert (out[:, 16:32] == 0).all()
    assert jnp.isneginf(lse[:, :, 16:32]).all()
    assert jnp.isfinite(lse[:, :, :16]).all()
    dq, dk, _ = jax.jit(jax.grad(lambda *a: (attention(*a)[0] ** 2).sum(), argnums=(0, 1, 2)))(
        *x[:3]
    )
    assert (dq[:, 16:32] == 0).all()
    assert (dk[:, 16:32] == 0).all()
    assert jnp.isfinite(dk).all()


def test_ids_may_be_traced_and_one_serves_both():
    """One compiled program for all ways to pack."""
    x = inputs.make(CASE, jnp.float32)
    over = meshes.mesh(context=2)

    @jax.jit
    def ours(q, k, v, ids):
        return jax_fa4.context_parallel_attention(
            *(q, k, v),
            mesh=over,
            spec=PartitionSpec(None, "context"),
            layout="contiguous",
            query_segment_ids=ids,
        )

    for seed in range(2):
        ids = documents(CASE, seed)[0]
        wanted = jax_fa4.dot_product_attention(*x[:3], query_segment_ids=ids)
        np.testing.assert_allclose(ours(*x[:3], ids), wanted, atol=1e-5)


@pytest.mark.parametrize("strategy", ["ring", "ulysses"])
def test_refusals(strategy):
    x = inputs.make(CASE, jnp.float32)
    call = functools.partial(
        jax_fa4.context_parallel_attention,
        *x[:3],
        mesh=meshes.mesh(context=2),
        spec=PartitionSpec(None, "context"),
        layout="contiguous",
        strategy=strategy,
    )
    name = f"{strategy}_attention"
    for option in ("bias", "mask", "score_mod", "mask_mod", "dropout_rate"):
        match = f"{name} takes no {option}; call dot_product_attention"
        with pytest.raises(NotImplementedError, match=match):
            call(**{option: None})
    with pytest.raises(NotImplementedError, match=r"takes no query_seq_lengths; .*segment_ids"):
        call(query_seq_lengths=jnp.zeros(2))
    with pytest.raises(TypeError, match=rf"{name} has no option 'sofcap'; .* softcap"):
        call(sofcap=1.0)
    with pytest.raises(ValueError, match="query_segment_ids has dtype float32"):
        call(query_segment_ids=jnp.zeros(x.q.shape[:2]))
    with pytest.raises(ValueError, match="query_segment_ids has shape"):
        call(query_segment_ids=jnp.zeros((1, CASE.query_length), jnp.int32))
