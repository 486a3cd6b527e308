"""What other people's backwards got wrong, asked of every backward kernel that is shipped.

Thread numbers are of Dao-AILab/flash-attention unless another project is named. The rest of the
list is elsewhere: TMEM and barrier hazards are what the emulator checks in every run.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import emulated

import jax_fa4
from jax_fa4.emulator import programs
from jax_fa4.ops import selection
from jax_fa4.testing import expected, inputs, tolerances
from jax_fa4.variants import CATALOG, BackwardVariant, parse

KERNELS = [
    v
    for v in CATALOG
    if isinstance(v, BackwardVariant) and v.dtype.value == "bf16" and not v.bounded
]


class Kernel(NamedTuple):
    """One backward kernel, and calls that take it."""

    variant: BackwardVariant

    def case(self, name, query_length, key_length, **options):
        widths = {"head_dim": self.variant.head_dim, "head_dim_v": self.variant.head_dim_v}
        options = {"batch": 1, **widths, **options}
        return inputs.Case(name=name, query_length=query_length, key_length=key_length, **options)

    def call(self, case):
        call = functools.partial(emulated(case), deterministic=self.variant.deterministic)
        q, k, v = inputs.make(case, jnp.bfloat16)[:3]
        options = {"causal": case.causal, "window_size": case.window}
        options["deterministic"] = self.variant.deterministic
        words = jax_fa4.explain(q, k, v, implementation="emulator", **options)
        assert words.split()[-1] == self.variant.name, words
        return call

    def pull(self, case, x):
        """dq, dk, dv."""
        return jax.vjp(self.call(case), *x[:3])[1]((x.dout, x.dlse))

    def check(self, case):
        x = inputs.make(case, jnp.bfloat16)
        found = expected.results(self.call(case), x, gradients=True)
        tolerances.check(found, *expected.both(x, case, gradients=True))


@pytest.fixture(scope="module", params=KERNELS, ids=lambda variant: variant.name)
def kernel(request):
    """Calls of its head dims take it, whatever their lengths would choose."""
    variant = request.param
    choose = selection.backward_for_call

    def backward_for_call(names, call):
        of_form = tuple(name for name in names if parse(name).form is variant.form)
        return of_form or choose(names, call)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "backward_for_call", backward_for_call)
        jax.clear_caches()  # of calls that other tests traced, with their choice
        with jax_fa4.emulator.options(arch=variant.arch.value):
            yield Kernel(variant)
    jax.clear_caches()


def test_halves_that_are_no_multiples_of_32(kernel):
    """#2552, #2745: dV's columns by the width of dK, (128, 96) and its like; with groups of heads.

    The narrower of the two, and then the other, has 32 or 24 columns less than the kernel.
    """
    width, value_width = kernel.variant.head_dim, kernel.variant.head_dim_v
    kernel.check(kernel.case("values", 70, 130, head_dim_v=value_width - 32, heads=4))
    kernel.check(kernel.case("keys", 70, 130, head_dim=width - 24, heads=4, batch=2, causal=True))


def test_arrays_of_any_layout(kernel):
    """#2545, #2665, #2666, #2670: strides of other layouts; jax #25986: a replicated cotangent."""
    case = kernel.case("layouts", 70, 70, batch=2, causal=True)
    call = kernel.call(case)
    x = inputs.make(case, jnp.bfloat16)
    gradient = jax.grad(lambda *a: call(*a)[0].astype(jnp.float32).sum(), argnums=(0, 1, 2))

    @jax.jit
    def of_heads_first(*transposed):
        found = gradient(*(a.transpose(0, 2, 1, 3) for a in transposed))
        return [g.transpose(0, 2, 1, 3) for g in found]

    @jax.jit
    def of_slices(packed):
        ends = np.cumsum([a.shape[-1] for a in x[:3]])
        return gradient(*jnp.split(packed, ends[:-1], axis=-1))

    wanted = jax.jit(gradient)(*x[:3])
    heads_first = of_heads_first(*(a.transpose(0, 2, 1, 3) for a in x[:3]))
    for found in (
        [a.transpose(0, 2, 1, 3) for a in heads_first],
        of_slices(jnp.concatenate(x[:3], axis=-1)),
    ):
        _same(kernel, found, wanted)


def test_batches_do_not_mix(kernel):
    """TransformerEngine #3216: head dim 256 in batches. NaN in the middle one stays there, and
    equal ones have equal gradients.
    """
    case = kernel.case("batches", 150, 77, batch=3, heads=2, heads_kv=1)
    x = jax.tree.map(lambda a: a.at[2].set(a[0]), inputs.make(case, jnp.bfloat16))
    pull = jax.jit(functools.partial(kernel.pull, case))
    wanted = pull(x)
    found = pull(jax.tree.map(lambda a: a.at[1].set(jnp.nan), x))
    assert all(np.isnan(np.asarray(g[1], np.float32)).any() for g in found)
    for i in (0, 2):
        _same(kernel, [g[i] for g in found], [g[0] for g in wanted])


@pytest.mark.parametrize(
    ("query_length", "key_length", "options"),
    [(300, 700, {"window": (30, 20)}), (650, 130, {"causal": True})],
    ids=["first-keys-unseen", "first-rows-see-nothing"],
)
def test_blocks_without_work(kernel, query_length, key_length, options):
    """#2258, #2280: CTAs and pairs that have nothing to do hang; #2033, #2549, PaddlePaddle #140:
    turns that nobody takes. Zero gradients, every element written, and nobody waits.
    """
    case = kernel.case("no-work", query_length, key_length, heads=2, heads_kv=1, **options)
    with jax_fa4.emulator.options(level="hardware", completion="random", seed=1):
        kernel.check(case)


def test_windows_end_where_they_should(kernel):
    """jax #39576, TransformerEngine #1197, #1212: a key more, a key less, or all later ones."""
    length, row, window = 200, 131, (70, 0)
    case = kernel.case("window", length, length, heads=1, heads_kv=1, window=window)
    x = inputs.make(case, jnp.bfloat16)
    only = jnp.zeros_like(x.dout).at[:, row].set(x.dout[:, row])
    x = x._replace(dout=only, dlse=jnp.zeros_like(x.dlse))
    _, dk, dv = jax.jit(functools.partial(kernel.pull, case))(x)
    for gradient in (dk, dv):
        reached = np.asarray(gradient, np.float32)[0, :, 0].any(axis=-1).nonzero()[0]
        assert (reached.min(), reached.max()) == (row - window[0], row + window[1])


def test_kernels_wait_for_the_ones_before():
    """#2481, #2643, #2756: reads before griddepcontrol.wait. No launch of ours begins early."""
    names = [v.name for v in CATALOG if v.name.startswith("bwd")]
    assert not [name for name in names if "griddepcontrol" in programs.ptx_of(name)]


def _same(kernel, found, wanted):
    """Bit by bit; but dq as two orders of one sum may differ, rounded once."""
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    for name, a, b in zip(("dq", "dk", "dv"), found, wanted, strict=True):
        a, b = (np.asarray(y, np.float32) for y in (a, b))
        bound = 0 if name != "dq" or kernel.variant.deterministic else eps * np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=bound, err_msg=name)
