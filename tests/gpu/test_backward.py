"""The backward kernels on the GPU, called as users call them: by the gradient of flash_attention.

tests/ops/test_semantics.py holds them to the definition on the shared problems; here is what they
write, how often the same, on which memory, and how large it may be.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4.testing import expected, inputs, tolerances
from jax_fa4.variants import BACKWARD_HEAD_DIMS, DETERMINISTIC_HEAD_DIMS, Arch

pytestmark = pytest.mark.gpu

WIDEST = min(max(min(pair) for pair in pairs) for pairs in BACKWARD_HEAD_DIMS.values())

# Tails, GQA, native and padded head dims, head dims whose halves are no multiples of 32, windows,
# rows without keys, keys without rows, one of either.
PROBLEMS = tuple(
    case
    for case in (
        inputs.Case(name="ragged", query_length=113, key_length=239, heads=4, heads_kv=2),
        inputs.Case(name="causal", query_length=1023, key_length=1023, head_dim=128, causal=True),
        inputs.Case(name="unseen", query_length=300, key_length=77, head_dim=128, causal=True),
        inputs.Case(name="window", query_length=640, key_length=640, window=(100, 30)),
        inputs.Case(name="one-query", query_length=1, key_length=1023, head_dim=96),
        inputs.Case(name="one-key", query_length=333, key_length=1, heads=8, heads_kv=1),
        inputs.Case(
            name="128-96",
            query_length=200,
            key_length=260,
            heads=4,
            head_dim=128,
            head_dim_v=96,
        ),
        inputs.Case(name="96-128", query_length=260, key_length=200, head_dim=96, head_dim_v=128),
        inputs.Case(
            name="192-128",
            query_length=333,
            key_length=270,
            heads=4,
            head_dim=192,
            head_dim_v=128,
            causal=True,
        ),
        inputs.Case(
            name="top-left", query_length=90, key_length=700, causal=True, alignment="top_left"
        ),
        inputs.Case(
            name="256", query_length=300, key_length=300, heads=4, head_dim=256, causal=True
        ),
        inputs.Case(
            name="192-128",
            query_length=300,
            key_length=450,
            head_dim=192,
            head_dim_v=128,
            heads=4,
            heads_kv=2,
            causal=True,
        ),
    )
    if max(case.head_dim, case.head_dim_v) <= WIDEST
)


def pull(case, x, **options):
    """(dq, dk, dv) of a case by the kernel, or an error: never the portable path."""
    if case.alignment == "bottom_right":
        call = functools.partial(
            jax_fa4.flash_attention,
            causal=case.causal,
            window_size=case.window,
            return_lse=True,
            implementation="fa4",
            **options,
        )
    else:

        def call(q, k, v):
            out, lse = jax_fa4.dot_product_attention(
                q, k, v, is_causal=case.causal, return_residual=True, implementation="fa4"
            )
            return out, lse.transpose(0, 2, 1)

    _, vjp = jax.vjp(call, *x[:3])
    return vjp((x.dout, x.dlse))


def check(case, x, gradients):
    found = {n: np.asarray(g) for n, g in zip(("dq", "dk", "dv"), gradients, strict=True)}
    tolerances.check(found, *expected.both(x, case, gradients=True))


def test_the_program_holds_the_custom_calls():
    x = inputs.make(PROBLEMS[0], jnp.bfloat16)
    text = jax.jit(functools.partial(pull, PROBLEMS[0])).lower(x).compile().as_text()
    assert text.count('custom_call_target="jax_fa4_fwd_v1"') == 1
    assert text.count('custom_call_target="jax_fa4_bwd_v1"') == 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("case", PROBLEMS, ids=lambda case: case.name)
def test_every_element_is_written(run_on_poison, case, dtype):
    x = inputs.make(case, dtype)
    check(case, x, run_on_poison(functools.partial(pull, case), x))


def _poison_free_memory():
    """Fill and free a gigabyte, so that scratch that is allocated next holds NaN."""
    jax.block_until_ready([jnp.full((2**26,), jnp.nan, jnp.float32) for _ in range(4)])


@pytest.mark.parametrize("case", PROBLEMS[:4], ids=lambda case: case.name)
def test_recycled_buffers_change_nothing(case):
    """Scratch is whatever memory was free: NaN, or another call's sums."""
    x = inputs.make(case, jnp.bfloat16)
    program = jax.jit(functools.partial(pull, case))
    first = program(x)
    check(case, x, first)
    for seed in range(1, 6):
        _poison_free_memory()
        program(inputs.make(case, jnp.bfloat16, seed=seed))
        again = program(x)
        check(case, x, again)
        for name, a, b in zip(("dk", "dv"), again[1:], first[1:], strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), name


def test_dk_and_dv_have_the_same_bits_in_every_run():
    for case in PROBLEMS[:3]:
        x = inputs.make(case, jnp.bfloat16)
        program = jax.jit(functools.partial(pull, case))
        first = [np.asarray(g).tobytes() for g in program(x)[1:]]
        for _ in range(50):
            assert [np.asarray(g).tobytes() for g in program(x)[1:]] == first


