"""Every refusal of the FFI handlers, by its words, on a machine without a GPU.

The handlers are registered for the CPU under names of their own. Whatever is wrong with a call is
found before anything of CUDA is touched; a right call gets as far as the missing driver.
"""

import ctypes
import re

import jax
import numpy as np
import pytest
from backward_refusals import BACKWARD_REFUSALS, PREPROCESS_REFUSALS
from bad_calls import (
    BACKWARD,
    BACKWARD_BOUNDED,
    BF16,
    DECODE,
    FORWARD,
    FORWARD_BOUNDED,
    FORWARD_FP8,
    FP16,
    PREFIX,
    PREPROCESS,
    backward,
    backward_bounded,
    decode,
    forward,
    forward_bounded,
    forward_fp8,
    preprocess,
    refused,
)
from bounded_refusals import BACKWARD_BOUNDED_REFUSALS, FORWARD_BOUNDED_REFUSALS
from decode_refusals import DECODE_REFUSALS
from forward_refusals import FORWARD_REFUSALS, FP8_REFUSALS

from jax_fa4 import _ext


@pytest.fixture(scope="module", autouse=True)
def handlers():
    for name, stages in _ext.registrations().items():
        jax.ffi.register_ffi_target(PREFIX + name, stages, platform="cpu")


@pytest.mark.parametrize("case", FORWARD_REFUSALS)
def test_forward_refuses(case):
    arguments, words = FORWARD_REFUSALS[case]
    message = refused(re.escape(words), forward, **arguments)
    assert message.startswith(f"INVALID_ARGUMENT: {FORWARD}: ")


@pytest.mark.parametrize("case", FP8_REFUSALS)
def test_forward_of_8_bits_refuses(case):
    arguments, words = FP8_REFUSALS[case]
    message = refused(re.escape(words), forward_fp8, **arguments)
    assert message.startswith(f"INVALID_ARGUMENT: {FORWARD_FP8}: ")


@pytest.mark.parametrize("case", DECODE_REFUSALS)
def test_decode_refuses(case):
    arguments, words = DECODE_REFUSALS[case]
    message = refused(re.escape(words), decode, **arguments)
    assert message.startswith(f"INVALID_ARGUMENT: {DECODE}: ")


@pytest.mark.parametrize("case", FORWARD_BOUNDED_REFUSALS)
def test_bounded_forward_refuses(case):
    arguments, words = FORWARD_BOUNDED_REFUSALS[case]
    message = refused(re.escape(words), forward_bounded, **arguments)
    assert message.startswith(f"INVALID_ARGUMENT: {FORWARD_BOUNDED}: ")


@pytest.mark.parametrize("case", BACKWARD_BOUNDED_REFUSALS)
def test_bounded_backward_refuses(case):
    arguments, words = BACKWARD_BOUNDED_REFUSALS[case]
    message = refused(re.escape(words), backward_bounded, **arguments)
    assert message.startswith(f"INVALID_ARGUMENT: {BACKWARD_BOUNDED}: ")


@pytest.mark.parametrize("case", BACKWARD_REFUSALS)
def test_backward_refuses(case):
    arguments, words = BACKWARD_REFUSALS[case]
    message = refused(re.escape(words), backward, **arguments)
    assert message.startswith(f"INVALID_ARGUMENT: {BACKWARD}: ")


@pytest.mark.parametrize("case", PREPROCESS_REFUSALS)
def test_preprocess_refuses(case):
    arguments, words = PREPROCESS_REFUSALS[case]
    message = refused(re.escape(words), preprocess, **arguments)
    assert message.startswith(f"INVALID_ARGUMENT: {PREPROCESS}: ")


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        (dict(softmax_scale=1.0), "expected F32 but got F64"),
        (dict(band_lower=0), "expected S32 but got S64"),
        (dict(extra=np.int32(1)), "Wrong number of attributes: expected 4 but got 5"),
    ],
)
def test_attributes_are_typed(attributes, words):
    refused(words, forward, **attributes)


@pytest.mark.parametrize("function", [forward_bounded, backward_bounded])
def test_attributes_of_bounded_calls_are_typed(function):
    refused("expected F32 but got S32", function, softcap=np.int32(0))


def has_driver():
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(has_driver(), reason="speaks of a machine without a CUDA driver")
@pytest.mark.parametrize(
    ("function", "target"),
    [
        (forward, FORWARD),
        (forward_fp8, FORWARD_FP8),
        (forward_bounded, FORWARD_BOUNDED),
        (backward, BACKWARD),
        (backward_bounded, BACKWARD_BOUNDED),
        (preprocess, PREPROCESS),
        (decode, DECODE),
    ],
)
def test_a_right_call_gets_as_far_as_the_driver(function, target):
    message = refused("no CUDA driver: libcuda.so.1", function)
    assert message.startswith(f"FAILED_PRECONDITION: {target}: ")


@pytest.mark.skipif(has_driver(), reason="speaks of a machine without a CUDA driver")
@pytest.mark.parametrize(
    "arguments",
    [
        dict(q=((1, 1, 1, 8), BF16)),
        dict(q=((2, 8, 4, 64), BF16), k=((2, 5, 2, 64), BF16)),
        dict(q=((2, 8, 4, 256), FP16), variants="fwd_sm90_fp16_d256"),
        dict(band_lower=np.int32(-5), band_upper=np.int32(-5)),
    ],
)
def test_what_the_kernels_take_is_not_refused(arguments):
    refused("no CUDA driver", forward, **arguments)
