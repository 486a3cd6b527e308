"""A compiled call: cached for another process, exported, in donated buffers, on many devices."""

import functools
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import (
    AUTO,
    BY_NAME,
    EXPLICIT,
    call,
    check,
    collectives,
    gradients,
    make,
    mesh,
    place,
    spec,
)

import jax_fa4
from jax_fa4.ffi import BACKWARD_TARGET, FORWARD_TARGET

CACHED = Path(__file__).parent / "cached_call.py"


@pytest.mark.parametrize("kind", ["one", "Auto", "Explicit"])
@pytest.mark.usefixtures("emulated")
def test_another_process_finds_the_compiled_call(kind, tmp_path):
    """jax #21159. With another scale it is another call, though all else is the same."""

    def run(scale):
        command = [sys.executable, str(CACHED), str(tmp_path), kind, str(scale)]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        hits, number = result.stdout.split()
        return int(hits), float(number)

    first, second, other = run(1.0), run(1.0), run(0.001)
    assert (first[0], second[0], other[0]) == (0, 1, 0)
    assert first[1] == second[1] != other[1]


@pytest.mark.parametrize("kind", [AUTO, EXPLICIT])
def test_the_program_says_what_is_called(kind, emulated):
    """Scale and band stand in it, so that no cache takes one call for another."""
    devices = mesh(kind, (4,), ("x",))
    x = jax.ShapeDtypeStruct((4, 24, 2, 64), jnp.bfloat16, sharding=NamedSharding(devices, P("x")))

    def text(**options):
        run = jax.jit(
            lambda x: jax_fa4.flash_attention(x, x, x, implementation=emulated, **options)
        )
        lines = run.lower(x).as_text().splitlines()
        return [line.split("backend_config")[0] if "SPMD" in line else line for line in lines]

    texts = [text(), text(softmax_scale=0.5), text(causal=True), text(window_size=(4, None))]
    assert text() == texts[0]
    assert len({"\n".join(t) for t in texts}) == 4


def training(implementation):
    def loss(*qkv):
        out = jax_fa4.flash_attention(*qkv, causal=True, implementation=implementation)
        return (out.astype(jnp.float32) ** 2).sum()

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))


@pytest.mark.parametrize("devices", [1, 4])
def test_export_for_several_devices(devices, emulated):
    """The emulated calls, exported, read back and run."""
    laid = BY_NAME["batch"]
    x = jax.device_put(make(laid)[:3], NamedSharding(mesh(EXPLICIT, (devices,), ("x",)), P("x")))
    program = training(emulated)
    exported = jax.export.export(program, disabled_checks=jax_fa4.EXPORT_DISABLED_CHECKS)(*x)
    assert exported.nr_devices == devices
    read = jax.export.deserialize(exported.serialize())
    for a, b in zip(
        jax.tree.leaves(jax.jit(read.call)(*x)), jax.tree.leaves(program(*x)), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.usefixtures("no_gpu")
def test_export_for_gpus_from_a_machine_without():
    laid = BY_NAME["batch"]
    sharding = NamedSharding(mesh(EXPLICIT, (4,), ("x",)), P("x"))
    x = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding) for a in make(laid)[:3]]
    options = {"platforms": ("cuda",), "disabled_checks": jax_fa4.EXPORT_DISABLED_CHECKS}
    exported = jax.export.export(training(None), **options)(*x)
    assert exported.nr_devices == 4
    for target in (FORWARD_TARGET, BACKWARD_TARGET):
        assert f"custom_call @{target}(" in exported.mlir_module()


@pytest.mark.parametrize("kind", [AUTO, EXPLICIT])
def test_donated_buffers(kind, emulated):
    laid = BY_NAME["batch-and-heads"]
    devices = mesh(kind)
    q, k, v = place(devices, laid, make(laid))[:3]

    def step(q, k, v):
        _, gradients = training(emulated)(q, k, v)
        return tuple(
            a - (g / 64).astype(a.dtype) for a, g in zip((q, k, v), gradients, strict=True)
        )

    kept, donated = jax.jit(step), jax.jit(step, donate_argnums=(0, 1, 2))
    copies = jax.tree.map(jnp.array, (q, k, v))
    wanted, found = kept(*kept(q, k, v)), donated(*donated(*copies))
    assert all(a.is_deleted() for a in copies)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(
            np.asarray(a, np.float32), np.asarray(b, np.float32), atol=2.0**-8 * 4
        )


SAVED = jax.checkpoint_policies.save_only_these_names(*jax_fa4.CHECKPOINT_NAMES)


@pytest.mark.parametrize("policy", [None, SAVED], ids=["saves-nothing", "saves-names"])
@pytest.mark.parametrize("kind", [AUTO, EXPLICIT], ids=["auto", "explicit"])
def test_remat_of_layers_in_a_scan(kind, policy, implementation):
    laid = BY_NAME["grouped"]
    x = make(laid)
    q, k, v = place(mesh(kind), laid, x)[:3]

    def model(q, k, v):
        @functools.partial(jax.checkpoint, policy=policy)
        def layer(x, _):
            return jax_fa4.flash_attention(x, k, v, implementation=implementation), None

        return jax.lax.scan(layer, q, None, length=3)[0].astype(jnp.float32).sum()

    run = jax.grad(model, argnums=(0, 1, 2))
    compiled = jax.jit(run).lower(q, k, v).compile()
    for a, b, primal in zip(compiled(q, k, v), run(*x[:3]), (q, k, v), strict=True):
        assert spec(a) == spec(primal)
        assert jnp.abs(jax.device_get(a) - b).max() <= 2**-5 * jnp.abs(b).max()
    if implementation != "xla":
        assert not collectives(compiled)


def test_threads_and_devices(implementation):
    """Each thread compiles and runs on a device of its own, all at once."""
    laid = BY_NAME["grouped"]
    x = make(laid)
    run = gradients(call(laid.case, implementation))
    devices, found = jax.devices()[:4], {}

    def work(index):
        placed = jax.device_put(x, devices[index])
        found[index] = jax.jit(lambda x: run(x))(placed)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(devices))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, device in enumerate(devices):
        assert found[index][0].devices() == {device}
        check(found[index], laid.case, x)
