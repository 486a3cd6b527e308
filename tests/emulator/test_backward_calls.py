"""The backward kernels within programs: remat, donated and recycled buffers, neighbours, sharding.

tests/emulator/test_backward.py holds single calls to the definition.
"""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

import jax_fa4
from jax_fa4.ffi import EMULATED_BACKWARD_TARGET, EMULATED_FORWARD_TARGET
from jax_fa4.testing import inputs, programs
from jax_fa4.variants import BACKWARD_HEAD_DIMS


@pytest.fixture(params=[arch.value for arch in BACKWARD_HEAD_DIMS])
def arch(request):
    with jax_fa4.emulator.options(arch=request.param):
        yield request.param


attend = functools.partial(
    jax_fa4.flash_attention, causal=True, return_lse=True, implementation="emulator"
)
pull, loss = programs.pull(attend), programs.square_loss(attend)


@pytest.mark.parametrize(
    ("policy", "forwards"),
    [
        (None, (1, 2)),  # XLA before jax 0.11 merges the two on the CPU
        (jax.checkpoint_policies.save_only_these_names(*jax_fa4.CHECKPOINT_NAMES), (1,)),
    ],
    ids=["nothing", "names"],
)
def test_remat_in_the_compiled_program(arch, policy, forwards):
    """What XLA leaves of it: at most two forwards where nothing was saved, and equal gradients."""
    x = inputs.make(inputs.Case(name="remat", query_length=40, key_length=70), jnp.bfloat16)[:3]
    remat = jax.value_and_grad(jax.checkpoint(loss, policy=policy), argnums=(0, 1, 2))
    compiled = jax.jit(remat).lower(*x).compile()
    text = compiled.as_text()
    assert text.count(f'custom_call_target="{EMULATED_FORWARD_TARGET}"') in forwards
    assert text.count(f'custom_call_target="{EMULATED_BACKWARD_TARGET}"') == 1
    programs.assert_close(compiled(*x)[1], jax.grad(loss, argnums=(0, 1, 2))(*x))


def test_temporary_memory_is_the_workspace_and_two_results(arch):
    """XLA's own account: scratch, out and lse, and what a float32 copy of dK would not fit in."""
    case = inputs.Case(name="memory", query_length=256, key_length=2048, heads=4, heads_kv=2)
    x = inputs.make(case, jnp.bfloat16)
    compiled = jax.jit(pull).lower(x).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    workspace = jax_fa4.backward_workspace_bytes(*x[:3], causal=True, implementation="emulator")
    kept = x.dout.nbytes + x.dlse.nbytes
    slack = 1 << 16
    assert 4 * x.k.size > slack
    assert workspace <= temporary <= workspace + kept + slack


def test_training_with_donated_buffers(arch):
    """Each step's arrays lie where the last one's did: nothing may depend on what they held."""
    case = inputs.Case(name="donated", query_length=70, key_length=70, heads=4, heads_kv=2)
    donated, kept = programs.train_twice(attend, inputs.make(case, jnp.bfloat16)[:3], steps=4)
    programs.assert_close(donated, kept)


@pytest.mark.parametrize("lengths", [(113, 239), (64, 128), (130, 65)], ids=str)
def test_nan_in_neighbours_stays_there(arch, lengths):
    """Past a ragged tile's last row lies the next batch element, beside each row another head."""
    case = inputs.Case(
        name="neighbours",
        query_length=lengths[0],
        key_length=lengths[1],
        batch=3,
        heads=4,
        heads_kv=2,
    )
    programs.assert_nan_stays(attend, inputs.make(case, jnp.bfloat16))


@pytest.mark.parametrize("heads_kv", [1, 2])
def test_more_devices_than_key_heads(arch, heads_kv):
    """Query heads over four devices; each takes the key head of its own from those of all."""
    devices = 4
    case = inputs.Case(
        name="tensor-parallel", query_length=50, key_length=70, heads=8, heads_kv=heads_kv
    )
    arrays = inputs.make(case, jnp.bfloat16)[:3]
    mesh = jax.make_mesh(
        (devices,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices("cpu")[:devices]
    )
    heads, everywhere = PartitionSpec(None, None, "x"), PartitionSpec()

    def local(q, k, v):
        own = jax.lax.axis_index("x") * heads_kv // devices
        k, v = (jax.lax.dynamic_slice_in_dim(a, own, 1, axis=2) for a in (k, v))
        return jax.lax.psum(loss(q, k, v), "x")

    sharded = jax.shard_map(
        local, mesh=mesh, in_specs=(heads, everywhere, everywhere), out_specs=PartitionSpec()
    )
    found = jax.jit(jax.grad(sharded, argnums=(0, 1, 2)))(*arrays)
    wanted = jax.grad(loss, argnums=(0, 1, 2))(*arrays)
    programs.assert_close(
        found, wanted, ulps=devices
    )  # as many gradients added as devices, in bfloat16


def test_jacobians(arch):
    """jax #34920, #36702, #38498: the mapped axis is the cotangents' alone."""
    case = inputs.Case(name="jacobian", query_length=3, key_length=5, heads_kv=1, head_dim=8)
    x = inputs.make(case, jnp.bfloat16)
    (out, lse), vjp = jax.vjp(attend, *x[:3])
    found = jax.jit(jax.jacrev(lambda *qkv: attend(*qkv)[0], argnums=(0, 1, 2)))(*x[:3])
    for place in ((0, 0, 0, 0), (1, 2, 1, 7), (0, 1, 1, 3)):
        one = jnp.zeros_like(out).at[place].set(1)
        programs.assert_close(
            [jacobian[place] for jacobian in found], vjp((one, jnp.zeros_like(lse)))
        )


@pytest.mark.parametrize("head_dims", [(16, 16), (72, 40)], ids=str)
def test_numerical_derivatives(arch, head_dims):
    """Central differences of the kernel's own forward, along random directions.

    Steps are powers of two and the inputs multiples of 1/16, so that bfloat16 holds both ends of a
    step exactly. lse is float32; out is rounded to float16's 11 bits, which the step divides.
    """
    width, value_width = head_dims
    case = inputs.Case(
        name="differences",
        query_length=5,
        key_length=7,
        batch=1,
        head_dim=width,
        head_dim_v=value_width,
    )
    x = inputs.make(case, jnp.float16)
    q, k, v = (jnp.round(a * 16) / 16 for a in x[:3])
    weights = jnp.sign(x.dout.astype(jnp.float32))
    step = 1 / 16

    def value(q, k, v):
        out, lse = attend(q, k, v)
        return (out.astype(jnp.float32) * weights).sum() + (lse * jnp.sign(x.dlse)).sum()

    gradients = jax.grad(value, argnums=(0, 1, 2))(q, k, v)
    for at, (operand, gradient) in enumerate(zip((q, k, v), gradients, strict=True)):
        direction = jax.random.rademacher(jax.random.key(at), operand.shape, operand.dtype)

        def along(t, at=at, direction=direction):
            moved = [q, k, v]
            moved[at] = moved[at] + t * direction
            return float(value(*moved))

        slope = (along(step) - along(-step)) / (2 * step)
        wanted = float((gradient.astype(jnp.float32) * direction.astype(jnp.float32)).sum())
        # Rounding of out: half an ulp each, random in sign; the step's own error is its square.
        rounding = 2**-11 * float(jnp.sqrt(weights.size)) / step
        size = float(jnp.abs(gradient.astype(jnp.float32)).sum())
        assert abs(slope - wanted) <= rounding + step**2 * size, (at, slope, wanted)
        assert size > 20 * (rounding + step**2 * size), "the bound would hold for a wrong gradient"
