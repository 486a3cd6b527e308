"""What is kept for the gradient, and how often the kernels run under jax.checkpoint, counted."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.ad_checkpoint import print_saved_residuals

import jax_fa4
from jax_fa4.testing.programs import custom_calls

SHAPE = (2, 24, 4, 16)
WIDTH = SHAPE[2] * SHAPE[3]
OUT, LSE = jax_fa4.CHECKPOINT_NAMES
POLICIES = jax.checkpoint_policies
OFFLOAD = POLICIES.save_and_offload_only_these_names(
    names_which_can_be_saved=[],
    names_which_can_be_offloaded=[OUT, LSE],
    offload_src="device",
    offload_dst="pinned_host",
)

pytestmark = pytest.mark.usefixtures("hopper")


def block(x, weights):
    """Projections around attention, as a layer of a model has them."""
    q, k, v = ((x @ w).reshape(*x.shape[:2], *SHAPE[2:]).astype(jnp.bfloat16) for w in weights[:3])
    out = jax_fa4.flash_attention(q, k, v, causal=True)
    return x + out.reshape(x.shape).astype(x.dtype) @ weights[3]


def arguments():
    x = jax.ShapeDtypeStruct((*SHAPE[:2], WIDTH), jnp.float32)
    return x, [jax.ShapeDtypeStruct((WIDTH, WIDTH), jnp.float32)] * 4


def training_step(layer, layers=1):
    """Loss and gradients of a few layers."""

    def loss(x, weights):
        for _ in range(layers):
            x = layer(x, weights)
        return (x**2).sum()

    return jax.value_and_grad(loss, argnums=(0, 1))


@pytest.mark.parametrize(
    ("policy", "forwards"),
    [
        (None, 2),
        (POLICIES.nothing_saveable, 2),
        (POLICIES.everything_saveable, 1),
        (POLICIES.dots_saveable, 2),  # a custom call is no product to jax
        (POLICIES.dots_with_no_batch_dims_saveable, 2),
        (POLICIES.save_only_these_names(OUT, LSE), 1),
        (POLICIES.save_only_these_names(OUT), 2),  # both names, or lse costs a forward
        (POLICIES.save_only_these_names(LSE), 2),
        (POLICIES.save_any_names_but_these(OUT, LSE), 2),
        (POLICIES.save_any_names_but_these("another"), 1),
        (
            POLICIES.save_from_both_policies(
                POLICIES.dots_saveable, POLICIES.save_only_these_names(OUT, LSE)
            ),
            1,
        ),
        (OFFLOAD, 1),
    ],
    ids=[
        "none", "nothing", "everything", "dots", "dots-no-batch", "both-names", "out", "lse",
        "any-but-both", "any-but-another", "dots-and-names", "offload",
    ],
)  # fmt: skip
def test_policies(policy, forwards):
    layer = jax.checkpoint(block, policy=policy)
    assert custom_calls(training_step(layer), *arguments()) == (forwards, 1)
    assert custom_calls(training_step(layer, layers=3), *arguments()) == (3 * forwards, 3)


def test_without_remat_the_forward_runs_once():
    assert custom_calls(training_step(block, layers=3), *arguments()) == (3, 3)


def test_a_scan_over_remat_layers():
    """One body forwards, one backwards, in which the forward runs again unless it was saved."""
    for policy, forwards in ((None, 2), (POLICIES.save_only_these_names(OUT, LSE), 1)):
        layer = jax.checkpoint(block, policy=policy)

        def loss(x, weights, layer=layer):
            return (jax.lax.scan(lambda x, _: (layer(x, weights), None), x, length=5)[0] ** 2).sum()

        assert custom_calls(jax.value_and_grad(loss), *arguments()) == (forwards, 1)


def residuals(capsys, function, *args):
    """(type, origin) of each array that is kept for the gradient."""
    print_saved_residuals(function, *args)
    return [
        tuple(line.split(" from ")[0].split(" ", 1))
        for line in capsys.readouterr().out.splitlines()
    ]


@pytest.mark.parametrize("heads_kv", [4, 2])
def test_residuals_are_the_operands_and_two_results(capsys, heads_kv):
    """Nothing of the size of the scores, nothing in float32 but lse, keys not expanded to heads."""
    q = jnp.zeros(SHAPE, jnp.bfloat16)
    k = jnp.zeros((2, 30, heads_kv, 16), jnp.bfloat16)
    v = jnp.zeros((2, 30, heads_kv, 8), jnp.bfloat16)

    def total(q, k, v):
        out, lse = jax_fa4.flash_attention(q, k, v, return_lse=True)
        return out.astype(jnp.float32).sum() + lse.sum()

    found = residuals(capsys, total, q, k, v)
    types = sorted(kind for kind, *_ in found)
    keys, values = f"bf16[2,30,{heads_kv},16]", f"bf16[2,30,{heads_kv},8]"
    assert types == sorted(["bf16[2,24,4,16]", keys, values, "bf16[2,24,4,8]", "f32[2,4,24]"])
    named = {kind: words[0] for kind, *words in found if words}
    assert f"'{OUT}'" in named["bf16[2,24,4,8]"]
    assert f"'{LSE}'" in named["f32[2,4,24]"]


def test_a_callers_name_is_that_of_both(capsys):
    q = jnp.zeros(SHAPE, jnp.bfloat16)
    call = functools.partial(jax_fa4.flash_attention, checkpoint_name="context")
    found = residuals(capsys, lambda q: call(q, q, q).astype(jnp.float32).sum(), q)
    assert sum("'context'" in " ".join(words) for words in found) == 2