DETERMINISTIC = tuple(
    case
    for case in (
        PROBLEMS[0],
        inputs.Case(
            name="causal-groups",
            query_length=1023,
            key_length=1100,
            batch=2,
            heads=8,
            heads_kv=2,
            head_dim=128,
            causal=True,
        ),
        inputs.Case(name="full", query_length=900, key_length=2000, heads=16, heads_kv=4),
        inputs.Case(
            name="window",
            query_length=2000,
            key_length=2000,
            heads=8,
            head_dim=128,
            window=(300, 300),
        ),
        inputs.Case(
            name="full-96", batch=2, query_length=777, key_length=900, heads=8, head_dim=96
        ),
        inputs.Case(
            name="causal-192-128",
            query_length=900,
            key_length=1000,
            heads=8,
            head_dim=192,
            head_dim_v=128,
            causal=True,
        ),
        inputs.Case(name="groups-256", query_length=777, key_length=1100, heads=8, head_dim=256),
        # A CTA for all keys of a head: short lengths, and heads for most multiprocessors.
        inputs.Case(name="short", batch=8, query_length=500, key_length=512, heads=16, causal=True),
        inputs.Case(
            name="short-groups-128",
            batch=16,
            query_length=130,
            key_length=400,
            heads=16,
            heads_kv=8,
            head_dim=128,
        ),
    )
    if any(
        case.head_dim <= width and case.head_dim_v <= value_width
        for width, value_width in DETERMINISTIC_HEAD_DIMS[Arch.SM90]
    )
)


@pytest.mark.parametrize("case", DETERMINISTIC, ids=lambda case: case.name)
def test_deterministic_gradients_have_the_same_bits_in_every_run(case):
    """1000 runs, compared on the GPU. The emulator could not tell: it runs CTAs one by one."""
    x = inputs.make(case, jnp.bfloat16)
    words = jax_fa4.explain(*x[:3], causal=case.causal, window_size=case.window, deterministic=True)
    assert "gradient: kernel" in words
    program = jax.jit(functools.partial(pull, case, deterministic=True))
    first = program(x)
    check(case, x, first)

    @jax.jit
    def unequal(gradients):
        bits = functools.partial(jax.lax.bitcast_convert_type, new_dtype=jnp.uint16)
        return sum((bits(a) != bits(b)).sum() for a, b in zip(gradients, first, strict=True))

    counts = [unequal(program(x)) for _ in range(1000)]
    assert int(sum(counts)) == 0


@pytest.mark.parametrize("head_dim", [64, 128])
def test_graphs_of_any_size_give_the_same_bits(head_dim):
    """Three launches recorded as a CUDA graph; dq varies in its last bits with or without one."""
    case = inputs.Case(name="graph", query_length=200, key_length=200, head_dim=head_dim)
    x = inputs.make(case, jnp.bfloat16)
    lowered = jax.jit(functools.partial(pull, case)).lower(x)
    graphs = lowered.compile(compiler_options={"xla_gpu_graph_min_graph_size": 1})
    plain = lowered.compile(compiler_options={"xla_gpu_graph_min_graph_size": 10**6})
    kept = []  # other buffers every time, so that replays must take new addresses
    for seed in range(20):
        x = inputs.make(case, jnp.bfloat16, seed=seed)
        kept.append((x, graphs(x), plain(x)))
    for x, replayed, launched in kept:
        check(case, x, replayed)
        for a, b in zip(replayed[1:], launched[1:], strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_vmap_with_batches():
    """What flash-attn3-jax gets wrong: the mapped axis and a batch above 1."""
    case = inputs.Case(name="vmap", query_length=130, key_length=200, batch=6, heads=4, heads_kv=2)
    x = inputs.make(case, jnp.bfloat16)
    folded = jax.tree.map(lambda a: a.reshape(3, 2, *a.shape[1:]), x)
    gradients = jax.jit(jax.vmap(functools.partial(pull, case)))(folded)
    check(case, x, [g.reshape(6, *g.shape[2:]) for g in gradients])


def test_the_workspace_is_what_is_said():
    """XLA's account of the program's temporary memory, with and without the gradient's scratch."""
    shape = jax.ShapeDtypeStruct((2, 4096, 8, 64), jnp.bfloat16)

    def gradient(q, k, v, out, lse):
        from jax_fa4.ffi.backward import Operands, backward
        from jax_fa4.ops.band import FULL

        names = tuple(f"bwd_{arch.value}_bf16_d64" for arch in Arch if arch in BACKWARD_HEAD_DIMS)
        operands = Operands(q, k, v, out, out, lse, lse)
        return backward(operands, softmax_scale=0.125, band=FULL, variants=names)[0]

    lse = jax.ShapeDtypeStruct((2, 8, 4096), jnp.float32)
    compiled = jax.jit(gradient).lower(shape, shape, shape, shape, lse).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    promised = jax_fa4.backward_workspace_bytes(shape, shape, shape)
    assert promised <= temporary <= promised + 2**20
