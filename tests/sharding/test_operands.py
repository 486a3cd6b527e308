"""What a call takes beside q, k and v, spread over meshes: ids, lengths, sinks, documents.

Gradients of what devices share are sums over them, whoever maps the call.
"""

import functools
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import AUTO, EXPLICIT, collectives, mesh, spec

import jax_fa4

BATCH, LENGTH, HEADS, HEADS_KV, DIM = 4, 64, 4, 2, 64


class Arrays(NamedTuple):
    q: jax.Array
    k: jax.Array
    v: jax.Array
    sinks: jax.Array
    lengths: jax.Array
    ids: jax.Array


def make(dtype=jnp.bfloat16):
    keys = jax.random.split(jax.random.key(5), 4)
    shape = (BATCH, LENGTH, HEADS_KV, DIM)
    q = jax.random.normal(keys[0], (BATCH, LENGTH, HEADS, DIM), dtype)
    k, v = (jax.random.normal(key, shape, dtype) for key in keys[1:3])
    sinks = jax.random.normal(keys[3], (HEADS,), jnp.float32)
    ids = jnp.asarray(np.sort(np.random.default_rng(1).integers(0, 3, (BATCH, LENGTH)), axis=1))
    return Arrays(q, k, v, sinks, jnp.asarray([64, 50, 1, 33]), ids.astype(jnp.int32))


def attend(x, implementation, which):
    """A call with one of the things, or with all of them."""
    options = {}
    if which in ("lengths", "all"):
        options["key_value_seq_lengths"] = x.lengths
    if which in ("ids", "all"):
        options |= {"query_segment_ids": x.ids, "key_value_segment_ids": x.ids}
    if which in ("sinks", "all"):
        options |= {"sinks": x.sinks, "logits_soft_cap": 4.0}
    return jax_fa4.dot_product_attention(
        x.q, x.k, x.v, is_causal=True, implementation=implementation, **options
    )


def loss(sinks, q, k, v, rest, implementation, which):
    x = Arrays(q, k, v, sinks, *rest)
    out = attend(x, implementation, which).astype(jnp.float32)
    return (out * jnp.cos(jnp.arange(DIM))[None, None, None]).sum(), out


def gradients(x, implementation, which):
    run = jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)
    found, out = run(x.sinks, x.q, x.k, x.v, x[4:], implementation, which)
    return out, *found


@functools.cache
def definition(which):
    """Results on one device in the arrays' dtype, and in float32."""
    x = make()
    wide = Arrays(*(a.astype(jnp.float32) if a.dtype == jnp.bfloat16 else a for a in x))
    return gradients(x, "xla", which), gradients(wide, "xla", which)


def check(found, which):
    for a, b, c in zip(found, *definition(which), strict=True):
        a, b, c = (np.asarray(jax.device_get(n), np.float32) for n in (a, b, c))
        allowed = 2 * np.abs(b - c).max() + np.abs(c).max() * 2.0**-8
        assert np.abs(a - c).max() <= allowed


LAID = {
    "batch": Arrays(P("x"), P("x"), P("x"), P(), P("x"), P("x")),
    "heads": Arrays(*[P(None, None, "x")] * 3, P("x"), P(), P()),
    "batch-and-heads": Arrays(*[P("y", None, "x")] * 3, P(), P("y"), P("y")),
    "rows": Arrays(P(None, "x"), P(), P(), P(), P(), P()),
    "batch-and-rows": Arrays(P("y", "x"), P("y"), P("y"), P(), P("y"), P("y", "x")),
}


def place(devices, laid):
    return Arrays(
        *(jax.device_put(a, NamedSharding(devices, s)) for a, s in zip(make(), laid, strict=True))
    )


def compiled(x, implementation, which):
    run = functools.partial(gradients, implementation=implementation, which=which)
    return jax.jit(run).lower(x).compile()


