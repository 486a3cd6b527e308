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


def equations(jaxpr):
    """All equations in it, those of calls inside too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values())):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from equations(getattr(inner, "jaxpr", inner))


def waits(function, *arrays):
    """For each hop's sends, in order: the attention calls before them, and those they wait for."""
    (mapped,) = (
        equation.params["jaxpr"]
        for equation in equations(jax.make_jaxpr(function)(*arrays).jaxpr)
        if equation.primitive.name == "shard_map"
    )
    (ring,) = (
        equation.params["call_jaxpr"].jaxpr
        for equation in mapped.eqns
        if "ppermute" in str(equation.params.get("call_jaxpr"))
    )
    calls, needs, found = 0, {}, []
    for equation in ring.eqns:
        inputs = [v for v in equation.invars if not hasattr(v, "val")]
        needed = frozenset().union(*(needs.get(v, frozenset()) for v in inputs))
        # A call of the kernels has two results; logaddexp is a custom_jvp, too.
        if equation.primitive.name == "custom_jvp_call" and len(equation.outvars) == 2:
            needed |= {calls}
            calls += 1
        elif equation.primitive.name == "ppermute":
            found.append((calls, sorted(needed)))
        needs.update(dict.fromkeys(equation.outvars, needed))
    return found


def test_sends_wait_for_the_kernels_of_the_hop_before_and_no_other():
    """The call beside a send is not what it waits for, and nothing is sent ahead of its hop."""
    over = meshes.mesh(context=4)
    arrays = sharded(over, *QKV)
    found = waits(attention(over, layout="zigzag"), *arrays)
    # before the first call: k and v of the next hop; then beside each but the last the same
    assert found == [(0, []), (0, []), (1, [0]), (1, [0]), (2, [0, 1]), (2, [0, 1])]


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
