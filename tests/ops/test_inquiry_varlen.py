"""Questions about calls of flash_attention_varlen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4.ops import selection

X = jax.ShapeDtypeStruct((100, 4, 64), jnp.bfloat16)
ENDS = np.array([0, 30, 100], np.int32)


def test_the_reason_is_that_of_the_call():
    text = jax_fa4.explain(X, X, X, cu_seqlens_q=ENDS, causal=True, seqused_k=ENDS[1:])
    assert text.startswith("portable path (XLA): JAX sees no CUDA device")
    assert jax_fa4.is_supported(X, X, X, cu_seqlens_q=ENDS, max_seqlen_q=70) in text
    x = np.zeros(X.shape, np.float32)
    with pytest.raises(NotImplementedError) as raised:
        jax_fa4.flash_attention_varlen(x, x, x, ENDS, implementation="fa4")
    assert jax_fa4.is_supported(x, x, x, cu_seqlens_q=ENDS) in str(raised.value)
    assert jax_fa4.backward_workspace_bytes(X, X, X, cu_seqlens_q=ENDS) == 0


@pytest.mark.parametrize("deterministic", [False, True])
def test_bounded_kernels_run_it(deterministic, monkeypatch):
    asked = []
    monkeypatch.setattr(selection, "unsupported", lambda problem: asked.append(problem) or "none")
    ends = jax.ShapeDtypeStruct((3,), jnp.int32)
    options = {"cu_seqlens_q": ends, "cu_seqlens_k": ends, "softcap": 2.0}
    assert jax_fa4.is_supported(X, X, X, **options, deterministic=deterministic) == "none"
    (problem,) = asked
    assert problem.has_bounds
    assert problem.has_softcap
    assert problem.deterministic == deterministic


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"cu_seqlens_q": ENDS.astype(np.float32)}, ValueError, "cu_seqlens_q"),
        ({"cu_seqlens_k": ENDS[:2]}, ValueError, "cu_seqlens_k"),
        ({"seqused_q": ENDS}, ValueError, "seqused_q"),
        ({"is_causal": True}, TypeError, "is_causal"),
    ],
)
def test_mistakes_are_those_of_the_call(change, error, words):
    for question in (jax_fa4.explain, jax_fa4.is_supported):
        with pytest.raises(error, match=words):
            question(X, X, X, **({"cu_seqlens_q": ENDS} | change))
