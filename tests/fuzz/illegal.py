"""Illegal calls: one thing wrong with an otherwise legal call, and which error must say so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

import jax_fa4

Arguments = dict[str, Any]


@dataclass(frozen=True)
class Mistake:
    """What is changed, and a word that the error names beside the argument's."""

    argument: str
    change: Callable[[Arguments], Any]
    error: type[Exception] = ValueError
    entries: tuple[str, ...] = ("dot_product_attention", "flash_attention")


DOT_PRODUCT = ("dot_product_attention",)
FLASH = ("flash_attention",)
VARLEN = ("flash_attention_varlen",)
DECODE = ("decode_attention",)
# What each function calls query, key and value.
ARRAYS = dict.fromkeys(DOT_PRODUCT, ("query", "key", "value")) | {
    **dict.fromkeys(FLASH, ("query", "key", "value")),
    **dict.fromkeys(VARLEN, ("q", "k", "v")),
    **dict.fromkeys(DECODE, ("q", "k_cache", "v_cache")),
}


def _shape(argument: str, shape: Callable[..., tuple[int, ...]], **options: Any) -> Mistake:
    """The argument as zeros of a shape made from query's and its own shape."""

    def change(x: Arguments) -> Any:
        old = x[argument]
        return jnp.zeros(shape(old.shape), old.dtype)

    return Mistake(argument, change, **options)


def _value(argument: str, value: Any, **options: Any) -> Mistake:
    return Mistake(argument, lambda _: value, **options)


def _for_rows(argument: str, value: Callable[[int, int, int], Any], **options: Any) -> Mistake:
    """A value made from batch, query length and heads."""

    def change(x: Arguments) -> Any:
        batch, length, heads, _ = x["query"].shape
        return value(batch, length, heads)

    return Mistake(argument, change, **options)


def _int8(x: Arguments) -> Any:
    return x["query"].astype(jnp.int8)