def gathered(program):
    """Element types of what devices get from each other, sums apart."""
    pattern = r"= \(?(\w+)\[[^=]* (?:all-gather|all-to-all|collective-permute)(?:-start)?\("
    return set(re.findall(pattern, program.as_text()))


@pytest.mark.parametrize("name", LAID)
@pytest.mark.parametrize("kind", [AUTO, EXPLICIT], ids=["auto", "explicit"])
def test_everything_at_once(kind, name, implementation):
    x = place(mesh(kind, (2, 2), ("x", "y")), LAID[name])
    program = compiled(x, implementation, "all")
    found = program(x)
    check(found, "all")
    out, sinks, *others = found
    assert spec(out) == spec(x.q)
    assert all(spec(a) == spec(b) for a, b in zip(others[:1], x[:1], strict=True))
    if implementation != "xla":
        # Ids of rows in parts are brought together, and gradients of sinks, four numbers.
        assert gathered(program) <= {"s32", "f32"}
        assert not re.search(r"= \(?(bf16|f32\[\d+,\d)[^=]* all-gather", program.as_text())
    if kind is EXPLICIT:
        assert spec(sinks, 1) == spec(x.sinks, 1)


@pytest.mark.parametrize("which", ["lengths", "ids", "sinks"])
@pytest.mark.parametrize("kind", [AUTO, EXPLICIT], ids=["auto", "explicit"])
def test_each_alone(kind, which, emulated):
    """No array moves; the gradient of a sink is summed over the devices of the batch."""
    x = place(mesh(kind, (2, 2), ("x", "y")), LAID["batch-and-heads"])
    program = compiled(x, emulated, which)
    check(program(x), which)
    assert not gathered(program) - ({"f32"} if which == "sinks" else set())
    assert collectives(program).get("all-reduce", 0) == (which == "sinks")


@pytest.mark.parametrize("name", ["batch", "heads", "batch-and-heads"])
def test_in_a_shard_map(name, implementation):
    """check_vma: sinks and lengths that all devices share have the sums of their cotangents."""
    laid = LAID[name]
    devices = mesh(AUTO, (2, 2), ("x", "y"))
    used = {axis for entry in laid.q for axis in [entry] if axis}

    def total(sinks, q, k, v, rest):
        return jax.lax.psum(loss(sinks, q, k, v, rest, implementation, "all")[0], tuple(used))

    def run(x):
        specs = (laid.sinks, *laid[:3], laid[4:])
        mapped = jax.shard_map(total, mesh=devices, in_specs=specs, out_specs=P(), check_vma=True)
        return jax.grad(mapped, argnums=(0, 1, 2, 3))(x.sinks, *x[:3], x[4:])

    if laid.sinks == P() and "x" in laid.q[2:]:
        laid = laid._replace(sinks=P("x"))  # a device's heads have a device's sinks
    found = jax.jit(run)(place(devices, laid))
    check((definition("all")[0][0], *found), "all")


def test_in_a_scan_in_a_shard_map(implementation):
    """Gradients inside of the map: JAX adds those of what is shared."""
    laid = LAID["batch"]
    devices = mesh(AUTO, (4,), ("x",))

    def layers(x):
        def layer(q, _):
            return attend(x._replace(q=q), implementation, "all").astype(q.dtype), None

        return jax.lax.scan(layer, x.q, None, length=2)[0].astype(jnp.float32)

    def local(q, k, v, sinks, lengths, ids):
        def total(sinks, k):
            return (layers(Arrays(q, k, v, sinks, lengths, ids)) ** 2).sum()

        return jax.grad(total, argnums=(0, 1))(sinks, k)

    mapped = jax.shard_map(
        local, mesh=devices, in_specs=tuple(laid), out_specs=(P(), P("x")), check_vma=True
    )
    found = jax.jit(mapped)(*place(devices, laid))
    x = make()
    total = lambda sinks, k: (layers(x._replace(sinks=sinks, k=k)) ** 2).sum()  # noqa: E731
    for a, b in zip(found, jax.grad(total, argnums=(0, 1))(x.sinks, x.k), strict=True):
        a, b = (np.asarray(jax.device_get(n), np.float32) for n in (a, b))
        assert np.abs(a - b).max() <= 2.0**-5 * np.abs(b).max()


