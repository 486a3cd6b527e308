"""What the emulator's bounded handlers run and refuse, called without our Python in front."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_fa4 import ffi
from jax_fa4.emulator import Settings, load
from jax_fa4.ops.band import FULL
from jax_fa4.ops.bound_tables import bound_tables
from jax_fa4.ops.key_bounds import KeyBounds

SHAPE, ROWS = (2, 8, 4, 64), (2, 4, 8)
SCALARS = {"softmax_scale": np.float32(1.0), "softcap": np.float32(0.0)}
KERNELS = {way: f"{way}_sm90_bf16_d64_bounded" for way in ("fwd", "bwd")}
SCRATCH = [
    ((2, 4, 128), jnp.float32),
    ((2, 4, 128), jnp.float32),
    ((2, 4, 128, 64), jnp.float32),
    ((2, 4, 2), jnp.int32),
]


@pytest.fixture(scope="module", autouse=True)
def handlers():
    ffi.register_emulator()
    for name in (*KERNELS.values(), "bwd_preprocess_sm90_bf16", "bwd_postprocess_sm90_bf16"):
        load(name)


def tables():
    """Everything is seen, but by the last two rows, which are of another segment."""
    ids = jnp.broadcast_to(jnp.arange(8) // 6, (2, 8)).astype(jnp.int32)
    bounds = KeyBounds.of_band(FULL, 2, 8, 8)
    return bound_tables(*bounds._replace(query_ids=ids))


def call(target, arguments, results, attributes):
    types = [jax.ShapeDtypeStruct(*result) for result in results]
    with jax.default_device(jax.devices("cpu")[0]):
        function = jax.jit(lambda *a: jax.ffi.ffi_call(target, types)(*a, **attributes))
        return jax.block_until_ready(function(*arguments))


def attributes_of(way, changes, missing=None):
    right = {"variants": KERNELS[way], **SCALARS, **Settings().attributes(), **changes}
    return {name: x for name, x in right.items() if name != missing}


def forward(missing=None, **changes):
    """Of ones."""
    ones = jnp.ones(SHAPE, jnp.bfloat16)
    sinks = jnp.full(4, -jnp.inf, jnp.float32)
    arguments = [ones, ones, ones, *tables().of_forward(), sinks]
    results = [(SHAPE, jnp.bfloat16), (ROWS, jnp.float32)]
    attributes = attributes_of("fwd", changes, missing)
    return call(ffi.EMULATED_FORWARD_BOUNDED_TARGET, arguments, results, attributes)


def backward(missing=None, **changes):
    """Of ones, with lse 64, so that P = 1 each, and dP - delta = 64 - 64 + 1."""
    ones, rows = jnp.ones(SHAPE, jnp.bfloat16), jnp.ones(ROWS, jnp.float32)
    lse = 64 * rows.at[..., 6:].set(-jnp.inf)
    arguments = [*[ones] * 5, lse, rows, *tables()]
    results = [(SHAPE, jnp.bfloat16)] * 3 + SCRATCH
    attributes = attributes_of("bwd", changes, missing)
    return call(ffi.EMULATED_BACKWARD_BOUNDED_TARGET, arguments, results, attributes)


def test_right_calls_run():
    out, lse = forward()
    assert (out[:, :6] == 1).all()
    assert not out[:, 6:].any()
    np.testing.assert_allclose(np.asarray(lse[..., :6]), 64 + np.log(8), rtol=1e-6)
    assert np.isneginf(lse[..., 6:]).all()
    dq, dk, dv, *_ = backward()
    assert (dq[:, :6] == 8).all()
    assert not dq[:, 6:].any()
    assert (dk == 6).all()
    assert (dv == 6).all()


@pytest.mark.parametrize("function", [forward, backward])
@pytest.mark.parametrize(
    "missing", ["seed", "completion", "exact", "variants", "softmax_scale", "softcap"]
)
def test_missing_attributes_are_named(function, missing):
    with pytest.raises(jax.errors.JaxRuntimeError, match=missing):
        function(missing)


@pytest.mark.parametrize(("function", "way"), [(forward, "fwd"), (backward, "bwd")])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"softcap": np.float32(2)}, "softcap 2: variant {} caps no scores, and needs 0"),
        ({"softcap": np.float32(np.inf)}, "softcap inf: must be finite"),
        ({"softmax_scale": np.float32(0)}, "softmax_scale 0: must be finite and greater than 0"),
        ({"level": "sass"}, 'level "sass": must be ptx or hardware'),
        ({"variants": "no_such_kernel"}, "variant no_such_kernel is not in this build"),
    ],
)
def test_bad_attributes_are_refused(function, way, changes, words):
    wanted = re.escape(words.format(KERNELS[way]))
    with pytest.raises(jax.errors.JaxRuntimeError, match=wanted) as caught:
        function(**changes)
    assert str(caught.value).startswith(f"INVALID_ARGUMENT: jax_fa4_{way}_bounded_v1: ")
