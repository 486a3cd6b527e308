"""What the emulator's handlers refuse, called as XLA would without our Python in front."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_fa4 import ffi
from jax_fa4.emulator import Settings, load, ptx_of

SHAPE, ROWS = (2, 8, 4, 64), (2, 4, 8)
SCRATCH = [
    ((2, 4, 128), jnp.float32),
    ((2, 4, 128), jnp.float32),
    ((2, 4, 128, 64), jnp.float32),
    ((2, 4, 2), jnp.int32),
]
BAND = {"band_lower": np.int32(-(2**30)), "band_upper": np.int32(2**30)}
SCALARS = {"softmax_scale": np.float32(1.0), **BAND}
FORWARD = {"variants": "fwd_sm90_bf16_d64", **SCALARS, **Settings().attributes()}
BACKWARD = {"variants": "bwd_sm90_bf16_d64", **SCALARS, **Settings().attributes()}
PREPROCESS = {"variants": "bwd_preprocess_sm90_bf16", **Settings().attributes()}


@pytest.fixture(scope="module", autouse=True)
def handlers():
    ffi.register_emulator()
    load("fwd_sm90_bf16_d64")
    load("bwd_preprocess_sm90_bf16")
    load("bwd_sm90_bf16_d64")
    load("bwd_postprocess_sm90_bf16")


def call(target, arguments, results, attributes):
    results = [jax.ShapeDtypeStruct(*result) for result in results]
    arrays = [jnp.ones(*argument) for argument in arguments]
    with jax.default_device(jax.devices("cpu")[0]):
        function = jax.jit(lambda *a: jax.ffi.ffi_call(target, results)(*a, **attributes))
        return jax.block_until_ready(function(*arrays))


def forward(q=(SHAPE, jnp.bfloat16), **attributes):
    results = [(SHAPE, jnp.bfloat16), (ROWS, jnp.float32)]
    return call(ffi.EMULATED_FORWARD_TARGET, [q, q, q], results, attributes)


def preprocess(**attributes):
    arguments = [(SHAPE, jnp.bfloat16)] * 2 + [(ROWS, jnp.float32)] * 2
    return call(ffi.EMULATED_BACKWARD_PREPROCESS_TARGET, arguments, SCRATCH, attributes)


def backward(**attributes):
    arguments = [(SHAPE, jnp.bfloat16)] * 5 + [(ROWS, jnp.float32)] * 2
    results = [(SHAPE, jnp.bfloat16)] * 3 + SCRATCH
    return call(ffi.EMULATED_BACKWARD_TARGET, arguments, results, attributes)


def test_right_calls_run():
    out, lse = forward(**FORWARD)
    assert (out == 1).all()  # the mean of ones
    np.testing.assert_allclose(np.asarray(lse), 64 + np.log(8), rtol=1e-6)
    delta, lse_log2, dq_accum, semaphores = preprocess(**PREPROCESS)
    # Rows 8 to 63 pad the one tile of queries; what lies past it is nobody's.
    assert (delta[..., :8] == 63).all()
    assert (delta[..., 8:64] == 0).all()
    np.testing.assert_allclose(np.asarray(lse_log2[..., :8]), np.log2(np.e), rtol=1e-6)
    assert (lse_log2[..., 8:64] == np.inf).all()
    assert not dq_accum[..., :64, :].any()
    assert not semaphores[..., 0].any()
    # Of ones, with lse 1 and dlse 1: P = e^63 each, and dP - delta = 64 - 63.
    dq, dk, dv, *scratch = backward(**BACKWARD)
    for gradient in (dq, dk, dv):
        np.testing.assert_allclose(np.asarray(gradient, np.float64), 8 * np.exp(63), rtol=0.01)
    assert (scratch[0][..., :64] == delta[..., :64]).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"completion": "soon"}, 'completion "soon": must be earliest, latest or random'),
        ({"sm_count": np.int32(0)}, "sm_count 0: must be at least 1"),
        ({"level": "sass"}, 'level "sass": must be ptx or hardware'),
        ({"special": "h200"}, 'special "h200": must be rounded or h100'),
        ({"variants": "fwd_sm90_fp16_d64"}, "variant fwd_sm90_fp16_d64 does not take q bf16"),
        ({"variants": "no_such_kernel"}, "variant no_such_kernel is not in this build"),
        ({"variants": ""}, 'variants="" names no kernel'),
        ({"softmax_scale": np.float32(0)}, "softmax_scale 0: must be finite and greater than 0"),
        ({"seed": np.int32(1)}, "seed: Wrong scalar data type: expected S64"),
    ],
)
def test_bad_attributes_are_refused(changes, words):
    with pytest.raises(jax.errors.JaxRuntimeError, match=re.escape(words)) as caught:
        forward(**FORWARD | changes)
    assert str(caught.value).startswith("INVALID_ARGUMENT: jax_fa4_fwd_v1: ")


@pytest.mark.parametrize("missing", ["seed", "completion", "exact", "variants"])
def test_missing_attributes_are_named(missing):
    for function, attributes in (
        (forward, FORWARD),
        (backward, BACKWARD),
        (preprocess, PREPROCESS),
    ):
        with pytest.raises(jax.errors.JaxRuntimeError, match=missing):
            function(**{name: x for name, x in attributes.items() if name != missing})


def test_levels_differ_in_what_they_let_pass():
    """Arrivals at a barrier that nobody waits for: the text of the ISA forbids them."""
    name = PREPROCESS["variants"]
    left = re.sub(r"\n\s*ret;", "\n bar.sync 0; bar.arrive 9, 992;\n ret;", ptx_of(name))
    assert left.count("bar.arrive 9") == 1
    ffi.extension().emulator_load(name, left)
    try:
        with pytest.raises(jax.errors.JaxRuntimeError, match="barrier-count: the CTA ends"):
            preprocess(**PREPROCESS | {"level": "ptx"})
        old = {name: x for name, x in PREPROCESS.items() if name != "level"}
        with pytest.raises(jax.errors.JaxRuntimeError, match="barrier-count: the CTA ends"):
            preprocess(**old)  # exported before there were levels
        delta, *_ = preprocess(**PREPROCESS | {"level": "hardware"})
    finally:
        ffi.extension().emulator_load(name, ptx_of(name))
    assert (delta[..., :8] == 63).all()


def test_bad_buffers_are_refused():
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"q fp32\(2, 8, 4, 64\): dtype must be"):
        forward(q=(SHAPE, jnp.float32), **FORWARD)


NOT_LOADED = """
import sys
sys.path.insert(0, {folder!r})
from test_emulated_calls import PREPROCESS, ffi, preprocess
ffi.register_emulator()
preprocess(**PREPROCESS)
"""


def test_a_kernel_that_was_not_loaded_is_named():
    """In a process of its own: here others may have loaded it."""
    script = NOT_LOADED.format(folder=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert done.returncode != 0
    assert re.search("JaxRuntimeError.*bwd_preprocess_sm90_bf16.*has no PTX", done.stderr)
