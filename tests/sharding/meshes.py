"""Problems laid over the axes of a mesh, and what a compiled program says of them."""

import functools
import math
import re
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jax_fa4
from jax_fa4.testing import expected, inputs, tolerances

AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


@dataclass(frozen=True)
class Laid:
    """A case, the shardings of q and of k and v, and what is to become of them.

    `out` is the sharding of out: that of q where None. `gathers`: whether arrays have to move;
    else no array does, and `sums` says whether gradients are added over devices.
    """

    case: inputs.Case
    query: P
    key: P
    out: P | None = None
    gathers: bool = False
    sums: bool = False

    @property
    def name(self):
        return self.case.name


def case(name, query_length=40, key_length=56, **sizes):
    return inputs.Case(name=name, query_length=query_length, key_length=key_length, **sizes)


GROUPED = {"heads": 8, "heads_kv": 2, "causal": True}
PROBLEMS = (
    Laid(case("batch", batch=8, heads=2, heads_kv=1, causal=True), P("x"), P("x")),
    Laid(case("batch-by-two", batch=4, heads=2, heads_kv=1), P(("x", "y")), P(("x", "y"))),
    Laid(case("heads", heads=4, heads_kv=4, causal=True), P(None, None, "x"), P(None, None, "x")),
    Laid(case("grouped", **GROUPED), P(None, None, "x"), P(None, None, "x")),
    Laid(case("batch-and-heads", **GROUPED), P("x", None, "y"), P("x", None, "y")),
    # More devices than key heads.
    Laid(
        case("beyond-key-heads", **GROUPED), P("x", None, ("y", "z")), P("x", None, "y"), sums=True
    ),
    Laid(case("beyond-whole-keys", **GROUPED), P(None, None, ("x", "y", "z")), P(), sums=True),
    Laid(case("multi-query", heads=8, heads_kv=1), P("x", None, ("y", "z")), P("x"), sums=True),
    # Keys as no kernel takes them.
    Laid(case("keys-by-rows", batch=4, causal=True), P("x"), P("x", "y"), gathers=True),
    Laid(case("keys-by-head-dim", batch=4), P("x"), P("x", None, None, "y"), gathers=True),
    Laid(
        case("all-by-head-dim", causal=True),
        P(None, None, None, "x"),
        P(None, None, None, "x"),
        out=P(),
        gathers=True,
    ),
    Laid(case("other-axes", batch=4, heads=4, heads_kv=4), P("x"), P("y"), gathers=True),
    # A part of the queries each.
    Laid(case("rows", query_length=48), P(None, ("x", "y")), P(), sums=True),
    Laid(case("causal-rows", query_length=48, causal=True), P("x", ("y", "z")), P("x"), sums=True),
    Laid(
        case("window-rows", query_length=64, window=(20, 3), alignment="top_left"),
        P(None, "x"),
        P(),
        sums=True,
    ),
    Laid(
        case("rows-and-heads", query_length=32, heads=4, heads_kv=1, causal=True),
        P("x", "y", "z"),
        P("x"),
        sums=True,
    ),
)
BY_NAME = {laid.name: laid for laid in PROBLEMS}


def mesh(kind, shape=(2, 2, 2), names=("x", "y", "z")):
    """A mesh of the devices of the default backend; skipped where these are too few."""
    count = math.prod(shape)
    if len(jax.devices()) < count:
        pytest.skip(f"NOT TESTED HERE, needs {count} devices: JAX sees {len(jax.devices())}")
    kinds = kind if isinstance(kind, tuple) else (kind,) * len(shape)
    return jax.make_mesh(shape, names, axis_types=kinds, devices=jax.devices()[:count])


def make(laid, dtype=jnp.bfloat16):
    return inputs.make(laid.case, dtype)


def place(mesh, laid, x):
    """q, k, v as the problem lays them; their cotangents as q and lse of such a q are."""
    query = laid.query if laid.out is None else laid.out
    rows = P(*[(*query, None, None, None)[i] for i in (0, 2, 1)])
    specs = (laid.query, laid.key, laid.key, query, rows)
    placed = [jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip(x, specs, strict=True)]
    return inputs.Inputs(*placed)


def call(case, implementation):
    """The public call of a case, with its alignment: out and lse (B, H, S)."""
    if case.alignment == "bottom_right":
        return functools.partial(
            jax_fa4.flash_attention,
            causal=case.causal,
            window_size=case.window,
            return_lse=True,
            implementation=implementation,
        )

    def attend(q, k, v):
        out, lse = jax_fa4.dot_product_attention(
            q,
            k,
            v,
            is_causal=case.causal,
            local_window_size=case.window,
            return_residual=True,
            implementation=implementation,
        )
        return out, lse.transpose(0, 2, 1)

    return attend


def gradients(attend):
    """out, lse, dq, dk, dv of inputs, as one function to be compiled."""

    def run(x):
        values, pull = jax.vjp(attend, *x[:3])
        return *values, *pull((x.dout, x.dlse))

    return run


def check(found, case, x):
    """The results of `gradients` against the definition."""
    names = ("out", "lse", "dq", "dk", "dv")
    arrays = {name: jax.device_get(a) for name, a in zip(names, found, strict=True)}
    tolerances.check(arrays, *expected.both(x, case, gradients=True))


def collectives(compiled):
    """How many of each kind the program has."""
    text = compiled.as_text()
    counts = {n: len(re.findall(rf"= [^=]*\b{n}(?:-start)?\(", text)) for n in COLLECTIVES}
    return {name: count for name, count in counts.items() if count}


def custom_calls(compiled):
    """Shapes of what the kernels of the forward and of the backward give a device."""
    pattern = r'= \(?(\w+\[[\d,]*\]).*custom_call_target="jax_fa4_\w*?(fwd|bwd)_v1"'
    return [(name, shape) for shape, name in re.findall(pattern, compiled.as_text())]


def spec(x, rank=4):
    """Its sharding, all dimensions named."""
    entries = (*x.sharding.spec, *[None] * rank)[:rank]
    return tuple(e[0] if isinstance(e, tuple) and len(e) == 1 else e for e in entries)
