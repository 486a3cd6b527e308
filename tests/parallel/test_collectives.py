"""What the devices send each other, read from the compiled program: nothing but what is needed."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

import jax_fa4
from jax_fa4.testing import meshes

KINDS = ("collective-permute", "all-gather", "all-reduce", "all-to-all", "reduce-scatter")
ROWS = 256


def sharded(over, *shapes):
    """Shapes of bfloat16 arrays whose rows are split."""
    sharding = jax.sharding.NamedSharding(over, PartitionSpec(None, "context"))
    return [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding) for shape in shapes]


def sent(function, over, *shapes):
    """Number of each kind of collective in the compiled program on sharded arguments."""
    text = jax.jit(function).lower(*sharded(over, *shapes)).compile().as_text()
    counts = {kind: len(re.findall(rf" {kind}(?:-start)?\(", text)) for kind in KINDS}
    return {kind: count for kind, count in counts.items() if count}


def permutes(function, over, *shapes):
    """Number of permutes in the program before XLA sees it, and whether a barrier is in it."""
    text = jax.jit(function).lower(*sharded(over, *shapes)).as_text()
    return text.count("stablehlo.collective_permute"), "optimization_barrier" in text


def attention(over, **options):
    return functools.partial(
        jax_fa4.context_parallel_attention,
        mesh=over,
        spec=PartitionSpec(None, "context"),
        **options,
    )


def gradient(function):
    def loss(q, k, v):
        return (function(q, k, v).astype(jnp.float32) ** 2).sum()

    return jax.grad(loss, argnums=(0, 1, 2))


QKV = ((1, ROWS, 4, 8), (1, ROWS, 2, 8), (1, ROWS, 2, 8))


@pytest.mark.parametrize(
    ("options", "hops"),
    [
        ({"layout": "zigzag", "causal": True}, 3),
        ({"layout": "striped", "causal": True}, 3),
        ({"layout": "zigzag"}, 3),
        # a window of at most a device's 64 rows: one hop; on both sides: one each way
        ({"layout": "contiguous", "causal": True, "window_size": (64, None)}, 1),
        ({"layout": "contiguous", "window_size": (64, 64)}, 2),
        ({"layout": "contiguous", "window_size": (0, 0)}, 0),
    ],
    ids=str,
)
def test_ring(options, hops):
    over = meshes.mesh(context=4)
    ring = attention(over, **options)
    forward = {"collective-permute": 2 * hops} if hops else {}
    assert sent(ring, over, *QKV) == forward
    # What is added to the gradients of keys and values follows one hop behind, and home: as many
    # hops again. The keys themselves are sent a second time, so that the forward need not keep
    # those that came by; the barrier tells XLA that the two are not the same. (For the CPU some
    # versions of XLA drop it, and join them after all.)
    assert permutes(gradient(ring), over, *QKV) == (6 * hops, True)
    assert set(sent(gradient(ring), over, *QKV)) == set(forward)


def test_every_permute_sends_one_array():
    """jax#32148: several arrays of different dtypes in one permute do not compile on GPUs."""
    over = meshes.mesh(context=4)
    ring = gradient(attention(over, layout="zigzag", causal=True))
    text = jax.jit(ring).lower(*sharded(over, *QKV)).as_text()
    found = re.findall(r"= \"?stablehlo.collective_permute\"?\(([^)]*)\)", text)
    assert len(found) == 2 * 3 + 4 * 3
    assert all("," not in operands for operands in found)
    dtypes = re.findall(r"collective_permute.*-> tensor<[0-9x]*(\w+)>", text)
    assert sorted(dtypes) == ["bf16"] * 12 + ["f32"] * 6  # sums of gradients travel whole


def test_balanced_hops_do_not_branch():
    over = meshes.mesh(context=4)
    arrays = sharded(over, *QKV)
    for layout, branches in {"zigzag": False, "contiguous": True}.items():
        ring = gradient(attention(over, layout=layout, causal=True, implementation="xla"))
        assert ("stablehlo.case" in jax.jit(ring).lower(*arrays).as_text()) == branches


@pytest.mark.parametrize(("heads_kv", "width"), [(4, 4), (2, 4), (1, 4), (4, 8)])
def test_ulysses(heads_kv, width):
    """An all-to-all each for q, k, v and out; as many again for the gradients, and out's again."""
    over = meshes.mesh(context=4)
    shapes = (1, ROWS, 4, width), *[(1, ROWS, heads_kv, width)] * 2
    ulysses = attention(over, strategy="ulysses", layout="contiguous", causal=True)
    assert sent(ulysses, over, *shapes) == {"all-to-all": 4}
    assert sent(gradient(ulysses), over, *shapes) == {"all-to-all": 4 + 4}


def test_arrays_that_lie_elsewhere_would_be_gathered():
    """That the counts above can fail: rows that are not split as the call has them."""
    over = meshes.mesh(other=2, context=4)
    ring = attention(over, layout="zigzag", causal=True)
    sharding = jax.sharding.NamedSharding(over, PartitionSpec("other", "context"))
    arrays = [jax.ShapeDtypeStruct((2, *s[1:]), jnp.bfloat16, sharding=sharding) for s in QKV]
    assert "all-gather" in jax.jit(ring).lower(*arrays).compile().as_text()
