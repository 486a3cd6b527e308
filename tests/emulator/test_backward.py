"""The shipped backward kernels, emulated, against the definition in float64.

The emulator fills what a kernel is to write with NaN first, so that scratch and gradients that
hold anything else were written.
"""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import CASES, emulated

import jax_fa4
from jax_fa4.emulator import one_kernel
from jax_fa4.ffi.backward import Operands
from jax_fa4.ops import reference
from jax_fa4.testing import expected, inputs, programs, tolerances
from jax_fa4.variants import BACKWARD_HEAD_DIMS, select_sm90

# (head dim, of values, queries, keys): halves that are no multiples of 32, either the wider.
DIMS = (
    (128, 96, 130, 140),
    (96, 128, 65, 129),
    (120, 24, 63, 65),
    (24, 120, 65, 66),
    (72, 40, 70, 90),
    (40, 72, 90, 70),
    (104, 88, 9, 140),
    (88, 8, 80, 80),
    (200, 256, 70, 190),
    (136, 24, 70, 190),
    (184, 120, 129, 65),
)
# Beside the shared list: what other people's backward kernels got wrong.
FURTHER = {
    case.name: case
    for case in (
        *(
            inputs.Case(
                name=f"dims-{d}-{d_v}", query_length=sq, key_length=sk, head_dim=d, head_dim_v=d_v
            )
            for d, d_v, sq, sk in DIMS
        ),
        inputs.Case(
            name="dims-256-136-grouped",
            query_length=129,
            key_length=65,
            head_dim=256,
            head_dim_v=136,
            heads=4,
            heads_kv=2,
            causal=True,
        ),
        inputs.Case(
            name="dims-192-128-grouped",
            query_length=200,
            key_length=300,
            head_dim=192,
            head_dim_v=128,
            heads=4,
            heads_kv=2,
            window=(150, 20),
        ),
        inputs.Case(name="groups-of-8", query_length=40, key_length=70, heads=8, heads_kv=1),
        inputs.Case(name="groups-of-3", query_length=129, key_length=64, heads=6, heads_kv=2),
        inputs.Case(name="one-query", query_length=1, key_length=300, heads=4, heads_kv=2),
        inputs.Case(name="keys-unseen", query_length=40, key_length=200, window=(10, 10)),
        inputs.Case(
            name="top-left-unseen-keys",
            query_length=100,
            key_length=300,
            causal=True,
            alignment="top_left",
        ),
    )
}
PROBLEMS = CASES | FURTHER
NAMES = (
    *FURTHER,
    "one-by-one",
    "square",
    "ragged",
    "ragged-causal",
    "ragged-top-left",
    "rows-without-keys",
    "one-key",
    "window",
    "window-left",
    "window-right",
    "window-causal",
    "window-diagonal",
    "window-past-the-keys",
    "grouped",
    "multi-query",
    "head-dim-8",
    "head-dim-40",
    "head-dim-63",
    "head-dim-72",
    "head-dim-96",
    "head-dim-128",
    "head-dim-256",
    "values-128-64",
    "values-64-128",
    "values-96-40",
    "values-192-128",
    "values-21-3",
    "scale",
    "growing",
    "growing-128",
    "growing-192-128",
)


