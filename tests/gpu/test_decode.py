"""The decoding kernels on the GPU, against the definition in float64, over poisoned caches."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4.ops.decode.plan import Operands
from jax_fa4.testing import decode, tolerances
from jax_fa4.testing.decode import DecodeCase

pytestmark = pytest.mark.gpu

CASES = {
    "short": DecodeCase(lengths=(0, 1, 17, 300), capacity=304, heads=4, heads_kv=2),
    "long": DecodeCase(lengths=(32768, 20000, 1, 777), capacity=32768, heads=8, heads_kv=2),
    "one-long": DecodeCase(lengths=(100000,), capacity=131072, heads=8, heads_kv=1),
    "group-16": DecodeCase(lengths=(8192, 5000), capacity=8192, heads=32, heads_kv=2),
    "sixteen": DecodeCase(lengths=(4096, 9, 16), capacity=4096, queries=16, heads=8, heads_kv=2),
    "window": DecodeCase(lengths=(9000, 100), capacity=9008, queries=3, window=(1000, 0)),
    "capped": DecodeCase(lengths=(3000, 5), capacity=3000, softcap=5.0, sinks=True, heads=6),
    "pages-16": DecodeCase(lengths=(9000, 1, 0, 5000), capacity=9008, page_size=16, heads=4),
    "pages-64": DecodeCase(lengths=(9000, 64, 65), capacity=9024, page_size=64, queries=4),
    "pages-256": DecodeCase(lengths=(30000, 12345), capacity=30720, page_size=256, heads=16),
}
DIMS = ((64, 64), (128, 128), (96, 80))


def run(case: DecodeCase, x: Operands, **options: Any) -> dict[str, np.ndarray]:
    def call(x: Operands) -> Any:
        return jax_fa4.decode_attention(
            *x[:3],
            key_value_seq_lengths=x.lengths,
            page_table=x.page_table,
            learnable_sink=x.sinks,
            implementation="fa4",
            **case.options,
            **options,
        )

    out, lse = jax.jit(call)(x)
    return {"out": np.asarray(out), "lse": np.asarray(lse)}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_results_are_the_definition(name: str, dims: tuple[int, int], dtype: str) -> None:
    case = dataclasses.replace(CASES[name], head_dim=dims[0], head_dim_v=dims[1])
    x = decode.make(case, jnp.dtype(dtype))
    exact, plain = decode.exact(case, x), decode.plain(case, x)
    for parts in (None, 1, 7):
        tolerances.check(run(case, x, num_splits=parts), exact, plain)


@pytest.mark.parametrize("name", CASES)
def test_the_same_bits_in_every_run(name: str) -> None:
    case = CASES[name]
    x = decode.make(case, jnp.bfloat16)
    first = run(case, x)
    for _ in range(5):
        for key, value in run(case, x).items():
            np.testing.assert_array_equal(value, first[key])


@pytest.mark.parametrize("paged", [False, True])
def test_a_step_with_donated_caches_makes_no_copy(paged: bool) -> None:
    """Append and attend, twelve tokens, as one program a token; the cache stays where it is."""
    table = jnp.arange(64, dtype=jnp.int32).reshape(2, 32)[:, ::-1] if paged else None
    shape = (64, 16, 2, 64) if paged else (2, 512, 2, 64)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(k: jax.Array, v: jax.Array, new: jax.Array, lengths: jax.Array) -> Any:
        k, v = jax_fa4.append_to_cache(
            k, v, new[0], new[1], key_value_seq_lengths=lengths, page_table=table
        )
        out = jax_fa4.decode_attention(
            new[2], k, v, key_value_seq_lengths=lengths + 1, page_table=table, implementation="fa4"
        )
        return k, v, out

    generator = np.random.default_rng(0)
    tokens = jnp.asarray(generator.standard_normal((12, 3, 2, 1, 2, 64)), jnp.bfloat16)
    k, v = (jnp.full(shape, jnp.nan, jnp.bfloat16) for _ in range(2))
    text = step.lower(k, v, tokens[0], jnp.zeros(2, jnp.int32)).compile().as_text()
    kept = "bf16[" + ",".join(map(str, shape)) + "]"
    assert not [line for line in text.splitlines() if f"= {kept}" in line and " copy(" in line]
    address = k.unsafe_buffer_pointer()
    for i, new in enumerate(tokens):
        k, v, out = step(k, v, new, jnp.full((2,), i, jnp.int32))
        assert k.unsafe_buffer_pointer() == address
        keys, values = (jnp.swapaxes(tokens[: i + 1, n, :, 0], 0, 1) for n in (0, 1))
        wanted = jax_fa4.flash_attention(new[2], keys, values, implementation="xla")
        np.testing.assert_allclose(
            out.astype(np.float32), wanted.astype(np.float32), rtol=2e-2, atol=2e-2
        )
