"""flash_attention of float8_e4m3fn with descales: the formula, its refusals, its transforms."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4.ops import reference
from jax_fa4.testing import expected, inputs, tolerances

FP8 = jnp.float8_e4m3fn
CASES = {case.name: case for case in inputs.CASES}
NAMES = [
    *("one-by-one", "ragged", "ragged-causal", "rows-without-keys", "decode", "window", "grouped"),
    *("multi-query", "head-dim-63", "head-dim-128", "values-96-40", "scale", "growing"),
    *("blocks-full", "blocks-ragged"),
]


def call(case, q, k, v, *descales, **options):
    names = ("query_descale", "key_descale", "value_descale")
    return jax_fa4.flash_attention(
        q,
        k,
        v,
        **dict(zip(names, descales, strict=True)) if descales else {},
        softmax_scale=case.scale,
        causal=case.causal,
        window_size=case.window,
        return_lse=True,
        **options,
    )


def found_by(case, x, descales):
    out, lse = jax.jit(functools.partial(call, case, implementation="xla"))(*x[:3], *descales)
    assert (out.dtype, lse.dtype) == (jnp.bfloat16, jnp.float32)
    return {"out": np.asarray(out), "lse": np.asarray(lse)}


@pytest.mark.parametrize("name", NAMES)
def test_portable_path(name):
    """It rounds P to bfloat16, so that bound holds; the one for P of 8 bits is wider."""
    case = CASES[name]
    x, descales = inputs.make(case, FP8), inputs.make_descales(case)
    found = found_by(case, x, descales)
    for dtype in (jnp.bfloat16, FP8):
        operands = inputs.Inputs(*(a.astype(dtype) for a in x[:3]), *x[3:])
        tolerances.check(found, *expected.both(operands, case, descales=descales))


@pytest.mark.parametrize("missing", range(3))
def test_a_descale_is_1_where_none_is_given(missing):
    case = CASES["grouped"]
    x, descales = inputs.make(case, FP8), list(inputs.make_descales(case))
    descales[missing] = jnp.ones_like(descales[missing])
    names = ("query_descale", "key_descale", "value_descale")
    given = {n: d for i, (n, d) in enumerate(zip(names, descales, strict=True)) if i != missing}
    options = {"softmax_scale": case.scale, "causal": True, "return_lse": True}
    found = jax_fa4.flash_attention(*x[:3], **given, **options)
    for a, b in zip(found, call(case, *x[:3], *descales), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_bound_refuses_a_descale_of_another_head():
    case = CASES["grouped"]
    x, descales = inputs.make(case, FP8), inputs.make_descales(case)
    exact, plain = expected.both(x, case, descales=descales)
    for i, result in ((0, "lse"), (1, "lse"), (2, "out")):
        wrong = [jnp.roll(d, 1, axis=1) if i == n else d for n, d in enumerate(descales)]
        with pytest.raises(AssertionError, match=f"{result}: error"):
            tolerances.check(found_by(case, x, wrong), exact, plain)


def test_plain_computation_rounds_p_to_e4m3():
    """Three digits behind the leading one: P of 1 and of 1/17 give 16 times as much as 1 alone."""
    q = jnp.ones((1, 1, 1, 1), FP8)
    k = jnp.zeros((1, 2, 1, 1), FP8)
    v = jnp.asarray([[[[0.0]], [[1.0]]]], FP8)
    scale = jnp.asarray(-np.log(17.0), jnp.float32)
    k = k.at[0, 1].set(1)
    out, lse = reference.attention(
        q, k, v, softmax_scale=1.0, descales=(scale[None, None], *[jnp.ones((1, 1))] * 2)
    )
    assert out.dtype == jnp.bfloat16
    # 256 / 17 = 15.06 rounds to 15.
    np.testing.assert_allclose(float(out[0, 0, 0, 0]), 15 / 256 / (1 + 1 / 17), rtol=2**-8)
    np.testing.assert_allclose(float(lse[0, 0, 0]), np.log(1 + 1 / 17), rtol=1e-6)


def test_empty():
    q, k = jnp.ones((2, 3, 4, 16), FP8), jnp.ones((2, 0, 2, 16), FP8)
    out, lse = jax_fa4.flash_attention(q, k, k, return_lse=True)
    assert out.dtype == jnp.bfloat16
    assert not out.any()
    assert np.isneginf(lse).all()


def test_vmap_folds_descales_too():
    case = CASES["grouped"]
    runs = [
        (*inputs.make(case, FP8, seed)[:3], *inputs.make_descales(case, seed)) for seed in range(3)
    ]
    stacked = [jnp.stack(x) for x in zip(*runs, strict=True)]
    together = jax.vmap(functools.partial(call, case))(*stacked)
    for i, run in enumerate(runs):
        for a, b in zip(together, call(case, *run), strict=True):
            np.testing.assert_array_equal(a[i], b)


def test_shard_map():
    case = CASES["grouped"]
    x, descales = inputs.make(case, FP8), inputs.make_descales(case)
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((2,), ("b",), axis_types=auto, devices=jax.devices("cpu")[:2])
    spec = jax.sharding.PartitionSpec("b")
    run = jax.jit(
        jax.shard_map(functools.partial(call, case), mesh=mesh, in_specs=spec, out_specs=spec)
    )
    for a, b in zip(run(*x[:3], *descales), call(case, *x[:3], *descales), strict=True):
        np.testing.assert_array_equal(a, b)


def test_differentiating_raises_with_the_way_out():
    q = jnp.ones((1, 4, 2, 16), jnp.bfloat16)

    def loss(q, take):
        x = take(q.astype(FP8))
        return jax_fa4.flash_attention(x, x, x).astype(jnp.float32).sum()

    for transform in (jax.grad, jax.jacfwd):
        with pytest.raises(NotImplementedError, match=r"no gradient.*bfloat16.*stop_gradient"):
            transform(functools.partial(loss, take=lambda x: x))(q)
    assert not jax.grad(functools.partial(loss, take=jax.lax.stop_gradient))(q).any()


def array(*shape, dtype=FP8):
    return jax.ShapeDtypeStruct(shape, dtype)


Q, K = array(2, 5, 4, 16), array(2, 5, 2, 16)


HALF = array(2, 5, 4, 16, dtype=jnp.bfloat16)
OTHER = array(2, 5, 4, 16, dtype=jnp.float8_e5m2)
REFUSALS = {
    "mixed": ([Q, K, HALF], {}, "differ.*v bfloat16.*astype"),
    "e5m2": ([OTHER] * 3, {}, "q(uery)? has dtype float8_e5m2.*float8_e4m3fn.*descales"),
    "shape": (
        [Q, K, K],
        {"key_descale": array(2, 4, dtype=jnp.float32)},
        r"key_descale has shape \(2, 4\).*\(2, 2\)",
    ),
    "dtype": (
        [Q, K, K],
        {"query_descale": array(2, 2, dtype=jnp.bfloat16)},
        r"query_descale has dtype bfloat16.*float32.*astype",
    ),
    "16 bits": (
        [HALF] * 3,
        {"value_descale": array(2, 4, dtype=jnp.float32)},
        r"value_descale is given.*bfloat16.*leave it out",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name):
    arrays, options, words = REFUSALS[name]
    error = NotImplementedError if name == "e5m2" else ValueError

    def run(*operands):
        return jax_fa4.flash_attention(
            *operands[:3], **dict(zip(options, operands[3:], strict=True))
        )

    with pytest.raises(error, match=words):
        jax.eval_shape(run, *arrays, *options.values())
    if options:
        with pytest.raises(error, match=words):
            jax_fa4.is_supported(*arrays, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"mask": jnp.ones((5, 5), bool)},
        {"query_seq_lengths": jnp.ones(2, jnp.int32)},
        {"score_mod": lambda s, *_: s},
        {"dropout_rate": 0.1, "dropout_rng": jax.random.key(0)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_explain_refuses_what_no_call_takes(options):
    """Options of dot_product_attention alone, with arrays of flash_attention alone."""
    text = jax_fa4.explain(Q, K, K, **options)
    assert re.match(r"no path, the call raises: .*float8_e4m3fn.*flash_attention.*astype", text)


def test_level_1_points_to_level_2():
    with pytest.raises(NotImplementedError, match=r"float8_e4m3fn.*flash_attention.*astype"):
        jax.eval_shape(jax_fa4.dot_product_attention, Q, K, K)
