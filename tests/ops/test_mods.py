"""score_mod and mask_mod: a caller's own functions, by blocks, with gradients to what they use."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4.ops import blocks, reference, visible
from jax_fa4.testing import inputs

CASE = inputs.Case(name="mods", query_length=40, key_length=56, heads=4, heads_kv=2, head_dim=16)
attend = jax_fa4.dot_product_attention


@pytest.fixture(params=[None, 16], ids=["one block", "blocks"])
def side(request, monkeypatch):
    if request.param is not None:
        monkeypatch.setattr(blocks, "_WIDEST", request.param)
        monkeypatch.setattr(blocks, "_GRAIN", 4)
    jax.clear_caches()
    yield
    jax.clear_caches()


def plain(q, k, v, score_mod=None, mask_mod=None, **options):
    scale = q.shape[-1] ** -0.5
    options = {"softmax_scale": scale, "score_mod": score_mod, "mask_mod": mask_mod} | options
    return reference.attention(q, k, v, **options)[0]


def result_and_gradients(function, dout, *arrays):
    """Of a function of arrays, in one program."""

    @jax.jit
    def run(*arrays):
        out, pull = jax.vjp(function, *arrays)
        return out, pull(dout)

    return run(*arrays)


def same(found, wanted):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.usefixtures("side")
def test_captured_arrays_have_gradients():
    """ALiBi's slopes, a learned table of distances, and an integer array that picks from it."""
    x = inputs.make(CASE, jnp.float32)
    slopes = jnp.array([0.5, 0.25, -0.3, 0.1])
    table = jax.random.normal(jax.random.key(0), (2, 8))
    bucket = jnp.arange(40) % 8

    def call(attention, q, k, v, slopes, table):
        def change(score, b, h, i, j):
            return 3.0 * jnp.tanh(score + slopes[h] * (j - i)) + table[b, bucket[i]] * (j % 3)

        return attention(q, k, v, score_mod=change, mask_mod=lambda b, h, i, j: j <= i + 16)

    found, wanted = (
        result_and_gradients(functools.partial(call, f), x.dout, *x[:3], slopes, table)
        for f in (attend, plain)
    )
    same(found, wanted)


@pytest.mark.usefixtures("side")
def test_mods_join_every_other_mask_and_bias():
    x = inputs.make(CASE, jnp.float32)
    bias = jax.random.normal(jax.random.key(1), (1, 4, 40, 56))
    mask = jax.random.bernoulli(jax.random.key(2), 0.8, (2, 1, 1, 56))
    lengths = jnp.array([56, 33])
    starts = jnp.array([7, 30])

    def double(score, b, h, i, j):
        return 2 * score

    def keep(b, h, i, j):
        return ((j >= starts[b]) & (j - i <= 4 * h)) | (i == 3)

    def ours(q, bias):
        return attend(
            q,
            *x[1:3],
            bias,
            mask,
            is_causal=True,
            key_value_seq_lengths=lengths,
            score_mod=double,
            mask_mod=keep,
        )

    def wanted(q, bias):
        i, j = jnp.indices((1, 1, 40, 56))[2:]
        seen = (j <= i) & mask & (j < lengths[:, None, None, None])
        return plain(q, *x[1:3], double, keep, bias=bias, mask=seen)

    same(*(result_and_gradients(f, x.dout, x.q, bias) for f in (ours, wanted)))


def test_vmap_maps_captured_arrays():
    x = inputs.make(CASE, jnp.float32)
    slopes = jax.random.normal(jax.random.key(0), (3, 4))

    def total(slopes, q):
        out, lse = attend(
            q, *x[1:3], score_mod=lambda s, b, h, i, j: s + slopes[h] * j, return_residual=True
        )
        return (out**2).sum() + lse.sum()

    gradient = jax.jit(jax.grad(total, argnums=(0, 1)))
    found = jax.jit(jax.vmap(gradient, (0, None)))(slopes, x.q)
    for n in range(3):
        same(jax.tree.map(lambda a, n=n: a[n], found), gradient(slopes[n], x.q))


def test_remat_and_scan_over_layers():
    x = inputs.make(CASE, jnp.float32)
    slopes = jax.random.normal(jax.random.key(0), (3, 4))

    def layer(q, slopes):
        return q + attend(q, *x[1:3], score_mod=lambda s, b, h, i, j: s + slopes[h] * j), None

    def scanned(q, slopes):
        return jax.lax.scan(jax.checkpoint(layer), q, slopes)[0]

    def unrolled(q, slopes):
        for own in slopes:
            q, _ = layer(q, own)
        return q

    same(*(result_and_gradients(f, x.dout, x.q, slopes) for f in (scanned, unrolled)))