@pytest.fixture(scope="module", autouse=True)
def no_serial_form():
    """Short lengths and few heads are the serial form's on Hopper, which has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(select_sm90, "serial_speed", lambda head_dim, call: 0.0)
        jax.clear_caches()  # of calls that other tests traced, with their choice
        yield
    jax.clear_caches()


@pytest.fixture(params=[arch.value for arch in BACKWARD_HEAD_DIMS])
def arch(request):
    with jax_fa4.emulator.options(arch=request.param):
        yield request.param


def by_kernel(case):
    """The emulated call of a case whose gradient is a kernel, or a failure."""
    call = emulated(case)
    shape = (case.batch, 8, case.heads, case.head_dim)
    q = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    k = jax.ShapeDtypeStruct((*shape[:2], case.heads_kv, case.head_dim), jnp.bfloat16)
    v = jax.ShapeDtypeStruct((*k.shape[:3], case.head_dim_v), jnp.bfloat16)
    words = jax_fa4.explain(q, k, v, implementation="emulator")
    assert "gradient: kernel bwd_" in words, words
    return call


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_definition(name, arch):
    case = replace(PROBLEMS[name], batch=1)
    dtype = jnp.float16 if NAMES.index(name) % 3 == 1 else jnp.bfloat16
    x = inputs.make(case, dtype)
    actual = expected.results(by_kernel(case), x, gradients=True)
    tolerances.check(actual, *expected.both(x, case, gradients=True))


@pytest.mark.parametrize(
    "name",
    [
        "ragged-causal",
        "grouped",
        "dims-128-96",
        "dims-256-136-grouped",
        "dims-192-128-grouped",
        "window",
    ],
)
@pytest.mark.parametrize("level", ["ptx", "hardware"])
def test_any_order_of_events(name, level, arch):
    """dk and dv keep their bits whatever the order; dq is a sum in a varying one."""
    case = replace(PROBLEMS[name], batch=2)
    x = inputs.make(case, jnp.bfloat16)
    bounds = expected.both(x, case, gradients=True)
    first = None
    for seed, completion in enumerate(("earliest", "latest", "random", "random")):
        sm_count = (132, 3)[seed % 2]
        with jax_fa4.emulator.options(
            seed=seed, completion=completion, level=level, sm_count=sm_count
        ):
            found = expected.results(by_kernel(case), x, gradients=True)
        tolerances.check(found, *bounds)
        first = first or found
        for gradient in ("dk", "dv"):
            np.testing.assert_array_equal(found[gradient], first[gradient])


@pytest.mark.parametrize("name", ["ragged-causal", "grouped", "dims-128-96", "window"])
def test_deterministic_gradients_have_the_same_bits(name, arch):
    """In every order of events."""
    case = replace(PROBLEMS[name], batch=2)
    x = inputs.make(case, jnp.bfloat16)
    words = jax_fa4.explain(*x[:3], deterministic=True, implementation="emulator")
    assert "gradient: kernel" in words
    first = None
    for seed, completion in enumerate(("earliest", "latest", "random", "random")):
        with jax_fa4.emulator.options(
            seed=seed, completion=completion, sm_count=(132, 3)[seed % 2]
        ):
            call = functools.partial(emulated(case), deterministic=True)
            found = expected.results(call, x, gradients=True)
        first = first or found
        for gradient in ("dq", "dk", "dv"):
            np.testing.assert_array_equal(found[gradient], first[gradient])
    tolerances.check(first, *expected.both(x, case, gradients=True))


def test_the_check_can_fail(arch):
    """One element of one gradient, off by less than a hundredth of the largest."""
    case = replace(CASES["ragged-causal"], batch=1)
    x = inputs.make(case, jnp.bfloat16)
    found = expected.results(by_kernel(case), x, gradients=True)
    for name in ("dq", "dk", "dv"):
        wrong = {n: np.array(a, np.float32) for n, a in found.items()}
        place = np.unravel_index(np.argmin(np.abs(wrong[name])), wrong[name].shape)
        wrong[name][place] += 0.02 * np.abs(wrong[name]).max()
        wrong = {n: a.astype(found[n].dtype) for n, a in wrong.items()}
        with pytest.raises(AssertionError, match=f"{name}: error"):
            tolerances.check(wrong, *expected.both(x, case, gradients=True))


def test_infinite_cotangents_of_rows_without_keys(arch):
    """d(lse ** 2) is -inf where lse is: nothing of it may reach a gradient."""
    case = replace(CASES["rows-without-keys"], batch=1)
    x = inputs.make(case, jnp.bfloat16)
    unseen = case.query_length - case.key_length
    x = x._replace(dlse=x.dlse.at[:, :, :unseen].set(-jnp.inf))
    actual = expected.results(by_kernel(case), x, gradients=True)
    finite = x._replace(dlse=x.dlse.at[:, :, :unseen].set(0))
    assert not actual["dq"][:, :unseen].any()
    tolerances.check(actual, *expected.both(finite, case, gradients=True))


@pytest.mark.parametrize("name", ["ragged-causal", "multi-query", "one-key", "decode"])
def test_scratch_is_what_its_shapes_say(name, arch):
    """Padding rows are 0 and +inf, and every element of dq's sums is a number."""
    case = replace(CASES[name], batch=1)
    x = inputs.make(case, jnp.bfloat16)
    out, lse = reference.attention(*x[:3], softmax_scale=case.scale, band=case.band)
    kernel = f"bwd_{arch}_bf16_d64"
    operands = Operands(*x[:3], out, x.dout, lse, x.dlse)
    _, scratch = one_kernel.backward(kernel, operands, softmax_scale=case.scale, band=case.band)
    rows, tile = case.query_length, {"sm90": 64, "sm100": 128}[arch]
    end = -(-rows // tile) * tile  # past the last tile nobody reads
    assert (np.asarray(scratch.delta)[..., rows:end] == 0).all()
    assert (np.asarray(scratch.lse_log2)[..., rows:end] == np.inf).all()
    np.testing.assert_allclose(
        np.asarray(scratch.lse_log2)[..., :rows], np.asarray(lse) * np.log2(np.e), rtol=1e-6
    )
    assert np.isfinite(np.asarray(scratch.dq_accum)[:, :, :end]).all()


@pytest.mark.parametrize(
    "in_axes", [(0, 0, 0), (0, None, None), (None, 0, 0), (1, 0, None)], ids=str
)
def test_vmap_of_batches(in_axes, arch):
    """Three mapped calls of batch 2: the order of the folded axes shows."""
    case = replace(CASES["grouped"], batch=6)
    arrays = [x.reshape(3, 2, *x.shape[1:]) for x in inputs.make(case, jnp.bfloat16)[:3]]
    arrays = [
        a[0] if axis is None else jnp.moveaxis(a, 0, axis)
        for a, axis in zip(arrays, in_axes, strict=True)
    ]
    gradient = programs.ramp_gradient(by_kernel(case))
    found = jax.jit(jax.vmap(gradient, in_axes))(*arrays)
    for i in range(3):
        one = [
            a if axis is None else jnp.take(a, i, axis)
            for a, axis in zip(arrays, in_axes, strict=True)
        ]
        programs.assert_close([x[i] for x in found], gradient(*one))


def test_scan_and_remat(arch):
    case = replace(CASES["multi-query"], batch=3)
    arrays = inputs.make(case, jnp.bfloat16)[:3]
    gradient = programs.ramp_gradient(by_kernel(case))

    def step(carry, x):
        step_gradient = programs.ramp_gradient(jax.checkpoint(by_kernel(case)))
        return carry, step_gradient(*(a[None] for a in x))

    _, found = jax.jit(lambda *xs: jax.lax.scan(step, 0, xs))(*arrays)
    for i in range(3):
        programs.assert_close([x[i] for x in found], gradient(*(a[i : i + 1] for a in arrays)))


@pytest.mark.parametrize("name", ["head-dim-256", "dims-192-128-grouped", "dims-256-136-grouped"])
def test_wide_heads_take_turns(name):
    """Pairs of CTAs, in the order of their numbers: none waits for a later one."""
    case = replace(PROBLEMS[name], batch=1)
    x = inputs.make(case, jnp.bfloat16)
    with jax_fa4.emulator.options(arch="sm90"):
        words = jax_fa4.explain(*x[:3], deterministic=True, implementation="emulator")
        assert "_pair_deterministic" in words
        call = functools.partial(emulated(case), deterministic=True)
        actual = expected.results(call, x, gradients=True)
    tolerances.check(actual, *expected.both(x, case, gradients=True))
