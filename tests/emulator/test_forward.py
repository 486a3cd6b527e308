"""The shipped kernels, emulated, against the definition in float64."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import CASES, by_name, emulated, forced
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jax_fa4
from jax_fa4.testing import expected, inputs, tolerances
from jax_fa4.variants import Form

NAMES = (
    "one-by-one",
    "ragged",
    "ragged-top-left",
    "rows-without-keys",
    "decode",
    "one-key",
    "window",
    "window-right",
    "grouped",
    "multi-query",
    "head-dim-40",
    "head-dim-63",
    "head-dim-72",
    "head-dim-80",
    "head-dim-88",
    "head-dim-96",
    "head-dim-128",
    "head-dim-256",
    "values-192-128",
    "values-128-64",
    "values-64-128",
    "values-96-40",
    "values-8-256",
    "values-21-3",
    "scale",
    "growing",
    "growing-96",
    "growing-192-128",
    "growing-128",
    "growing-256",
    *(case.name for case in inputs.tagged("packed")),
)


@pytest.fixture(params=["sm90", "sm100", "sm100-splitkeys"])
def arch(request):
    """Each family's kernels, and another form of them."""
    name, _, form = request.param.partition("-")
    with jax_fa4.emulator.options(arch=name), forced(Form(form)):
        yield name


@pytest.mark.parametrize("name", NAMES)
def test_forward_is_the_definition(name, arch):
    case = replace(CASES[name], batch=1)
    dtype = jnp.float16 if NAMES.index(name) % 3 == 1 else jnp.bfloat16
    x = inputs.make(case, dtype)
    tolerances.check(expected.results(emulated(case), x), *expected.both(x, case))


# Pairs of CTAs have tiles of 512 rows; of a problem's last, one CTA or both have none for a tile.
PAIRS = {
    "fwd_sm100_{}_d128_pair": (
        "one-by-one",
        "ragged",
        "ragged-top-left",
        "rows-without-keys",
        "decode",
        "window",
        "window-right",
        "grouped",
        "head-dim-63",
        "head-dim-96",
        "scale",
        "growing-128",
    ),
    "fwd_sm100_{}_d256_pair": (
        "one-by-one",
        "ragged-top-left",
        "rows-without-keys",
        "window",
        "window-right",
        "head-dim-256",
        "growing-256",
        "packed-1-of-20",
        "packed-2-of-6",
        "packed-17-of-8",
        "packed-129-of-4",
        "packed-256",
    ),
}
LENGTHS = ((128, 100), (129, 200), (256, 256), (300, 128), (385, 129), (700, 300))


@pytest.mark.parametrize(
    ("kernel", "name"), [(kernel, name) for kernel, names in PAIRS.items() for name in names]
)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_pairs_are_the_definition(kernel, name, precision):
    case = replace(CASES[name], batch=1)
    x = inputs.make(case, {"bf16": jnp.bfloat16, "fp16": jnp.float16}[precision])
    found = expected.results(by_name(case, kernel.format(precision)), x)
    tolerances.check(found, *expected.both(x, case))


@pytest.mark.parametrize("kernel", PAIRS)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("level", ["ptx", "hardware"])
def test_pairs_take_every_length(kernel, lengths, causal, level):
    rows, keys = lengths
    case = replace(
        CASES["head-dim-128"], batch=1, query_length=rows, key_length=keys, causal=causal
    )
    x = inputs.make(case, jnp.bfloat16)
    bits = set()
    for seed, completion in enumerate(("earliest", "latest", "random")):
        with jax_fa4.emulator.options(seed=seed, completion=completion, level=level, sm_count=3):
            found = expected.results(by_name(case, kernel.format("bf16")), x)
        bits.add(b"".join(value.tobytes() for value in found.values()))
    assert len(bits) == 1
    tolerances.check(found, *expected.both(x, case))


@pytest.mark.parametrize("name", ["ragged-causal", "head-dim-40", "values-96-40"])
def test_gradients_are_those_of_the_definition(name, arch):
    case = CASES[name]
    x = inputs.make(case, jnp.bfloat16)
    actual = expected.results(emulated(case), x, gradients=True)
    tolerances.check(actual, *expected.both(x, case, gradients=True))


@pytest.mark.parametrize("name", ["ragged-causal", "grouped", "head-dim-96", "values-192-128"])
def test_no_order_of_events_changes_a_bit(name, arch):
    case = replace(CASES[name], batch=1)
    q, k, v, *_ = inputs.make(case, jnp.bfloat16)
    results = []
    for completion in ("earliest", "latest", "random"):
        for seed in (0, 1):
            # A new function each time: a compiled one keeps its settings.
            with jax_fa4.emulator.options(completion=completion, seed=seed):
                results.append(jax.jit(emulated(case))(q, k, v))
    for result in results[1:]:
        for found, first in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(np.asarray(found), np.asarray(first))


