"""Bounded kernels on a GPU: against the definition, from call to call, and in CUDA graphs."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4.ops import kernel_calls, selection
from jax_fa4.ops.band import FULL
from jax_fa4.testing import tolerances
from jax_fa4.testing.bounded import RESULTS, problem
from jax_fa4.variants.catalog import BOUNDED_HEAD_DIMS, SOFTCAP_HEAD_DIMS
from jax_fa4.variants.problem import Problem

pytestmark = pytest.mark.gpu

SOFTCAP = 1.5  # scores are about 1
CASES = sorted(
    {(pair, 0.0) for pairs in BOUNDED_HEAD_DIMS.values() for pair in pairs}
    | {(pair, SOFTCAP) for pairs in SOFTCAP_HEAD_DIMS.values() for pair in pairs}
)


@functools.partial(jax.jit, static_argnums=(3, 4))
def results(x, bounds, out_and_lse, case, softcap):
    """out and lse by the forward kernel, the gradients of the ones given by the backward's."""
    path = selection.select(
        Problem(
            dtype=x.q.dtype.name,
            head_dim=case.head_dim,
            head_dim_v=case.head_dim_v,
            softmax_scale=case.scale,
            has_bounds=True,
            has_softcap=softcap > 0,
        ),
        "fa4",
    )
    options = {"softmax_scale": case.scale, "band": FULL, "softcap": softcap}
    found = kernel_calls.forward(path, *x[:3], *bounds, **options)
    residuals = (*x[:3], *out_and_lse, x.dout, x.dlse)
    return *found, *kernel_calls.backward(path, *residuals, *bounds, **options)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("head_dims", "softcap"), CASES)
def test_results_are_the_definition(head_dims, softcap, seed):
    given = problem(seed, head_dims, (jnp.bfloat16, jnp.float16)[seed % 2])
    wanted, plain = given.definition(softcap)
    out_and_lse = (jnp.asarray(plain["out"]), jnp.asarray(plain["lse"]))
    found = results(given.inputs, given.bounds, out_and_lse, given.case, softcap)
    tolerances.check(dict(zip(RESULTS, map(np.asarray, found), strict=True)), wanted, plain)


def packed(seqlen=8192, documents=16):
    ids = jnp.arange(seqlen, dtype=jnp.int32)[None] // (seqlen // documents)
    shape = (1, seqlen, 4, 128)
    q, k, v = (jax.random.normal(jax.random.key(i), shape, jnp.bfloat16) for i in range(3))
    return q, k, v, ids


@jax.jit
def attend(q, k, v, ids):
    return jax_fa4.dot_product_attention(
        q, k, v, is_causal=True, query_segment_ids=ids, implementation="fa4"
    )


def test_long_documents_have_the_bits_of_their_own_calls():
    q, k, v, ids = packed()
    found = attend(q, k, v, ids)
    one = 8192 // 16
    for start in (0, 5 * one, 8192 - one):
        document = tuple(x[:, start : start + one] for x in (q, k, v, ids))
        assert (attend(*document) == found[:, start : start + one]).all()


def test_graphs_take_other_bounds_at_other_addresses():
    """xla_gpu_graph_min_graph_size=1 records even one call; later runs replay or update it."""
    q, k, v, _ = packed()
    graph = attend.lower(*packed()).compile(compiler_options={"xla_gpu_graph_min_graph_size": 1})
    for documents in (1, 4, 64, 4):
        ids = packed(documents=documents)[3]
        assert (graph(q, k, v, ids) == attend(q, k, v, ids)).all()
