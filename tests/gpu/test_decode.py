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
    "ragged": DecodeCase(lengths=(0, 1, 17, 300, -4, 999), capacity=304, heads=4, heads_kv=2),
    "sixteen": DecodeCase(lengths=(4096, 9, 16), capacity=4096, queries=16, heads=8, heads_kv=2),
    "window": DecodeCase(lengths=(9000, 100), capacity=9008, queries=3, window=(1000, 0)),
    "not-causal": DecodeCase(lengths=(3, 2900), capacity=3000, queries=8, causal=False),
    "capped": DecodeCase(lengths=(3000, 5), capacity=3000, softcap=5.0, sinks=True, heads=6),
    "pages-16": DecodeCase(lengths=(5000, 1, 0, 1700), capacity=5008, page_size=16, heads=4),
    "pages-32": DecodeCase(
        lengths=(700, 60, 5), capacity=768, page_size=32, queries=7, window=(50, 0), sinks=True
    ),
    "pages-64": DecodeCase(lengths=(5000, 64, 65), capacity=5056, page_size=64, queries=4),
    "pages-128": DecodeCase(lengths=(127, 129), capacity=2048, page_size=128, softcap=3.0),
    "pages-256": DecodeCase(lengths=(5000, 1234), capacity=5120, page_size=256, heads=16),
}
# Of 32768 keys and more, with what they run in: the definition of these is what takes the time.
LONG = {
    "contiguous": (DecodeCase(lengths=(32768, 777), capacity=32768, heads=4, head_dim=128), "bf16"),
    "pages-64": (DecodeCase(lengths=(32768,), capacity=32768, page_size=64, heads=8), "fp16"),
    "sixteen": (DecodeCase(lengths=(32000,), capacity=32768, queries=16, heads=8), "bf16"),
    "131072": (DecodeCase(lengths=(100000,), capacity=131072, heads=8), "fp16"),
}
DTYPES = {"bf16": jnp.bfloat16, "fp16": jnp.float16}
# (dtype, head dims) of a case: the widest, and the others in turn.
FIRST = ("bf16", 128, 128)
OTHERS = ((("fp16", 64, 64), ("bf16", 96, 80)), (("bf16", 64, 64), ("fp16", 128, 128)))
KINDS = [(name, kind) for i, name in enumerate(CASES) for kind in (FIRST, *OTHERS[i % 2])]
# (query heads of a KV head, queries): 1 to 256 rows.
ROWS = (
    *((1, 1), (1, 16), (2, 5), (3, 1), (3, 16), (4, 1)),
    *((4, 5), (8, 1), (8, 5), (8, 16), (16, 1), (16, 16)),
)


def run(case: DecodeCase, x: Operands, **options: Any) -> dict[str, np.ndarray]:
    """out and lse; what XLA hands to the call as scratch has been NaN before."""

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

    compiled = jax.jit(call).lower(x).compile()
    jnp.full((1 << 24,), jnp.nan).block_until_ready().delete()
    out, lse = compiled(x)
    return {"out": np.asarray(out), "lse": np.asarray(lse)}


def check(case: DecodeCase, dtype: str, parts: tuple[int | None, ...]) -> None:
    x = decode.make(case, DTYPES[dtype])
    exact, plain = decode.exact(case, x), decode.plain(case, x)
    for number in parts:
        tolerances.check(run(case, x, num_splits=number), exact, plain)


@pytest.mark.parametrize(("name", "kind"), KINDS, ids=str)
def test_results_are_the_definition(name: str, kind: tuple[str, int, int]) -> None:
    dtype, head_dim, head_dim_v = kind
    case = dataclasses.replace(CASES[name], head_dim=head_dim, head_dim_v=head_dim_v)
    check(case, dtype, (None, 7) if kind == FIRST else (None,))


@pytest.mark.parametrize(("ratio", "queries"), ROWS)
def test_groups_of_heads_and_numbers_of_tokens(ratio: int, queries: int) -> None:
    case = DecodeCase(
        lengths=(1008, 0, 7, 400),
        capacity=1008,
        queries=queries,
        heads=2 * ratio,
        heads_kv=2,
        head_dim=128,
        page_size=16 if ratio % 2 else 0,
    )
    check(case, "bf16", (None,))


@pytest.mark.parametrize("name", LONG)
def test_long_caches(name: str) -> None:
    case, dtype = LONG[name]
    check(case, dtype, (None,))


@pytest.mark.parametrize("name", ["ragged", "sixteen", "pages-256"])
def test_the_same_bits_in_every_run(name: str) -> None:
    case = CASES[name]
    x = decode.make(case, jnp.bfloat16)
    first = run(case, x)
    for _ in range(3):
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