@pytest.mark.parametrize("sm_count", [1, 3])
@pytest.mark.parametrize("name", ["grouped", "packed-17-of-8", "packed-256"])
def test_few_sms_share_the_same_work(name, sm_count, arch):
    case = replace(CASES[name], causal=False, batch=5)  # tiles that differ are not shared out
    q, k, v, *_ = inputs.make(case, jnp.bfloat16)
    many = emulated(case)(q, k, v)
    with jax_fa4.emulator.options(sm_count=sm_count):
        few = emulated(case)(q, k, v)
    for found, wanted in zip(few, many, strict=True):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))


def test_plain_sums_are_close_too(arch):
    case = CASES["ragged-causal"]
    x = inputs.make(case, jnp.bfloat16)
    with jax_fa4.emulator.options(exact=False):
        tolerances.check(expected.results(emulated(case), x), *expected.both(x, case))


def test_vmap_and_scan(arch):
    case = CASES["grouped"]
    q, k, v, *_ = inputs.make(case, jnp.bfloat16)
    wanted = emulated(case)(q, k, v)
    arguments = tuple(x[:, None] for x in (q, k, v))  # (2, 1, S, H, D)
    mapped = jax.jit(jax.vmap(emulated(case)))(*arguments)
    _, scanned = jax.jit(lambda *xs: jax.lax.scan(lambda c, x: (c, emulated(case)(*x)), 0, xs))(
        *arguments
    )
    for results in (mapped, scanned):
        for found, whole in zip(results, wanted, strict=True):
            np.testing.assert_array_equal(np.asarray(found[:, 0]), np.asarray(whole))


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices("cpu")[:4])


@pytest.mark.parametrize("axis", [0, 2])
def test_sharded_calls_are_the_whole_ones(axis, mesh, arch):
    """Four devices, each with a part of the batch or of the heads: every shard runs the kernel."""
    case = replace(CASES["ragged-causal"], batch=4, heads=4, heads_kv=4)
    x = inputs.make(case, jnp.bfloat16)[:3]
    wanted = emulated(case)(*x)
    out_spec, lse_spec = (
        PartitionSpec(*[None] * axis, "x"),
        PartitionSpec(*[None] * (axis // 2), "x"),
    )
    mapped = jax.shard_map(
        emulated(case), mesh=mesh, in_specs=(out_spec,) * 3, out_specs=(out_spec, lse_spec)
    )
    placed = [jax.device_put(a, NamedSharding(mesh, out_spec)) for a in x]
    for results in (jax.jit(mapped)(*x), jax.jit(emulated(case))(*placed)):
        for found, whole in zip(results, wanted, strict=True):
            assert len(found.sharding.device_set) == 4
            np.testing.assert_array_equal(np.asarray(found), np.asarray(whole))


def _one_by_one(call):
    """A scan over the batch whose steps are rematerialised."""

    def scanned(q, k, v):
        step = jax.checkpoint(lambda _, x: (0, call(*(a[None] for a in x))))
        _, (out, lse) = jax.lax.scan(step, 0, (q, k, v))
        return out[:, 0], lse[:, 0]

    return scanned


def test_gradients_through_shard_map_scan_and_remat(mesh, arch):
    case = replace(CASES["ragged-causal"], batch=8)
    x = inputs.make(case, jnp.bfloat16)
    spec = PartitionSpec("x")
    mapped = jax.shard_map(
        _one_by_one(emulated(case)), mesh=mesh, in_specs=(spec,) * 3, out_specs=(spec, spec)
    )
    actual = expected.results(mapped, x, gradients=True)
    tolerances.check(actual, *expected.both(x, case, gradients=True))


def test_empty_arrays_give_zeros():
    q = jnp.ones((1, 4, 2, 64), jnp.bfloat16)
    none = jnp.ones((1, 0, 2, 64), jnp.bfloat16)
    assert not jax_fa4.flash_attention(q, none, none, implementation="emulator").any()


CORRECTION_WARPS = slice(8, 12)


@pytest.mark.parametrize("name", ["fwd_sm100_bf16_d64", "fwd_sm100_bf16_d128"])
@pytest.mark.parametrize("growth", [1.0, 16.0])
def test_the_output_is_scaled_only_where_maxima_grow(name, growth):
    """Ordinary rows' maxima stay within 2^8 of each other: their output is never written again."""
    case = replace(
        CASES["growing-128"],
        batch=1,
        head_dim=(width := int(name.rpartition("d")[2])),
        head_dim_v=width,
        query_length=256,
        key_length=640,
        growth=growth,
    )
    x = inputs.make(case, jnp.bfloat16)
    with jax_fa4.emulator.record() as recordings:
        expected.results(by_name(case, name), x)
    (recording,) = recordings
    stores = [i.opcode.startswith("tcgen05.st.") for i in recording.instructions]
    scaled = recording.counts[CORRECTION_WARPS, stores]["warps"].sum()
    assert (scaled > 0) == (growth > 1.0)
