"""Which path decode_attention takes, and what explain_decode says of it."""

import jax
import jax.numpy as jnp
import pytest

import jax_fa4


def shapes(width=128, dtype=jnp.bfloat16, page_size=None):
    cache = (8, 32768, 8, width) if page_size is None else (9000, page_size, 8, width)
    table = None if page_size is None else jax.ShapeDtypeStruct((8, 512), jnp.int32)
    return {
        "q": jax.ShapeDtypeStruct((8, 1, 32, width), dtype),
        "k_cache": jax.ShapeDtypeStruct(cache, dtype),
        "v_cache": jax.ShapeDtypeStruct(cache, dtype),
        "key_value_seq_lengths": jax.ShapeDtypeStruct((8,), jnp.int32),
        "page_table": table,
    }


def test_kernel_and_parts(hopper):
    said = jax_fa4.explain_decode(**shapes(), causal=True, window_size=(100, 0))
    assert said.startswith("kernel decode_sm90_bf16_d128 on NVIDIA H100")
    assert "in up to 4 parts; no gradient" in said
    assert "in one part" in jax_fa4.explain_decode(**shapes(), num_splits=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": jnp.float32}, "float32, and the kernels take"),
        ({"width": 192}, "192, above 128"),
        ({"width": 60}, "multiples of 8"),
        ({"page_size": 24}, "page_size is 24"),
    ],
)
def test_portable_path_and_why(hopper, changes, message):
    said = jax_fa4.explain_decode(**shapes(**changes))
    assert said.startswith("portable path (XLA): ")
    assert message in said
    refused = jax_fa4.explain_decode(**shapes(**changes), implementation="fa4")
    assert "implementation='fa4' cannot run this call" in refused


def test_without_a_gpu(no_gpu):
    assert "JAX sees no CUDA device" in jax_fa4.explain_decode(**shapes())
    assert "was asked for" in jax_fa4.explain_decode(**shapes(), implementation="xla")
    with pytest.raises(NotImplementedError, match="JAX sees no CUDA device"):
        jax.eval_shape(
            lambda x: jax_fa4.decode_attention(**x, implementation="fa4"),
            {name: x for name, x in shapes().items() if x is not None},
        )


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="unexpected option 'scale'"):
        jax_fa4.explain_decode(**shapes(), scale=1.0)


def test_a_program_for_gpus_from_a_machine_without(no_gpu):
    """One traced program: the kernel where it is lowered for CUDA."""
    x = {name: a for name, a in shapes().items() if a is not None}
    traced = jax.jit(lambda x: jax_fa4.decode_attention(**x)).trace(x)
    assert "jax_fa4_decode_v1" in traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "jax_fa4_decode_v1" not in traced.lower(lowering_platforms=("cpu",)).as_text()
