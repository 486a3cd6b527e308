"""Packed documents on a GPU: the bits of a document, and other documents in the same program."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jax_fa4

pytestmark = pytest.mark.gpu

LENGTH = 8192


def packed(documents: int) -> tuple[jax.Array, ...]:
    """q, k, v and segment ids of so many documents of one length."""
    ids = jnp.arange(LENGTH, dtype=jnp.int32)[None] // (LENGTH // documents)
    shape = (1, LENGTH, 4, 128)
    q, k, v = (jax.random.normal(jax.random.key(i), shape, jnp.bfloat16) for i in range(3))
    return q, k, v, ids


@jax.jit
def attend(q: Any, k: Any, v: Any, ids: Any) -> Any:
    return jax_fa4.dot_product_attention(
        q, k, v, is_causal=True, query_segment_ids=ids, implementation="fa4"
    )


def test_documents_have_the_bits_of_calls_of_their_own() -> None:
    arrays, one = packed(16), LENGTH // 16
    found = attend(*arrays)
    for start in (0, 5 * one, LENGTH - one):
        alone = attend(*(x[:, start : start + one] for x in arrays))
        assert (alone == found[:, start : start + one]).all()


def test_graphs_take_other_documents() -> None:
    """xla_gpu_graph_min_graph_size=1 records even one call; later runs replay or update it."""
    options = {"xla_gpu_graph_min_graph_size": 1}
    graph = attend.lower(*packed(1)).compile(compiler_options=options)
    for documents in (1, 4, 64, 4):
        arrays = packed(documents)
        assert (graph(*arrays) == attend(*arrays)).all()
