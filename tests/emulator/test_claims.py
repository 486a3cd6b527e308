"""Blackwell kernels whose CTAs claim tiles: whoever gets them, the bits are the usual form's."""

import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import CASES, by_name

import jax_fa4
from jax_fa4.testing import expected, inputs, tolerances

ALL, NONE, SOME = 0, 4, (1, 3)  # seeds, by which requests find a tile: see test_threads
HEAD_DIMS = ("d64", "d96", "d128", "d192_v128")
NAMES = {
    "d64": ("ragged-causal", "rows-without-keys", "window", "head-dim-40"),
    "d96": ("ragged-causal", "growing-96", "values-96-40"),
    "d128": ("ragged-causal", "ragged-top-left", "window-right", "grouped", "growing-128"),
    "d192_v128": ("ragged-causal", "growing-192-128"),
}


def bits(case, name, x):
    """out and lse, ready."""
    return [np.asarray(value) for value in jax.block_until_ready(by_name(case, name)(*x[:3]))]


@pytest.mark.parametrize(("dims", "name"), [(d, name) for d in NAMES for name in NAMES[d]])
def test_claims_change_no_bit(dims, name):
    case = replace(CASES[name], batch=3)
    x = inputs.make(case, jnp.bfloat16)
    usual = bits(case, f"fwd_sm100_bf16_{dims}", x)
    for seed in (ALL, NONE, *SOME):
        for completion in ("earliest", "latest", "random"):
            level = "hardware" if completion == "random" and seed == ALL else "ptx"
            with jax_fa4.emulator.options(seed=seed, completion=completion, level=level):
                found = bits(case, f"fwd_sm100_bf16_{dims}_dynamic", x)
            for one, other in zip(found, usual, strict=True):
                np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8))


@pytest.mark.parametrize("dims", HEAD_DIMS)
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_claimed_tiles_are_the_definition(dims, precision):
    case = replace(CASES["ragged-causal"], batch=2, query_length=700, key_length=600)
    x = inputs.make(case, {"bf16": jnp.bfloat16, "fp16": jnp.float16}[precision])
    found = expected.results(by_name(case, f"fwd_sm100_{precision}_{dims}_dynamic"), x)
    tolerances.check(found, *expected.both(x, case))


@pytest.mark.parametrize("causal", [False, True])
def test_ctas_that_run(causal):
    """One for all tiles, or one for each; a full mask's tiles have a CTA each to claim, too."""
    case = replace(
        CASES["head-dim-128"], batch=1, heads=4, query_length=600, key_length=300, causal=causal
    )
    x = inputs.make(case, jnp.bfloat16)
    tiles = 3 * 4
    for seeds, counts in (((ALL,), (1,)), ((NONE,), (tiles,)), (SOME, range(2, tiles))):
        for seed in seeds:
            with (
                jax_fa4.emulator.options(seed=seed, sm_count=2),
                jax_fa4.emulator.record() as recordings,
            ):
                bits(case, "fwd_sm100_bf16_d128_dynamic", x)
            ran = {int(jump["cta"]) for jump in recordings[0].jumps}
            assert len(ran) in counts


# In a process of its own: the emulator keeps the kernel that it was handed.
SCRIPT = """
import re

import jax.numpy as jnp
from jax_fa4 import emulator, ffi
from jax_fa4.emulator import one_kernel
from jax_fa4.ops.band import Band

name = "fwd_sm100_bf16_d64_dynamic"
ffi.register_emulator()
emulator.load(name)
text = emulator.ptx_of(name)
at = text.index("clusterlaunchcontrol.try_cancel")
broken, count = re.subn({lost!r}, {instead!r}, text[at:], count=1)
assert count == 1
ffi.extension().emulator_load(name, text[:at] + broken)
x = jnp.ones((1, 1000, 1, 64), jnp.bfloat16)
band = Band.make(1000, 1000, causal=True, window=(None, None), alignment="bottom_right")
try:
    one_kernel.forward(name, x, x, x, softmax_scale=0.125, band=band)[0].block_until_ready()
except Exception as error:
    print(error)
"""
WAIT = r"mbarrier\.try_wait\.parity[^;]*;"
ALWAYS = "setp.eq.u32 P1, 0, 0;"


@pytest.mark.parametrize(
    ("lost", "instead", "words"),
    [
        (r"fence\.proxy\.async[^;]*;", "", ("race", "missing: fence.proxy.async", "try_cancel")),
        (WAIT, ALWAYS, ("race", "asynchronous write by clusterlaunchcontrol.try_cancel")),
        (f"({WAIT}.*?){WAIT}", rf"\1{ALWAYS}", ("race", "schedule.py:", "roles.py:")),
        (r"@p mbarrier\.arrive[^;]*;", "", ("deadlock",)),
        ("2147483647", "0", ("cluster-launch: try_cancel after one that failed",)),
    ],
    ids=["fence", "answer", "place", "telling", "refusal"],
)
def test_what_is_lost_is_found(lost, instead, words):
    """The fence before the next request; its wait; that for the place; telling; the end."""
    script = SCRIPT.format(lost=f"(?s){lost}", instead=instead)
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        capture_output=True,
        text=True,
        env={"JAX_PLATFORMS": "cpu", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    for word in words:
        assert word in done.stdout
