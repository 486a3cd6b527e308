"""One sequence over 2 and 4 GPUs of a host: values, gradients, bits, and what hides sends.

What XLA makes of a ring of 4 GPUs is tested on one, too: it compiles for others than there are.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jax_fa4
from jax_fa4.testing import expected, inputs, meshes, sends, tolerances

pytestmark = pytest.mark.gpu

CASE = inputs.Case(
    name="ring-gpu",
    query_length=1024,
    key_length=1024,
    heads=4,
    heads_kv=2,
    head_dim=128,
    causal=True,
)
WIDE = {"head_dim": 192, "head_dim_v": 128}
# What XLA asks of a GPU that it compiles for without seeing it.
H100 = """
platform_name: "CUDA" device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 7 } runtime_version { major: 13 minor: 0 patch: 0 }
gpu_device_info {
  cuda_compute_capability { major: 9 } core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448 registers_per_core_limit: 65536
  registers_per_block_limit: 65536 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  device_memory_size: 84929347584
}
"""


@pytest.fixture(params=[2, 4])
def over(request):
    """A mesh of as many GPUs."""
    if jax.device_count() < request.param:
        pytest.skip(f"NOT TESTED HERE, needs {request.param} GPUs: {jax.device_count()} present")
    return meshes.mesh(context=request.param)


def attention(over, **options):
    return meshes.context_parallel(over, implementation="fa4", **options)


@pytest.mark.parametrize(
    ("strategy", "layout", "changes"),
    [
        ("ring", "zigzag", {}),
        ("ring", "striped", {}),
        ("ring", "contiguous", {"window": (300, None)}),
        ("ring", "contiguous", {"window": (100, 200), "causal": False}),
        ("ring", "zigzag", WIDE),
        ("ulysses", "contiguous", {}),
    ],
    ids=str,
)
def test_results(over, strategy, layout, changes):
    case = inputs.Case(**{**vars(CASE), **changes})
    x = inputs.make(case, jnp.bfloat16)
    attend = attention(
        over, strategy=strategy, layout=layout, causal=case.causal, window_size=case.window
    )
    actual = expected.results(attend, x, gradients=True)
    tolerances.check(actual, *expected.both(x, case, gradients=True))


@pytest.mark.parametrize("strategy", ["ring", "ulysses"])
def test_documents_a_soft_cap_and_sinks(over, strategy):
    """Beside the kernels' own results on one GPU: four roundings to bfloat16 on either side."""
    x = inputs.make(CASE, jnp.bfloat16)
    ids = jnp.arange(CASE.query_length)[None].repeat(CASE.batch, 0) // 300
    sinks = jnp.linspace(-1, 1, CASE.heads)
    shards = over.shape["context"]

    def one(q, k, v):
        out, lse = jax_fa4.dot_product_attention(
            *(q, k, v),
            is_causal=True,
            query_segment_ids=ids,
            logits_soft_cap=20.0,
            sinks=sinks,
            return_residual=True,
        )
        return out, lse.swapaxes(1, 2)

    several = meshes.context_parallel(
        over,
        strategy=strategy,
        layout="zigzag",
        causal=True,
        query_segment_ids=jax_fa4.to_layout(ids, "zigzag", shards),
        softcap=20.0,
        learnable_sink=sinks,
    )
    found, wanted = (expected.results(f, x, gradients=True) for f in (several, one))
    for name, array in wanted.items():
        a, b = (np.asarray(y, np.float32) for y in (found[name], array))
        assert np.linalg.norm(a - b) <= 4 * 2.0**-8 * np.linalg.norm(b), name


def test_deterministic_gradients_keep_their_bits(over):
    x = inputs.make(CASE, jnp.bfloat16)
    attend = attention(over, layout="zigzag", causal=True, deterministic=True)
    runs = [expected.results(attend, x, gradients=True) for _ in range(3)]
    for other in runs[1:]:
        for name, array in runs[0].items():
            np.testing.assert_array_equal(array, other[name])


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("layout", ["zigzag", "contiguous"])
def test_every_send_lies_around_a_kernel(layout, gradients):
    """In the schedule for 4 GPUs, whatever there is: but the one that takes gradients home."""
    four = topologies.get_topology_desc("four", "cuda", target_config=H100, topology="1x1x4")
    over = Mesh(np.array(four.devices), ("context",), axis_types=(AxisType.Auto,))
    spec = PartitionSpec(None, "context")
    arrays = [
        jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(over, spec))
        for shape in ((1, 4096, 4, 128), (1, 4096, 2, 128), (1, 4096, 2, 128))
    ]
    attend = functools.partial(
        jax_fa4.context_parallel_attention,
        mesh=over,
        spec=spec,
        layout=layout,
        causal=True,
        implementation="fa4",
    )

    def gradient(q, k, v):
        return jax.grad(lambda *x: attend(*x).astype(jnp.float32).sum(), argnums=(0, 1, 2))(q, k, v)

    # As command buffers, kernels would stand in computations of their own.
    options = {"xla_gpu_enable_command_buffer": "", "xla_gpu_autotune_level": "0"}
    lowered = jax.jit(gradient if gradients else attend).lower(*arrays)
    found = sends.beside_kernels(lowered.compile(compiler_options=options).as_text())
    hidden = found[: found.index(False)] if False in found else found
    assert len(hidden) >= (3 + 4 if gradients else 3)  # the way back has one more, of gradients
    bare = found[len(hidden) :]
    assert bare in ([False], [False, False]) if gradients else not bare