@pytest.mark.usefixtures("side")
def test_forward_mode():
    x = inputs.make(CASE, jnp.float32)
    slopes, direction = jax.random.normal(jax.random.key(0), (2, 4))

    def call(attention, q, slopes):
        return attention(
            q,
            *x[1:3],
            score_mod=lambda s, b, h, i, j: jnp.tanh(s) + slopes[h] * (i - j) / 40,
            mask_mod=lambda b, h, i, j: j <= i + 8 * h,
        )

    @functools.partial(jax.jit, static_argnums=0)
    def run(attention, *primals):
        return jax.jvp(functools.partial(call, attention), primals, (x.dout, direction))

    same(*(run(f, x.q, slopes) for f in (attend, plain)))


def test_second_derivative_through_a_mod():
    x = inputs.make(CASE, jnp.float32)
    q, k, v = (a[:1, :5, :, :2] for a in x[:3])

    def total(attention, slope):
        mod = lambda s, b, h, i, j: jnp.sin(s * slope)  # noqa: E731
        return (attention(q, k, v, score_mod=mod) ** 2).sum()

    same(*(jax.jit(jax.hessian(functools.partial(total, f)))(1.3) for f in (attend, plain)))


def test_what_is_not_seen_has_no_gradient():
    """The square root has none at 0, the score of keys that are hidden, or only padding."""
    x = inputs.make(CASE, jnp.float32)
    q, k = abs(x.q), abs(x.k).at[:, 30:].set(0.0)
    found = jax.jit(
        jax.grad(
            lambda q: attend(
                q,
                k,
                x.v,
                score_mod=lambda s, b, h, i, j: jnp.sqrt(s),
                mask_mod=lambda b, h, i, j: j < 30,
            ).sum()
        )
    )(q)
    assert np.isfinite(found).all()


def test_blocks_without_a_pair_are_skipped(monkeypatch):
    """Counted as the loop is given them; a mod that poisons all others says that none is used."""
    length, counts = 1300, []
    q = jax.random.normal(jax.random.key(0), (1, length, 1, 8))

    def near(b, h, i, j):
        return (j <= i) & (i - j < 100)

    def poison(s, b, h, i, j):
        return jnp.where((j > i + 512) | (j < i - 800), jnp.nan, s)

    def counted(needed, *args):
        jax.debug.callback(lambda n: counts.append((int(n), needed.size)), needed.sum())
        return blocks.walk_needed(needed, *args)

    monkeypatch.setattr(visible, "walk_needed", counted)
    jax.clear_caches()
    out = jax.jit(functools.partial(attend, mask_mod=near, score_mod=poison))(q, q, q)
    same(out, jax.jit(functools.partial(attend, local_window_size=(99, 0)))(q, q, q))
    jax.effects_barrier()
    assert counts == [(5, 9)]  # 3 on the diagonal and 2 before it, of 3 x 3
    jax.clear_caches()


@pytest.mark.usefixtures("hopper")
def test_the_portable_path_runs_them_and_says_so():
    x = inputs.make(CASE, jnp.bfloat16)
    for name in ("score_mod", "mask_mod"):
        options = {name: lambda *scalars: scalars[0] if len(scalars) == 5 else scalars[0] < 1}
        assert "score_mod or mask_mod" in jax_fa4.explain(*x[:3], **options)
        with pytest.raises(NotImplementedError, match="implementation='xla'"):
            attend(*x[:3], implementation="fa4", mask_mod=lambda b, h, i, j: j < 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"score_mod": 3}, "score_mod is 3, expected a function"),
        ({"score_mod": lambda s, b: s}, "parameters \\(s, b\\), expected one of 5"),
        ({"mask_mod": lambda s, b, h, i, j: True}, "expected one of 4 arguments, for scalars"),
        ({"mask_mod": lambda b, h, i, j: j}, "mask_mod is a function that returns int32"),
        ({"score_mod": lambda s, b, h, i, j: j}, "returns int32 .*one floating-point number"),
        ({"score_mod": lambda s, b, h, i, j: (s, s)}, "float32 of shape \\(\\), float32"),
        ({"score_mod": lambda s, b, h, i, j: s + jnp.ones(2)}, "of shape \\(2,\\)"),
        ({"score_mod": lambda s, b, h, i, j: None}, "returns nothing"),
    ],
)
def test_refusals(options, words):
    x = inputs.make(CASE, jnp.float32)
    for call in (attend, jax_fa4.explain):
        with pytest.raises(ValueError, match=words):
            call(*x[:3], **options)
