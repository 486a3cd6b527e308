"""Forward derivatives: exact on the portable path, refused where a kernel runs, by its name."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jax_fa4
from jax_fa4.ops import reference
from jax_fa4.ops.band import Band

LENGTH = 6
CAUSAL = Band.make(LENGTH, LENGTH, causal=True, window=(None, None), alignment="bottom_right")


def ours(q, k, v, **options):
    return jax_fa4.flash_attention(q, k, v, causal=True, return_lse=True, **options)


def definition(q, k, v):
    return reference.attention(q, k, v, softmax_scale=q.shape[-1] ** -0.5, band=CAUSAL)


def arrays(batch=1, dtype=jnp.float32, width=4):
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((batch, LENGTH, 2, width), *[(batch, LENGTH, 1, width)] * 2)
    return tuple(jax.random.normal(k, s, dtype) for k, s in zip(keys, shapes, strict=True))


def loss(call, x):
    out, lse = call(*x)
    return (out**3).sum() + (lse**2).sum()


def close(found, wanted):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))


def along_keys(call, x):
    return jax.jvp(lambda k: call(x[0], k, x[2]), (x[1],), (x[1],))[1]


TRANSFORMS = {
    "jvp": lambda f, x: jax.jvp(f, x, x),
    "along one array": along_keys,
    "linearize": lambda f, x: jax.linearize(f, *x)[1](*x),
    "jacfwd": lambda f, x: jax.jacfwd(f, (0, 1, 2))(*x),
    "jacfwd of jit": lambda f, x: jax.jacfwd(jax.jit(f), (0, 1, 2))(*x),
    "jacrev": lambda f, x: jax.jacrev(f, (0, 1, 2))(*x),
    "jvp of a remat": lambda f, x: jax.jvp(jax.checkpoint(f), x, x),
    "hessian": lambda f, x: jax.hessian(functools.partial(loss, f))(x),
    "forward twice": lambda f, x: jax.jacfwd(jax.jacfwd(functools.partial(loss, f)))(x),
    "reverse of forward": lambda f, x: jax.jacrev(jax.jacfwd(functools.partial(loss, f)))(x),
    "vmap of jacfwd": lambda f, x: jax.vmap(jax.jacfwd(f, 1))(*[jnp.stack([a, 2 * a]) for a in x]),
    "jvp of vmap": lambda f, x: jax.jvp(
        lambda q, k: jax.vmap(f, (0, 0, None))(q, k, x[2]),
        (y := [jnp.stack([a, 2 * a]) for a in x[:2]]),
        y,
    ),
    "grad of vmap": lambda f, x: jax.grad(
        lambda k: sum(
            (a**2).sum() for a in jax.vmap(f, (0, None, None))(jnp.stack([x[0]] * 2), k, x[2])
        )
    )(x[1]),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_those_of_the_definition(name):
    found, wanted = (
        jax.jit(functools.partial(TRANSFORMS[name], f))(arrays()) for f in (ours, definition)
    )
    close(found, wanted)


def test_over_several_blocks():
    length = 600
    keys = jax.random.split(jax.random.key(1), 6)
    x, t = (
        tuple(jax.random.normal(k, (1, length, 1, 8)) for k in ks) for ks in (keys[:3], keys[3:])
    )
    band = Band.make(length, length, causal=True, window=(None, None), alignment="top_left")
    wanted = functools.partial(reference.attention, softmax_scale=8**-0.5, band=band)
    close(*(jax.jit(lambda x, t, f=f: jax.jvp(f, x, t))(x, t) for f in (ours, wanted)))


def test_with_a_mask_a_bias_lengths_and_sinks():
    """Integers and booleans have no tangent; rows without keys have zeros."""
    q, k, v = arrays(batch=2)
    mask = jnp.ones((1, 1, LENGTH, LENGTH), bool).at[..., 2].set(False)
    bias = jax.random.normal(jax.random.key(3), (1, 2, LENGTH, LENGTH))
    calls = (jax_fa4.dot_product_attention, jax.nn.dot_product_attention)
    close(*(jax.jvp(lambda q, b, f=f: f(q, k, v, b, mask), (q, bias), (q, bias)) for f in calls))

    def packed(q, sinks):
        return jax_fa4.dot_product_attention(
            q, k, v, key_value_seq_lengths=jnp.asarray([4, 0]), sinks=sinks, logits_soft_cap=3.0
        )

    x = (q, jnp.arange(2.0))
    close(jax.jacfwd(packed, (0, 1))(*x), jax.jacrev(packed, (0, 1))(*x))


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_on_a_mesh(kind):
    mesh = jax.make_mesh((2, 2), ("x", "y"), axis_types=(kind, kind), devices=jax.devices()[:4])
    x = arrays(batch=2)
    specs = (PartitionSpec("x", None, "y"), PartitionSpec("x"), PartitionSpec("x"))
    placed = [jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip(x, specs, strict=True)]
    run = jax.jit(lambda *x: jax.jvp(ours, x, x))
    close(jax.device_get(run(*placed)), run(*x))


def test_in_a_shard_map():
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices()[:2])
    q, k, v = arrays(batch=2)
    spec = PartitionSpec("x")

    def local(q, k, v):
        return jax.jvp(lambda q, k: ours(q, k, v), (q, k), (q, k))

    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=(spec, PartitionSpec(), spec), out_specs=spec, check_vma=True
    )
    wanted = local(q, jnp.concatenate([k[:1]] * 2), v)
    close(jax.jit(mapped)(q, k[:1], v), wanted)


@pytest.mark.usefixtures("hopper")
def test_kernels_refuse_with_the_way_out():
    x = arrays(dtype=jnp.bfloat16, width=8)
    for run in (lambda f: jax.jvp(f, x, x), lambda f: jax.jacfwd(f)(*x)):
        with pytest.raises(NotImplementedError, match=r"forward mode.*implementation='xla'"):
            jax.jit(lambda run=run: run(ours)).trace().lower(lowering_platforms=("cuda",))
        jax.jit(lambda run=run: run(functools.partial(ours, implementation="xla"))).lower()
