"""What decoding refuses, and that each refusal names the argument, the value and the way out."""

import jax
import jax.numpy as jnp
import pytest

import jax_fa4

BF16 = jnp.bfloat16
GOOD = {
    "q": ((2, 1, 4, 64), BF16),
    "k_cache": ((2, 32, 2, 64), BF16),
    "v_cache": ((2, 32, 2, 64), BF16),
    "key_value_seq_lengths": ((2,), jnp.int32),
}
PAGED = {
    **GOOD,
    "k_cache": ((9, 16, 2, 64), BF16),
    "v_cache": ((9, 16, 2, 64), BF16),
    "page_table": ((2, 2), jnp.int32),
}
WRONG = [
    (GOOD, {"q": ((2, 4, 64), BF16)}, r"q has shape \(2, 4, 64\) of rank 3"),
    (GOOD, {"q": ((2, 1, 4, 32), BF16)}, r"k_cache has shape .* head dim 32 as q"),
    (GOOD, {"q": ((3, 1, 4, 64), BF16)}, r"k_cache has shape .* batch 3"),
    (GOOD, {"q": ((2, 1, 3, 64), BF16)}, r"3 heads and key has 2 heads"),
    (GOOD, {"q": ((2, 33, 4, 64), BF16)}, r"33 new tokens.*holds 32 keys.*make it longer"),
    (GOOD, {"q": ((2, 1, 4, 64), jnp.float16)}, r"dtypes differ: q float16, k_cache bfloat16"),
    (GOOD, {"v_cache": ((2, 31, 2, 64), BF16)}, r"v_cache has shape .*31.* k_cache"),
    (GOOD, {"key_value_seq_lengths": ((2,), jnp.float32)}, r"float32, expected int32; cast"),
    (GOOD, {"key_value_seq_lengths": ((2, 1), jnp.int32)}, r"lengths has shape .*\(batch,\)"),
    (PAGED, {"page_table": ((2, 2), jnp.uint8)}, r"page_table has dtype uint8"),
    (PAGED, {"page_table": ((3, 2), jnp.int32)}, r"page_table has shape \(3, 2\).*batch 2"),
    (PAGED, {"page_table": ((4,), jnp.int32)}, r"page_table has shape \(4,\)"),
    (PAGED, {"q": ((2, 1, 4, 32), BF16)}, r"k_cache has shape .* head dim 32 as q"),
    (PAGED, {"k_cache": ((0, 16, 2, 64), BF16), "v_cache": ((0, 16, 2, 64), BF16)}, "no pages"),
    (GOOD, {"learnable_sink": ((2,), jnp.float32)}, r"learnable_sink has shape \(2,\).*\(4,\)"),
    (GOOD, {"learnable_sink": ((4,), jnp.int32)}, r"learnable_sink has dtype int32"),
]


def arrays(shapes):
    return {name: jnp.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}


@pytest.mark.parametrize("good", [GOOD, PAGED])
def test_the_others_are_right(good):
    assert jax_fa4.decode_attention(**arrays(good)).shape == (2, 1, 4, 64)


@pytest.mark.parametrize(("good", "wrong", "message"), WRONG)
def test_wrong_arrays(good, wrong, message):
    with pytest.raises(ValueError, match=message):
        jax_fa4.decode_attention(**arrays({**good, **wrong}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"softcap": -1.0}, "softcap is -1.0"),
        ({"softcap": float("inf")}, "softcap is inf"),
        ({"softcap": True}, "softcap is True"),
        ({"softcap": "one"}, "softcap is 'one'"),
        ({"num_splits": 0}, "num_splits is 0, expected a whole number from 1 to 1024"),
        ({"num_splits": 2.0}, "num_splits is 2.0"),
        ({"num_splits": True}, "num_splits is True"),
        ({"softmax_scale": float("nan")}, "softmax_scale is nan"),
        ({"window_size": (1, -2)}, r"window_size is \(1, -2\)"),
        ({"implementation": "fast"}, "implementation is 'fast', expected one of"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        jax_fa4.decode_attention(**arrays(GOOD), **options)


def test_traced_softcap():
    with pytest.raises(NotImplementedError, match="softcap is a traced value"):
        jax.jit(lambda c: jax_fa4.decode_attention(**arrays(GOOD), softcap=c))(1.0)


def test_other_dtypes():
    shapes = {name: (shape, jnp.int8) for name, (shape, _) in list(GOOD.items())[:3]}
    with pytest.raises(NotImplementedError, match=r"q has dtype int8.*cast it"):
        jax_fa4.decode_attention(**arrays({**GOOD, **shapes}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": ((2, 1, 4, 64), BF16)}, r"k has shape .* of k_cache"),
        ({"v": ((2, 2, 2, 64), BF16)}, r"v has shape .* length of k"),
        ({"v": ((2, 1, 2, 64), jnp.float16)}, r"dtypes differ: v float16, v_cache bfloat16"),
        ({"k": ((2, 40, 2, 64), BF16), "v": ((2, 40, 2, 64), BF16)}, "k of shape .* 40 new"),
        ({"query_seq_lengths": ((3,), jnp.int32)}, r"query_seq_lengths has shape \(3,\)"),
    ],
)
def test_wrong_appends(wrong, message):
    tokens = {"k": ((2, 1, 2, 64), BF16), "v": ((2, 1, 2, 64), BF16)}
    good = {name: GOOD[name] for name in ("k_cache", "v_cache", "key_value_seq_lengths")}
    jax_fa4.append_to_cache(**arrays({**good, **tokens}))
    with pytest.raises(ValueError, match=message):
        jax_fa4.append_to_cache(**arrays({**good, **tokens, **wrong}))
