"""Mistakes that users of other libraries reported, by thread; PEERS.md is the whole list."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_fa4
from jax_fa4.variants import CATALOG, BackwardVariant, ForwardVariant

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = (CHECKOUT / "tests" / "ecosystem" / "PEERS.md").read_text()
TESTS = sorted(set(re.findall(r"tests/[\w/]+\.py::\w+", PAGE)))


def arrays(*shape, dtype=jnp.float32, count=3):
    return [jax.random.normal(jax.random.key(i), shape, dtype) for i in range(count)]


@pytest.mark.parametrize("test", TESTS)
def test_every_test_of_the_page_exists(test):
    file, name = test.split("::")
    tree = ast.parse((CHECKOUT / file).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_no_thread_is_named_twice():
    threads = re.findall(r"[\w/-]+#\d+", PAGE)
    assert len(threads) == len(set(threads)) > 100


@pytest.mark.parametrize("window", [(3, 0), (0, 0), (None, 0)])
def test_a_window_to_the_left_sees_no_future(window):
    """jax#39576: (left, 0) without is_causal. What is later must not change what is earlier."""
    q, k, v = arrays(1, 12, 2, 8)

    def attend(k, v):
        return jax_fa4.dot_product_attention(q, k, v, local_window_size=window)

    later = attend(k.at[:, 6:].set(9.0), v.at[:, 6:].set(-9.0))
    np.testing.assert_array_equal(attend(k, v)[:, :6], later[:, :6])
    assert np.abs(attend(k, v)[:, 6:] - later[:, 6:]).min() > 1e-3


@pytest.mark.parametrize("window", [2, (2, 2), (2, None), (None, 2)])
def test_a_window_needs_no_mask(window):
    """jax#32300, jax#32357: the window alone hides keys, as the same window by a mask does."""
    q, k, v = arrays(1, 12, 2, 8)
    left, right = (window, window) if isinstance(window, int) else window
    offset = np.arange(12)[None, :] - np.arange(12)[:, None]
    mask = (offset >= -(left if left is not None else 99)) & (
        offset <= (12 if right is None else 2)
    )
    found = jax_fa4.dot_product_attention(q, k, v, local_window_size=window)
    wanted = jax.nn.dot_product_attention(q, k, v, mask=jnp.asarray(mask)[None, None])
    np.testing.assert_allclose(found, wanted, atol=2e-6)
    assert np.abs(found - jax_fa4.dot_product_attention(q, k, v)).max() > 1e-2


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_float32_bias_of_half_precision_arrays(dtype):
    """jax#32242: no NaN, in the result or a gradient, where the bias is large or -inf, too."""
    q, k, v = arrays(2, 12, 2, 8, dtype=dtype)
    bias = jnp.zeros((1, 2, 12, 12), jnp.float32).at[..., 5:].set(-1e30).at[..., 9:].set(-jnp.inf)

    def total(q, k, v, bias):
        return jax_fa4.dot_product_attention(q, k, v, bias).astype(jnp.float32).sum()

    values, gradients = jax.value_and_grad(total, argnums=(0, 1, 2, 3))(q, k, v, bias)
    assert all(np.isfinite(np.asarray(x, np.float32)).all() for x in (values, *gradients))
    assert gradients[3].dtype == jnp.float32
    short = jax_fa4.dot_product_attention(q, k[:, :5], v[:, :5])
    np.testing.assert_array_equal(jax_fa4.dot_product_attention(q, k, v, bias), short)


def test_launches_do_not_overlap():
    """FA#2481: no kernel starts before the one ahead of it on the stream has ended."""
    sources = [path.read_text() for path in (CHECKOUT / "jax_fa4" / "kernels").rglob("*.py")]
    assert sources
    assert not [text for text in sources if re.search("griddepcontrol|use_pdl", text)]


@pytest.mark.parametrize("axes", [(0, 0, 0), (0, None, None), (None, 0, 0), (2, 1, 0)])
def test_gradients_under_vmap_keep_their_order(axes):
    """What flash_attn_jax and flash-attn3-jax mix up where the batch has more than one member."""
    shape = (3, 2, 7, 4, 8)  # (mapped, batch, length, heads, head dim)
    found = [
        jnp.moveaxis(x, 0, axis) if axis is not None else x[0]
        for x, axis in zip(arrays(*shape), axes, strict=True)
    ]
    weight = jax.random.normal(jax.random.key(7), shape[1:])

    def loss(q, k, v):
        return (jax_fa4.dot_product_attention(q, k, v, is_causal=True) * weight).sum()

    gradient = jax.grad(loss, argnums=(0, 1, 2))
    together = jax.vmap(gradient, in_axes=axes)(*found)
    for n in range(3):
        one = [
            x if axis is None else jnp.take(x, n, axis) for x, axis in zip(found, axes, strict=True)
        ]
        for wanted, all_of_them in zip(gradient(*one), together, strict=True):
            np.testing.assert_allclose(all_of_them[n], wanted, atol=1e-5)


LOWER = """
import jax, jax.numpy as jnp, jax_fa4
x = jax.ShapeDtypeStruct((2, 8, 2, 64), jnp.bfloat16)
f = lambda q: jax_fa4.dot_product_attention(q, q, q, is_causal=True).astype(jnp.float32).sum()
print(jax.jit(jax.grad(f)).trace(x).lower(lowering_platforms=("cuda",)).as_text())
"""


def test_lowered_programs_are_the_same_in_every_process():
    """jax#35298: text is the key of the compilation cache, so it holds no address and no order."""
    texts = {
        subprocess.run(
            [sys.executable, "-c", LOWER], capture_output=True, text=True, check=True, cwd=CHECKOUT
        ).stdout
        for _ in range(2)
    }
    assert len(texts) == 1
    assert "module" in texts.pop()


def test_float32_runs_and_is_not_cast():
    """jax#23560, jax#24047: float32 is computed as such, on the portable path."""
    q, k, v = arrays(1, 12, 2, 8)
    found = jax_fa4.dot_product_attention(q, k, v)
    with jax.enable_x64():
        wanted = jax.nn.dot_product_attention(*(x.astype(jnp.float64) for x in (q, k, v)))
    assert found.dtype == jnp.float32
    assert np.abs(found - np.asarray(wanted)).max() < np.finfo(np.float32).eps * 8


@pytest.mark.parametrize("arch", ["sm90", "sm100"])
@pytest.mark.parametrize("dims", [(64, 64), (128, 128), (192, 128), (256, 256)])
def test_head_dims_have_kernels_and_gradients(arch, dims):
    """jax#24607, TE#2285, TE#3056, maxtext#1047 and others."""
    for kind in (ForwardVariant, BackwardVariant):
        made = {
            (v.head_dim, v.head_dim_v or v.head_dim)
            for v in CATALOG
            if isinstance(v, kind) and v.arch.value == arch
        }
        assert dims in made, kind


def test_no_private_name_of_jax():
    """keras#21507, keras#21970, keras#21333: what is private moves with each release.

    Of jax.interpreters one file takes what JAX's own guide to primitives does.
    """
    package = CHECKOUT / "jax_fa4"
    texts = {str(path.relative_to(package)): path.read_text() for path in package.rglob("*.py")}
    texts["ops/derivatives.py"], count = re.subn(
        r"^from jax\.interpreters import ad, batching, mlir$",
        "",
        texts["ops/derivatives.py"],
        flags=re.MULTILINE,
    )
    assert count == 1
    pattern = re.compile(r"jax\._src|jaxlib\.xla|jax\.interpreters|from jax import _")
    assert [name for name, text in texts.items() if pattern.search(text)] == []
