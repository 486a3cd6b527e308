"""The backward kernels on the GPU within programs: donated buffers, NaN next door."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import pytest

import jax_fa4
from jax_fa4.testing import inputs, programs

pytestmark = pytest.mark.gpu

attend = functools.partial(
    jax_fa4.flash_attention, causal=True, return_lse=True, implementation="fa4"
)


@pytest.mark.parametrize("head_dims", [(64, 64), (128, 128), (192, 128), (256, 256)], ids=str)
@pytest.mark.parametrize("lengths", [(113, 239), (1, 300), (577, 640)], ids=str)
def test_nan_in_neighbours_stays_there(lengths, head_dims):
    """Past a ragged tile's last row lies the next batch element, beside each row another head."""
    case = inputs.Case(
        name="neighbours",
        query_length=lengths[0],
        key_length=lengths[1],
        batch=3,
        heads=4,
        heads_kv=2,
        head_dim=head_dims[0],
        head_dim_v=head_dims[1],
    )
    programs.assert_nan_stays(attend, inputs.make(case, jnp.bfloat16))


def test_training_with_donated_buffers():
    """Each step's arrays lie where the last one's did: nothing may depend on what they held."""
    case = inputs.Case(name="donated", query_length=200, key_length=200, heads=4, heads_kv=2)
    donated, kept = programs.train_twice(attend, inputs.make(case, jnp.bfloat16)[:3], steps=10)
    # dq's last bits vary, and with them every later step.
    programs.assert_close(donated, kept, ulps=4)