MAPPED = [
    {"q", "k", "v", "sinks", "lengths", "ids"},
    {"lengths"},
    {"ids"},
    {"sinks"},
    {"q", "ids"},
    {"k", "v", "lengths", "sinks"},
]


@pytest.mark.parametrize("names", MAPPED, ids=lambda names: "-".join(sorted(names)))
@pytest.mark.parametrize("kind", [AUTO, EXPLICIT], ids=["auto", "explicit"])
def test_mapped(kind, names, implementation):
    """jax.vmap over some of the arrays on a mesh is the loop of calls, forward and backward."""
    x = make()
    size = 2
    other = x._replace(
        **{n: jnp.roll(getattr(x, n), 1, axis=0) for n in names},
    )
    stacked = Arrays(
        *(
            jnp.stack([a, b]) if n in names else a
            for n, a, b in zip(x._fields, x, other, strict=True)
        )
    )
    axes = Arrays(*(0 if n in names else None for n in x._fields))
    laid = Arrays(
        *(
            P(None, *s) if n in names else s
            for n, s in zip(x._fields, LAID["batch-and-heads"], strict=True)
        )
    )
    devices = mesh(kind, (2, 2), ("x", "y"))
    placed = Arrays(
        *(jax.device_put(a, NamedSharding(devices, s)) for a, s in zip(stacked, laid, strict=True))
    )
    run = functools.partial(gradients, implementation=implementation, which="all")
    found = jax.jit(jax.vmap(run, (axes,)))(placed)
    for i, one in zip(range(size), (x, other), strict=True):
        wanted = gradients(one, "xla", "all")
        for a, b in zip(found, wanted, strict=True):
            a, b = (np.asarray(jax.device_get(n), np.float32) for n in (a[i], b))
            assert np.abs(a - b).max() <= 2.0**-6 * np.abs(b).max()


def packed(implementation, q, k, v, starts, sinks):
    out, lse = jax_fa4.flash_attention_varlen(
        q,
        k,
        v,
        starts,
        causal=True,
        learnable_sink=sinks,
        return_lse=True,
        implementation=implementation,
    )
    return (out.astype(jnp.float32) ** 2).sum() + jnp.sin(lse).sum()


@pytest.mark.parametrize("spec", [P(None, "x"), P("x")], ids=["heads", "rows"])
@pytest.mark.parametrize("kind", [AUTO, EXPLICIT], ids=["auto", "explicit"])
def test_packed_documents(kind, spec, implementation):
    """flash_attention_varlen by heads, and by rows of the packed array."""
    devices = mesh(kind, (2,), ("x",))
    x = make()
    arrays = (x.q[0], x.k[0], x.v[0], jnp.asarray([0, 20, 20, 50, LENGTH]), x.sinks)
    heads = P(*spec[1:])
    specs = (spec, spec, spec, P(), heads)
    placed = [
        jax.device_put(a, NamedSharding(devices, s)) for a, s in zip(arrays, specs, strict=True)
    ]
    run = lambda name: jax.grad(functools.partial(packed, name), (0, 1, 2, 4))  # noqa: E731
    program = jax.jit(run(implementation)).lower(*placed).compile()
    wide = [a.astype(jnp.float32) if a.dtype == jnp.bfloat16 else a for a in arrays]
    for a, b, c in zip(program(*placed), run("xla")(*arrays), run("xla")(*wide), strict=True):
        a, b, c = (np.asarray(jax.device_get(n), np.float32) for n in (a, b, c))
        assert np.abs(a - c).max() <= 2 * np.abs(b - c).max() + np.abs(c).max() * 2.0**-8
    if implementation != "xla" and spec == P(None, "x"):
        assert not collectives(program)
