"""Keys and values of more than 2^31 elements: the kernels' addresses have 64 bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4.ops.band import Band
from jax_fa4.testing import expected, inputs, tolerances
from jax_fa4.testing.exact import exact

BATCH, HEAD_DIM = 2, 128
LENGTH = 2**23 + 300
SEEN = 300  # keys of each sequence, its last, that are not zero
WINDOW = (150, 0)


def sparse(random):
    """Zeros that no page of memory stands for, but where the last keys are."""
    size = BATCH * LENGTH * HEAD_DIM
    assert size > 2**31
    raw = np.zeros(size + 32, np.float16)
    first = -raw.ctypes.data % 64 // raw.itemsize
    array = raw[first : first + size].reshape(BATCH, LENGTH, 1, HEAD_DIM)
    array[:, -SEEN:] = random.standard_normal((BATCH, SEEN, 1, HEAD_DIM))
    return array


@pytest.mark.parametrize("arch", ["sm90", "sm100"])
def test_past_two_billion_elements(arch):
    random = np.random.default_rng(0)
    q = jnp.asarray(random.standard_normal((BATCH, 70, 1, HEAD_DIM)), jnp.float16)
    k, v = sparse(random), sparse(random)

    @jax.jit
    def call(q, k, v):
        return jax_fa4.flash_attention(
            q, k, v, window_size=WINDOW, return_lse=True, implementation="emulator"
        )

    with jax_fa4.emulator.options(arch=arch):
        out, lse = call(q, jnp.from_dlpack(k), jnp.from_dlpack(v))
    seen = (jnp.asarray(x[:, -SEEN:]) for x in (k, v))
    small = inputs.Inputs(q, *seen, jnp.zeros_like(q), jnp.zeros_like(lse))
    band = Band.make(q.shape[1], SEEN, causal=False, window=WINDOW, alignment="bottom_right")
    rule = {"softmax_scale": HEAD_DIM**-0.5, "band": band}
    found = {"out": np.asarray(out), "lse": np.asarray(lse)}
    tolerances.check(found, exact(small, **rule), expected.plain(small, **rule))
