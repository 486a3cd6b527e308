"""Every refusal comes at trace time and says the argument, the value and the way out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4.ops import errors

pytestmark = pytest.mark.usefixtures("no_gpu")


def array(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype)


def trace(function, *arrays, **options):
    """Trace without computing: a refusal may not wait for values."""
    return jax.eval_shape(functools.partial(function, **options), *arrays)


def refuses(error, words, function, *arrays, **options):
    with pytest.raises(error) as info:
        trace(function, *arrays, **options)
    message = str(info.value)
    assert type(info.value) is error
    for word in words:
        assert word in message, f"{word!r} is not in {message!r}"


dpa, flash = jax_fa4.dot_product_attention, jax_fa4.flash_attention
Q = array(2, 5, 4, 16)
both = pytest.mark.parametrize("function", [dpa, flash])


class TestWrongInput:
    @both
    def test_rank(self, function):
        x = array(5, 16)
        words = ["shape (5, 16)", "rank 2", "length, heads, head_dim"]
        refuses(ValueError, words, function, x, x, x)

    def test_rank_of_key_at_level_1(self):
        refuses(
            ValueError, ["key", "(5, 4, 16)", "batch axes of query"], dpa, Q, array(5, 4, 16), Q
        )

    @both
    def test_mixed_dtypes(self, function):
        other = array(2, 5, 4, 16, dtype=jnp.float32)
        refuses(ValueError, ["bfloat16", "float32", ".astype"], function, Q, other, Q)

    @both
    def test_heads_that_do_not_divide(self, function):
        k = array(2, 5, 3, 16)
        refuses(ValueError, ["4 heads", "3 heads", "multiple"], function, Q, k, k)

    @both
    def test_head_dims_differ(self, function):
        k = array(2, 5, 4, 8)
        refuses(ValueError, ["(2, 5, 4, 8)", "head dim 16"], function, Q, k, k)

    def test_batches_differ(self):
        k = array(3, 5, 4, 16)
        refuses(ValueError, ["k has shape (3, 5, 4, 16)", "batch 2"], flash, Q, k, k)

    @both
    def test_value_unlike_key(self, function):
        v = array(2, 6, 4, 16)
        words = ["v", "(2, 6, 4, 16)", "(2, 5, 4, 16)", "any head dim"]
        refuses(ValueError, words, function, Q, Q, v)

    @both
    def test_value_without_head_dim(self, function):
        words = ["v", "(2, 5, 4, 0)", "no head dim", "at least one"]
        refuses(ValueError, words, function, Q, Q, array(2, 5, 4, 0))

    @both
    @pytest.mark.parametrize(("axis", "word"), [(2, "heads"), (3, "head dim")])
    def test_no_heads_or_head_dim(self, function, axis, word):
        x = array(*(0 if a == axis else n for a, n in enumerate(Q.shape)))
        refuses(ValueError, [f"no {word}", "at least one"], function, x, x, x)

    @both
    def test_too_long(self, function):
        q, k = array(1, 1, 1, 8), array(1, 2**30, 1, 8)
        refuses(ValueError, [str(2**30), "2**30", "split"], function, q, k, k)

    @pytest.mark.parametrize(
        ("window", "word"),
        [(-1, "-1"), ((-1, -1), "-1"), ((4, -2), "-2"), ((1, 2, 3), "3 entries"), (1.5, "1.5")],
    )
    def test_windows(self, window, word):
        words = ["local_window_size", repr(window), word, "None"]
        refuses(ValueError, words, dpa, Q, Q, Q, local_window_size=window)
        words[0] = "window_size"
        refuses(ValueError, words, flash, Q, Q, Q, window_size=window)

    def test_mask_dtype(self):
        mask = array(1, 1, 5, 5, dtype=jnp.float32)
        refuses(ValueError, ["float32", "True = attend", "mask != 0"], dpa, Q, Q, Q, None, mask)

    def test_bias_dtype(self):
        bias = array(1, 1, 5, 5, dtype=jnp.bool)
        refuses(ValueError, ["bias", "bool", "mask="], dpa, Q, Q, Q, bias)

    @pytest.mark.parametrize("shape", [(2, 4, 5, 6), (3, 1, 5, 5), (1, 2, 4, 5, 5), (2, 5, 5)])
    def test_shapes_of_bias_and_mask(self, shape):
        words = [str(shape), "broadcasts to (2, 4, 5, 5)"]
        bias = array(*shape)
        refuses(ValueError, ["bias", *words], dpa, Q, Q, Q, bias)
        mask = array(*shape, dtype=jnp.bool)
        refuses(ValueError, ["mask", *words], dpa, Q, Q, Q, None, mask)

    @pytest.mark.parametrize("scale", [float("nan"), float("inf"), "big", True, np.ones(2)])
    def test_scale(self, scale):
        refuses(ValueError, ["scale", "finite number"], dpa, Q, Q, Q, scale=scale)

    @both
    def test_implementation(self, function):
        words = ["implementation", "'cudnn'", "'fa4'", "'xla'"]
        refuses(ValueError, words, function, Q, Q, Q, implementation="cudnn")

    def test_alignment(self):
        words = ["causal_alignment", "'middle'", "'top_left'", "'bottom_right'"]
        refuses(ValueError, words, dpa, Q, Q, Q, causal_alignment="middle")

    def test_unknown_argument(self):
        refuses(TypeError, ["dropout"], dpa, Q, Q, Q, dropout=0.1)
        with pytest.raises(TypeError, match="unexpected option 'dropout'"):
            jax_fa4.is_supported(Q, Q, Q, dropout=0.1)


class TestNotSupported:
    @both
    def test_float64(self, function):
        with jax.enable_x64(True):
            x = array(2, 5, 4, 16, dtype=jnp.float64)
            words = ["float64", "astype(jnp.float32)", "jax_enable_x64"]
            refuses(NotImplementedError, words, function, x, x, x)

    @both
    @pytest.mark.parametrize("dtype", [jnp.int8, jnp.float8_e5m2, jnp.complex64])
    def test_other_dtypes(self, function, dtype):
        x = array(2, 5, 4, 16, dtype=dtype)
        words = [jnp.dtype(dtype).name, "astype"]
        refuses(NotImplementedError, words, function, x, x, x)

    @pytest.mark.parametrize("cap", [-1.0, float("inf"), float("nan"), "big", True])
    def test_soft_caps(self, cap):
        words = ["finite number", repr(cap)]
        refuses(ValueError, ["logits_soft_cap", *words], dpa, Q, Q, Q, logits_soft_cap=cap)
        refuses(ValueError, ["softcap", *words], flash, Q, Q, Q, softcap=cap)
        with pytest.raises(ValueError, match="softcap"):
            jax_fa4.explain(Q, Q, Q, softcap=cap)

    def test_traced_soft_cap(self):
        def call(q, c):
            return dpa(q, q, q, logits_soft_cap=c)

        refuses(NotImplementedError, ["logits_soft_cap", "static"], call, Q, array())

    @pytest.mark.parametrize(
        ("sinks", "words"),
        [(jnp.ones(3), ["(3,)", "(4,)"]), (0, ["int32", "float32"]), (np.ones((4, 1)), ["(4,)"])],
    )
    def test_sinks(self, sinks, words):
        refuses(ValueError, ["sinks", *words], dpa, Q, Q, Q, sinks=sinks)
        refuses(ValueError, ["learnable_sink", *words], flash, Q, Q, Q, learnable_sink=sinks)
        with pytest.raises(ValueError, match="sinks"):
            jax_fa4.is_supported(Q, Q, Q, sinks=sinks)

    def test_traced_scale(self):
        def call(q, s):
            return dpa(q, q, q, scale=s)

        refuses(NotImplementedError, ["scale", "query * scale"], call, Q, array())


class TestFa4WasAskedFor:
    def fails(self, words, *arrays, function=dpa, **options):
        options["implementation"] = "fa4"
        words = ["implementation='fa4'", *words]
        refuses(NotImplementedError, words, function, *arrays, **options)

    @both
    def test_without_a_gpu(self, function):
        self.fails(["no CUDA device", "implementation='xla'"], Q, Q, Q, function=function)

    @both
    def test_float32(self, function):
        x = array(2, 5, 4, 16, dtype=jnp.float32)
        self.fails(["float32", "dtype=jnp.bfloat16"], x, x, x, function=function)

    @both
    def test_wide_heads(self, function):
        x = array(2, 5, 4, 320)
        self.fails(["head dim 320", "256"], x, x, x, function=function)
        self.fails(["value head dim 320", "256"], Q, Q, x, function=function)

    def test_bias_and_mask(self):
        self.fails(["bias", "blockwise"], Q, Q, Q, array(1, 1, 5, 5))
        self.fails(["mask", "is_causal="], Q, Q, Q, None, array(1, 1, 5, 5, dtype=jnp.bool))

    @pytest.mark.parametrize("scale", [0.0, -0.5])
    def test_scale_that_is_not_positive(self, scale):
        self.fails([f"scale is {scale:g}"], Q, Q, Q, scale=scale)


def test_every_refusal_is_reachable():
    """Each builder in errors.py is called somewhere in the package."""
    from pathlib import Path

    source = "".join(p.read_text() for p in Path(errors.__file__).parent.glob("*.py"))
    builders = [
        n for n, f in vars(errors).items() if callable(f) and f.__module__ == errors.__name__
    ]
    assert len(builders) > 10
    for name in builders:
        assert f"errors.{name}(" in source, name


@pytest.mark.parametrize("scale", [0.0, -0.5])
def test_scale_that_no_kernel_takes_still_works(scale):
    q, k, v = (jax.random.normal(jax.random.key(i), (1, 6, 2, 8)) for i in range(3))
    ours = dpa(q, k, v, scale=scale)
    np.testing.assert_allclose(ours, jax.nn.dot_product_attention(q, k, v, scale=scale), atol=2e-6)


def test_scale_may_be_any_concrete_number():
    q = jnp.ones((1, 4, 2, 8), jnp.float32)
    wanted = dpa(q, q, q, scale=0.5)
    for scale in (np.float32(0.5), np.array(0.5), jnp.float32(0.5)):
        assert np.array_equal(dpa(q, q, q, scale=scale), wanted)
