"""jit, scan, remat and vmap, counted and compared with plain loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4.testing.programs import custom_calls

SHAPE = (2, 24, 4, 16)


def qkv(*leading, dtype=jnp.bfloat16, value_width=16):
    keys = jax.random.split(jax.random.key(7), 3)
    shapes = (SHAPE, SHAPE, (*SHAPE[:-1], value_width))
    return tuple(
        jax.random.normal(key, (*leading, *shape), dtype)
        for key, shape in zip(keys, shapes, strict=True)
    )


def loss(q, k, v, **options):
    out, lse = jax_fa4.flash_attention(q, k, v, causal=True, return_lse=True, **options)
    weights = jnp.arange(out.size, dtype=jnp.float32).reshape(out.shape) / out.size
    return (out.astype(jnp.float32) * weights).sum() + (lse * lse).sum()


GRAD = functools.partial(jax.grad, argnums=(0, 1, 2))
VALUE_AND_GRAD = functools.partial(jax.value_and_grad, argnums=(0, 1, 2))


class TestCustomCalls:
    pytestmark = pytest.mark.usefixtures("hopper")

    def test_forward_and_gradient(self):
        assert custom_calls(loss, *qkv()) == (1, 0)
        assert custom_calls(GRAD(loss), *qkv()) == (1, 1)

    def test_vmap_is_one_call(self):
        assert custom_calls(jax.vmap(jax.vmap(GRAD(loss))), *qkv(3, 2)) == (1, 1)

    def test_scan_over_layers(self):
        def model(q, k, v):
            def layer(x, _):
                return jax_fa4.flash_attention(x, k, v), None

            return jax.lax.scan(layer, q, None, length=5)[0].astype(jnp.float32).sum()

        assert custom_calls(GRAD(model), *qkv()) == (1, 1)

    def test_remat_runs_the_forward_twice(self):
        assert custom_calls(VALUE_AND_GRAD(jax.checkpoint(loss)), *qkv()) == (2, 1)

    def test_remat_that_saves_the_names_runs_it_once(self):
        save = jax.checkpoint_policies.save_only_these_names
        saved = jax.checkpoint(loss, policy=save(*jax_fa4.CHECKPOINT_NAMES))
        assert custom_calls(VALUE_AND_GRAD(saved), *qkv()) == (1, 1)

    def test_remat_by_a_name_of_the_callers(self):
        named = functools.partial(loss, checkpoint_name="context")
        save = jax.checkpoint_policies.save_only_these_names
        for names, forwards in ((("context",), 1), (jax_fa4.CHECKPOINT_NAMES, 2)):
            saved = jax.checkpoint(named, policy=save(*names))
            assert custom_calls(VALUE_AND_GRAD(saved), *qkv()) == (forwards, 1)

    def test_no_custom_call_on_the_portable_path(self):
        assert custom_calls(GRAD(functools.partial(loss, implementation="xla")), *qkv()) == (0, 0)
        assert custom_calls(GRAD(loss), *qkv(dtype=jnp.float32)) == (0, 0)


def test_remat_and_scan_compute_the_same_gradient():
    args = qkv(dtype=jnp.float32)
    wanted = GRAD(loss)(*args)
    for gradient in (jax.jit(GRAD(loss)), GRAD(jax.checkpoint(loss))):
        for ours, other in zip(gradient(*args), wanted, strict=True):
            np.testing.assert_allclose(ours, other, rtol=1e-5, atol=1e-6)


def by_loop(function, in_axes, *args):
    size = next(a.shape[axis] for a, axis in zip(args, in_axes, strict=True) if axis is not None)

    def pick(a, axis, i):
        return a if axis is None else jnp.take(a, i, axis)

    rows = [
        function(*(pick(a, axis, i) for a, axis in zip(args, in_axes, strict=True)))
        for i in range(size)
    ]
    return jax.tree.map(lambda *x: jnp.stack(x), *rows)


@pytest.mark.parametrize("value_width", [16, 24])
@pytest.mark.parametrize(
    "in_axes", [(0, 0, 0), (0, None, None), (None, 0, 0), (None, None, 1), (2, 0, None)], ids=str
)
def test_vmap_of_gradient_is_a_loop(in_axes, value_width, implementation):
    """Batch above 1 in every operand: the order of the folded axes shows."""
    args = [
        a[0] if axis is None else jnp.moveaxis(a, 0, axis)
        for a, axis in zip(qkv(3, value_width=value_width), in_axes, strict=True)
    ]
    function = GRAD(functools.partial(loss, implementation=implementation))
    ours = jax.vmap(function, in_axes)(*args)
    wanted = by_loop(function, in_axes, *args)
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    for a, b in zip(ours, wanted, strict=True):
        assert a.shape == b.shape
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, atol=eps * np.abs(b).max())


def test_gradient_of_vmap_with_shared_keys():
    q, k, v = qkv(3, dtype=jnp.float32)
    k, v = k[0], v[0]

    def total(q, k, v):
        return jax.vmap(loss, (0, None, None))(q, k, v).sum()

    wanted = by_loop(GRAD(loss), (0, None, None), q, k, v)
    for ours, (rows, shared) in zip(
        GRAD(total)(q, k, v), zip(wanted, (False, True, True), strict=True), strict=True
    ):
        other = rows.sum(0) if shared else rows
        np.testing.assert_allclose(ours, other, rtol=1e-4, atol=1e-5)


def test_nested_vmap(implementation):
    args = qkv(2, 3)
    function = GRAD(functools.partial(loss, implementation=implementation))
    nested = jax.vmap(jax.vmap(function, (0, 0, None)), (0, 0, 0))
    ours = nested(args[0], args[1], args[2][:, 0])
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    for i in range(2):
        for j in range(3):
            one = function(args[0][i, j], args[1][i, j], args[2][i, 0])
            for a, b in zip(ours, one, strict=True):
                a, b = np.asarray(a[i, j], np.float32), np.asarray(b, np.float32)
                np.testing.assert_allclose(a, b, atol=eps * np.abs(b).max())


def test_vmap_with_a_bias():
    q, k, v = qkv(3, dtype=jnp.float32)
    bias = jax.random.normal(jax.random.key(1), (3, 1, 4, 1, 24))

    def total(q, k, v, bias):
        return jax_fa4.dot_product_attention(q, k, v, bias).astype(jnp.float32).sum()

    function = jax.grad(total, argnums=(0, 1, 2, 3))
    ours = jax.vmap(function)(q, k, v, bias)
    for a, b in zip(ours, by_loop(function, (0,) * 4, q, k, v, bias), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_integer_operands_have_float0_cotangents():
    """A mask is boolean: its cotangent is float0, beside real ones of the others."""
    q, k, v = qkv(dtype=jnp.float32)
    mask = jnp.ones((1, 1, 24, 24), bool).at[..., 5].set(False)

    def total(q, k, v, mask):
        return jax_fa4.dot_product_attention(q, k, v, mask=mask).sum()

    *gradients, nothing = jax.grad(total, argnums=(0, 1, 2, 3), allow_int=True)(q, k, v, mask)
    assert nothing.dtype == jax.dtypes.float0
    assert nothing.shape == mask.shape
    assert not gradients[1][:, 5].any()
    assert gradients[2][:, 6].any()


@pytest.mark.parametrize("argument", ["bias", "mask"])
def test_vmap_over_values_alone_with_a_bias_or_mask(argument):
    """lse does not depend on v, and must be mapped beside an out that does."""
    q, k, v = qkv(dtype=jnp.float32)
    v = jnp.stack([v, v + 1])
    dense = {argument: jnp.ones((1, 1, 24, 24), bool if argument == "mask" else jnp.float32)}

    def total(q, k, v):
        results = jax_fa4.dot_product_attention(q, k, v, return_residual=True, **dense)
        return sum((x * x).sum() for x in results)

    ours = jax.grad(lambda q, k: jax.vmap(total, (None, None, 0))(q, k, v).sum(), (0, 1))(q, k)
    wanted = jax.grad(lambda q, k: total(q, k, v[0]) + total(q, k, v[1]), (0, 1))(q, k)
    for a, b in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
