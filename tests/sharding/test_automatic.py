"""Under jit on a mesh the compiler spreads a call over the devices, whatever it is handed.

jax #38551, marin #6470 (computed whole on every device), sglang-jax #200 (more devices than key
heads), jax #25986 (a replicated cotangent); partition callbacks that trust their shardings.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import (
    AUTO,
    BY_NAME,
    PROBLEMS,
    call,
    check,
    collectives,
    custom_calls,
    gradients,
    make,
    mesh,
    place,
    spec,
)

import jax_fa4
from jax_fa4.ops.layout import Layout


@pytest.mark.parametrize("laid", PROBLEMS, ids=lambda laid: laid.name)
def test_results_and_gradients(laid, implementation):
    devices = mesh(AUTO)
    x = make(laid)
    placed = place(devices, laid, x)
    compiled = jax.jit(gradients(call(laid.case, implementation))).lower(placed).compile()
    found = compiled(placed)
    check(found, laid.case, x)
    if implementation == "xla" or laid.gathers:
        return
    traffic = collectives(compiled)
    assert set(traffic) <= {"all-reduce"}
    assert traffic.get("all-reduce", 0) <= 2 * laid.sums
    out, _, dq, dk, dv = found
    assert spec(out) == spec(placed.dout)
    for gradient, primal in zip((dq, dk, dv), placed[:3], strict=True):
        assert all(b in (None, a) for a, b in zip(spec(gradient), spec(primal), strict=True))


@pytest.mark.parametrize(
    ("name", "part"), [("batch-and-heads", "[1,40,4,64]"), ("batch", "[4,40,2,64]")]
)
@pytest.mark.parametrize("arch", ["sm90", "sm100"])
@pytest.mark.usefixtures("emulated")
def test_a_device_computes_its_part_alone(name, part, arch):
    laid = BY_NAME[name]
    x = make(laid)
    placed = place(mesh(AUTO), laid, x)
    with jax_fa4.emulator.options(arch=arch):
        compiled = jax.jit(gradients(call(laid.case, "emulator"))).lower(placed).compile()
    check(compiled(placed), laid.case, x)
    assert custom_calls(compiled) == [("fwd", f"bf16{part}"), ("bwd", f"bf16{part}")]


def test_a_naive_partition_is_wrong(monkeypatch, emulated):
    """Without what `layout` does the tests above fail: keys by rows, and shared key heads."""
    naive = {"keys-by-rows": "_own_rows", "causal-rows": "_own_rows", "multi-query": "_sum"}
    for name, method in naive.items():
        laid = BY_NAME[name]
        x = make(laid)
        with monkeypatch.context() as patch:
            if name == "keys-by-rows":
                patch.setattr(Layout, "spec", keeping_rows(Layout.spec))
            elif method == "_sum":
                patch.setattr(Layout, "_sum", lambda self, x, dims: x)
            else:
                whole = lambda self, compute, band, parts: compute(band, *parts)  # noqa: E731
                patch.setattr(Layout, "_own_rows", whole)
            found = jax.jit(gradients(call(laid.case, emulated)))(place(mesh(AUTO), laid, x))
        with pytest.raises(AssertionError, match="error"):
            check(found, laid.case, x)


def keeping_rows(spec):
    """Layout.spec that leaves rows of keys as they came."""
    return lambda self, dims: P("x", "y") if "s" in dims else spec(self, dims)


def test_a_replicated_cotangent(emulated):
    """jax #25986."""
    laid = BY_NAME["batch-and-heads"]
    x = make(laid)
    devices = mesh(AUTO)
    whole = [jax.device_put(a, NamedSharding(devices, P())) for a in x[3:]]
    placed = place(devices, laid, x)._replace(dout=whole[0], dlse=whole[1])
    found = jax.jit(gradients(call(laid.case, emulated)))(placed)
    check(found, laid.case, x)
    assert spec(found[2]) == spec(placed.q)


def test_results_as_the_caller_constrains_them(emulated):
    laid = BY_NAME["heads"]
    x = make(laid)
    wanted = NamedSharding(mesh(AUTO), P("x"))
    attend = call(laid.case, emulated)

    def constrained(q, k, v):
        out, lse = attend(q, k, v)
        return jax.lax.with_sharding_constraint(out, wanted), lse

    found = jax.jit(gradients(constrained))(place(wanted.mesh, laid, x))
    check(found, laid.case, x)


def test_uneven_parts(emulated):
    """Three of batch over two devices, five heads: nothing divides, all is whole everywhere."""
    laid = BY_NAME["batch"]
    case = type(laid.case)(
        name="uneven", query_length=33, key_length=35, batch=3, heads=5, heads_kv=5
    )
    attend = call(case, emulated)
    devices = mesh(AUTO)
    x = make(type(laid)(case, P(), P()))

    def constrained(q, k, v):
        spread = NamedSharding(devices, P(None, None, None, "x"))
        return attend(*(jax.lax.with_sharding_constraint(a, spread) for a in (q, k, v)))

    check(jax.jit(gradients(constrained))(x), case, x)


def test_eager_calls(emulated):
    """Without jit around it, each call is a program of its own."""
    laid = BY_NAME["batch-and-heads"]
    x = make(laid)
    placed = place(mesh(AUTO), laid, x)
    found = gradients(call(laid.case, emulated))(placed)
    check(found, laid.case, x)
    assert spec(found[0]) == spec(placed.q)


def test_float32_on_the_portable_path():
    laid = BY_NAME["batch-and-heads"]
    x = make(laid, jnp.float32)
    check(jax.jit(gradients(call(laid.case, None)))(place(mesh(AUTO), laid, x)), laid.case, x)