MISTAKES: tuple[Mistake, ...] = (
    _shape("query", lambda s: s[1:3]),
    _shape("key", lambda s: (s[0] + 1, *s[1:])),
    _shape("key", lambda s: (*s[:3], s[3] + 1)),
    _shape("key", lambda s: (*s[:2], 7, s[3])),
    _shape("key", lambda s: (*s[:2], 0, s[3])),
    _shape("value", lambda s: (s[0], s[1] + 1, *s[2:])),
    _shape("value", lambda s: (*s[:2], s[2] + 1, s[3])),
    _shape("value", lambda s: (*s[:3], 0)),
    _shape("value", lambda s: s[1:]),
    Mistake(
        "dtypes",
        lambda x: x["query"].astype(
            jnp.float16 if x["query"].dtype != jnp.float16 else jnp.float32
        ),
    ),
    _value("scale", float("nan"), entries=DOT_PRODUCT),
    _value("scale", "half", entries=DOT_PRODUCT),
    _value("scale", True, entries=DOT_PRODUCT),
    _value("softmax_scale", float("inf"), entries=FLASH),
    _value("local_window_size", -1, entries=DOT_PRODUCT),
    _value("local_window_size", (1, 2, 3), entries=DOT_PRODUCT),
    _value("local_window_size", (1.5, 2), entries=DOT_PRODUCT),
    _value("local_window_size", True, entries=DOT_PRODUCT),
    _value("window_size", (-1, -1), entries=FLASH),
    _value("implementation", "cudnn"),
    _value("causal_alignment", "middle", entries=DOT_PRODUCT),
    _for_rows("mask", lambda b, t, n: jnp.ones((b, n, t, 1)), entries=DOT_PRODUCT),
    _for_rows("mask", lambda b, t, n: jnp.ones((b, n + 7, t, 1), bool), entries=DOT_PRODUCT),
    _for_rows("bias", lambda b, t, n: jnp.ones((b, n, t, 1), jnp.int32), entries=DOT_PRODUCT),
    _for_rows("bias", lambda b, t, n: jnp.ones((1, b, n, t, 1)), entries=DOT_PRODUCT),
    _for_rows("bias", lambda b, t, n: jnp.ones((b, n, t + 3, 1)), entries=DOT_PRODUCT),
    _for_rows("query_seq_lengths", lambda b, t, n: jnp.ones(b + 1, jnp.int32), entries=DOT_PRODUCT),
    _for_rows("query_seq_lengths", lambda b, t, n: jnp.ones(b), entries=DOT_PRODUCT),
    _for_rows("key_value_seq_lengths", lambda b, t, n: 3, entries=DOT_PRODUCT),
    _for_rows(
        "query_segment_ids", lambda b, t, n: jnp.ones((b, t + 1), jnp.int32), entries=DOT_PRODUCT
    ),
    _for_rows("key_value_segment_ids", lambda b, t, n: jnp.ones((b, t)), entries=DOT_PRODUCT),
    _value("logits_soft_cap", -1.0, entries=DOT_PRODUCT),
    _value("softcap", float("nan"), entries=FLASH),
    _for_rows("sinks", lambda b, t, n: jnp.ones(n + 1), entries=DOT_PRODUCT),
    _for_rows("learnable_sink", lambda b, t, n: jnp.ones((n, 1)), entries=FLASH),
    _for_rows("query_descale", lambda b, t, n: jnp.ones((b, n)), entries=FLASH),
    _value("no_such_option", 1, error=TypeError),
    _value("score_mod", 3, entries=DOT_PRODUCT),
    _value("score_mod", lambda score, batch: score, entries=DOT_PRODUCT),
    _value("mask_mod", lambda b, h, i, j: 1.5, entries=DOT_PRODUCT),
    _value("dropout_rate", 1.5, entries=DOT_PRODUCT),
    _value("dropout_rate", 0.5, entries=DOT_PRODUCT),
    _shape("q", lambda s: (1, *s), entries=VARLEN),
    _shape("k", lambda s: (s[0] + 1, *s[1:]), entries=VARLEN),
    _shape("v", lambda s: (*s[:2], 0), entries=VARLEN),
    _value("cu_seqlens_q", np.zeros((2, 2), np.int32), entries=VARLEN),
    _value("cu_seqlens_q", np.zeros(2, np.float32), entries=VARLEN),
    _value("cu_seqlens_k", np.zeros(7, np.int32), entries=VARLEN),
    _value("seqused_q", np.zeros(7, np.int32), entries=VARLEN),
    _value("seqused_k", np.zeros(1, np.float32), entries=VARLEN),
    _value("max_seqlen_q", "long", entries=VARLEN),
    _value("window_size", (1, 2, 3), entries=VARLEN + DECODE),
    _value("softcap", -1.0, entries=VARLEN + DECODE),
    _value("softmax_scale", float("nan"), entries=VARLEN + DECODE),
    _value("implementation", "cudnn", entries=VARLEN + DECODE),
    _value("learnable_sink", np.ones(9, np.float32), entries=VARLEN + DECODE),
    _shape("q", lambda s: s[1:], entries=DECODE),
    _shape("q", lambda s: (s[0], 1000, *s[2:]), entries=DECODE),
    _shape("k_cache", lambda s: (*s[:2], 7, s[3]), entries=DECODE),
    _shape("v_cache", lambda s: (*s[:3], 0), entries=DECODE),
    _value("key_value_seq_lengths", np.zeros(9, np.int32), entries=DECODE),
    _value("key_value_seq_lengths", np.zeros(1, np.float32), entries=DECODE),
    _value("page_table", np.zeros(3, np.int32), entries=DECODE),
    _value("page_table", np.zeros((9, 1), np.int32), entries=DECODE),
    _value("num_splits", 0, entries=DECODE),
    _value("num_splits", 1.5, entries=DECODE),
)


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, Mistake, Arguments]:
    """An entry, what is wrong with the call, and its arguments."""
    mistake = draw(st.sampled_from(MISTAKES))
    entry = draw(st.sampled_from(mistake.entries))
    shape = tuple(draw(st.integers(1, 4)) for _ in range(4))
    dtype = draw(st.sampled_from((jnp.float32, jnp.bfloat16, jnp.float16)))
    return entry, mistake, legal(entry, shape, dtype)


def legal(entry: str, shape: tuple[int, ...], dtype: Any) -> Arguments:
    """Arguments with nothing wrong: arrays of ones of a shape (batch, length, heads, width)."""
    ones = np.ones(shape[1:] if entry in VARLEN else shape, dtype)
    arguments = dict.fromkeys(ARRAYS[entry], ones)
    if entry in VARLEN:
        arguments |= {"cu_seqlens_q": np.array([0, shape[1]], np.int32)}
    if entry in DECODE:
        arguments |= {"key_value_seq_lengths": np.full(shape[0], shape[1], np.int32)}
    return arguments


def check(entry: str, mistake: Mistake, arguments: Arguments, implementation: str | None) -> None:
    """AssertionError unless the call raises, and says of which argument."""
    target = "query" if mistake.argument == "dtypes" else mistake.argument
    wrong = {"implementation": implementation} | arguments
    wrong[target] = mistake.change(arguments)
    arrays = [wrong.pop(name) for name in ARRAYS[entry]]
    try:
        getattr(jax_fa4, entry)(*arrays, **wrong)
    except (mistake.error, NotImplementedError) as error:
        raised = error
    else:
        raise AssertionError(f"{entry} took {mistake.argument} = {wrong.get(target)!r}")
    names = {target, mistake.argument}
    if entry == "flash_attention":
        names |= {name[0] for name in names if name in ("query", "key", "value")}
    assert any(name in str(raised) for name in names), f"{raised!r} names none of {names}"
    unbuilt = "not supported yet" in str(raised)
    assert unbuilt or type(raised) is mistake.error, f"{raised!r} is of the wrong type"
