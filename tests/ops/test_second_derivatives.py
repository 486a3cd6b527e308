"""Derivatives of gradients: right on the portable path, refused in words where a kernel runs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4.ops import reference
from jax_fa4.ops.band import Band

LENGTH = 6
CAUSAL = Band.make(LENGTH, LENGTH, causal=True, window=(None, None), alignment="bottom_right")


def ours(q, k, v, **options):
    return jax_fa4.flash_attention(q, k, v, causal=True, return_lse=True, **options)


def definition(q, k, v):
    return reference.attention(q, k, v, softmax_scale=q.shape[-1] ** -0.5, band=CAUSAL)


def loss(call, qkv):
    """Of both results, and of no degree in them that a wrong second derivative would survive."""
    out, lse = call(*qkv)
    return (out.astype(jnp.float32) ** 3).sum() + (lse**2).sum()


def qkv(heads_kv=1, width=4, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((1, LENGTH, 2, width), *[(1, LENGTH, heads_kv, width)] * 2)
    return tuple(jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True))


def close(found, wanted):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))


@pytest.mark.parametrize("call", [jax.hessian, lambda f: jax.jacrev(jax.grad(f))])
def test_hessians_are_those_of_the_definition(call):
    found, wanted = (jax.jit(call(functools.partial(loss, f)))(qkv()) for f in (ours, definition))
    close(found, wanted)


def test_products_with_the_hessian_over_several_blocks():
    """jax.jvp of jax.grad needs no derivative of a loop in reverse."""
    length, band = 600, Band.make(600, 600, causal=True, window=(None, None), alignment="top_left")
    keys = jax.random.split(jax.random.key(1), 6)
    x, t = (
        tuple(jax.random.normal(k, (1, length, 1, 8)) for k in ks) for ks in (keys[:3], keys[3:])
    )

    def definition(q, k, v):
        return reference.attention(q, k, v, softmax_scale=8**-0.5, band=band)

    found, wanted = (
        jax.jit(lambda x, t, f=f: jax.jvp(jax.grad(functools.partial(loss, f)), (x,), (t,))[1])(
            x, t
        )
        for f in (ours, definition)
    )
    close(found, wanted)


def test_with_a_mask_and_a_bias():
    """The mask is boolean and has no tangent; the bias has one."""
    q, k, v = qkv()
    mask = jnp.ones((1, 1, LENGTH, LENGTH), bool).at[..., 2].set(False)
    bias = jax.random.normal(jax.random.key(3), (1, 2, LENGTH, LENGTH))

    def total(call, q, bias):
        return (call(q, k, v, bias, mask) ** 3).sum()

    calls = (jax_fa4.dot_product_attention, jax.nn.dot_product_attention)
    found, wanted = (
        jax.jit(jax.hessian(functools.partial(total, call), argnums=(0, 1)))(q, bias)
        for call in calls
    )
    close(found, wanted)


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize(
    "twice",
    [
        lambda f, x: jax.jvp(jax.grad(f), (x,), (x,)),
        lambda f, x: jax.grad(lambda x: sum(g.astype(jnp.float32).sum() for g in jax.grad(f)(x)))(
            x
        ),
        lambda f, x: jax.vmap(jax.hessian(f))(jax.tree.map(lambda a: a[None], x)),
    ],
    ids=["forward over reverse", "reverse over reverse", "vmapped hessian"],
)
def test_kernels_refuse_with_the_way_out(twice):
    x = qkv(dtype=jnp.bfloat16, width=8)
    with pytest.raises(NotImplementedError, match=r"differentiated again.*implementation='xla'"):
        jax.jit(functools.partial(twice, functools.partial(loss, ours))).trace(x)
    portable = functools.partial(loss, functools.partial(ours, implementation="xla"))
    jax.jit(functools.partial(twice, portable)).trace(x)
