"""Problems of `decode_attention`: ragged lengths, pages in any order, and what lies behind them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

import jax_fa4
from jax_fa4.testing import tolerances
from tests.fuzz import definition, meshes, paths

Arrays = dict[str, np.ndarray]

TRANSFORMS = ("jit", "vmap", "sharded", "eager")
_MAPPABLE = ("q", "k", "v", "lengths", "table")


@dataclass(frozen=True)
class DecodeProblem:
    """One call. `pages` is of a sequence; without a page table it has one, of `page_size` rows."""

    dtype: str
    batch: int
    queries: int
    pages: int
    page_size: int
    has_table: bool
    heads: tuple[int, int]  # of k, and of q for each of them
    head_dims: tuple[int, int]
    causal: bool
    window: tuple[int | None, int | None]
    scale: float | None
    softcap: float
    sinks: bool
    num_splits: int | None
    transform: str
    mapped: tuple[bool, ...]
    seed: int

    @property
    def capacity(self) -> int:
        return self.pages * self.page_size


@st.composite
def problems(draw: st.DrawFn, implementation: str = "xla") -> DecodeProblem:
    """Problems that `implementation` takes; for "fa4" one in ten is of the portable path."""
    kernels = implementation != "xla"
    if implementation == "fa4" and draw(st.integers(0, 9)) == 4:
        kernels = False
    dims = st.sampled_from((8, 64, 64, 72, 128) if kernels else (1, 3, 8, 33))
    H = draw(dims)
    has_table = draw(st.booleans())
    longest = 700 if kernels else 60
    sizes = (16, 16, 32, 64, 128) if kernels else (1, 2, 3, 7, 16)
    page_size = draw(st.sampled_from(sizes) if has_table else st.integers(1, longest))
    pages = draw(st.integers(1, max(1, longest // page_size))) if has_table else 1
    side = st.one_of(st.none(), st.integers(0, 20), st.integers(0, pages * page_size))
    return DecodeProblem(
        dtype=draw(st.sampled_from(("float32", "bfloat16", "float16")[1 if kernels else 0 :])),
        batch=draw(st.integers(1, 4)),
        queries=min(draw(st.one_of(st.just(1), st.integers(1, 16))), pages * page_size),
        pages=pages,
        page_size=page_size,
        has_table=has_table,
        heads=(draw(st.integers(1, 3)), draw(st.integers(1, 5))),
        head_dims=(H, draw(st.one_of(st.just(H), st.just(H), dims))),
        causal=draw(st.sampled_from((True, True, False))),
        window=draw(st.one_of(st.just((None, None)), st.tuples(side, side))),
        scale=draw(st.sampled_from((None, 0.3, *(() if kernels else (-0.5,))))),
        softcap=draw(st.sampled_from((0.0, 0.0, 2.0, 30.0))),
        sinks=draw(st.booleans()),
        num_splits=draw(st.sampled_from((None, None, 1, 2, 3, 7))),
        transform=draw(st.sampled_from(TRANSFORMS[:3] * 4 + (() if kernels else TRANSFORMS[3:]))),
        mapped=draw(st.tuples(*[st.booleans()] * 5).filter(any)),
        seed=draw(st.integers(0, 2**31)),
    )


def arrays(asked: DecodeProblem, seed: int) -> Arrays:
    """q, k and v (pages, page_size, K, .), lengths from below 0 to above the capacity, table."""
    random = np.random.default_rng(seed)
    (K, G), (H, V), B = asked.heads, asked.head_dims, asked.batch
    total = B * asked.pages + (3 if asked.has_table else 0)
    dtype = jnp.dtype(asked.dtype)
    found = {
        "q": random.standard_normal((B, asked.queries, K * G, H)).astype(dtype),
        "k": random.standard_normal((total, asked.page_size, K, H)).astype(dtype),
        "v": random.standard_normal((total, asked.page_size, K, V)).astype(dtype),
        "lengths": random.integers(-1, asked.capacity + 3, B).astype(np.int32),
    }
    if asked.has_table:
        places = random.permutation(total)[: B * asked.pages]
        found["table"] = places.reshape(B, asked.pages).astype(np.int32)
    if asked.sinks:
        found["sinks"] = random.standard_normal(K * G).astype(np.float32)
    return found


def spoil(asked: DecodeProblem, x: Arrays) -> Arrays:
    """NaN behind each sequence's end, and pages there that do not exist."""
    x = {name: a.copy() for name, a in x.items()}
    unused = np.arange(asked.capacity) >= x["lengths"][:, None]
    for name in "kv":
        pages = x[name][_table(asked, x)].reshape(-1, asked.capacity, *x[name].shape[2:])
        pages[unused] = np.nan
        x[name][:] = np.nan
        x[name][_table(asked, x)] = pages.reshape(-1, asked.pages, *x[name].shape[1:])
    if asked.has_table:
        begins = np.arange(asked.pages) * asked.page_size
        x["table"][begins >= x["lengths"][:, None]] = asked.seed - 2**30
    return x


def expected(asked: DecodeProblem, x: Arrays) -> tuple[Arrays, Arrays]:
    """`exact` and `plain` of out and lse."""
    T, S, B = asked.queries, asked.capacity, asked.batch
    lengths = np.clip(x["lengths"], 0, S)
    position = lengths[:, None] - T + np.arange(T)
    seen = definition.band((T, S), causal=asked.causal, window=asked.window, shift=lengths - T)
    seen = seen & (position >= 0)[..., None] & (np.arange(S) < lengths[:, None])[:, None]
    heads = asked.heads[0] * asked.heads[1]
    k, v = (x[n][_table(asked, x)].reshape(B, S, *x[n].shape[2:]) for n in "kv")
    given = definition.Inputs(
        *(x["q"], k, v, np.zeros((B, T, heads, asked.head_dims[1])), np.zeros((B, heads, T))),
        visible=np.broadcast_to(seen[:, None], (B, heads, T, S)),
        scale=asked.head_dims[0] ** -0.5 if asked.scale is None else asked.scale,
        softcap=asked.softcap,
        sinks=x.get("sinks"),
    )
    exact = definition.exact(given)
    return exact, definition.plain(given, jnp.dtype(asked.dtype), exact)


def check(asked: DecodeProblem, implementation: str) -> str:
    """ "right", and on which path; AssertionError if the call did anything else."""
    parts = [arrays(asked, asked.seed)]
    mapped = ()
    if asked.transform == "vmap":
        flags = zip(_MAPPABLE, asked.mapped, strict=True)
        mapped = tuple(name for name, kept in flags if kept and name in parts[0])
        other = arrays(asked, asked.seed + 1)
        parts.append(parts[0] | {name: other[name] for name in mapped})
    given = parts[0] | {name: np.stack([part[name] for part in parts]) for name in mapped}
    if asked.transform != "vmap":
        given = spoil(asked, given)
    try:
        found, path = results(asked, given, mapped, implementation)
    except NotImplementedError as error:
        if implementation != "fa4" or "implementation='xla'" not in str(error):
            raise
        found, path = results(asked, given, mapped, None)
    for n, part in enumerate(parts):
        one = {name: a[n] if mapped else a for name, a in found.items()}
        tolerances.check(one, *expected(asked, part))
    return f"right, {path}"


def results(
    asked: DecodeProblem, given: Arrays, mapped: tuple[str, ...], implementation: str | None
) -> tuple[Arrays, paths.Path]:
    """out and lse, and what they ran on."""

    def run(x: dict[str, Any]) -> tuple[Any, Any]:
        return jax_fa4.decode_attention(
            *(x[name] for name in "qkv"),
            key_value_seq_lengths=x["lengths"],
            page_table=x.get("table"),
            softmax_scale=asked.scale,
            causal=asked.causal,
            window_size=asked.window,
            softcap=asked.softcap,
            learnable_sink=x.get("sinks"),
            num_splits=asked.num_splits,
            implementation=implementation,
            return_lse=True,
        )

    function: Callable[..., Any] = run
    if mapped:
        function = jax.vmap(run, in_axes=({name: 0 if name in mapped else None for name in given},))
    if asked.transform == "sharded":
        given = jax.tree.map(functools.partial(meshes.shard, asked.seed), given)
    path = paths.PORTABLE
    if asked.transform != "eager":
        function = jax.jit(function).lower(given).compile()
        path = paths.Path("decode" in paths.kernels_of(function.as_text()), None)
        asked_for = implementation in ("fa4", "emulator")
        assert path.forward or not asked_for, f"{implementation} ran, and no kernel did"
    out, lse = function(given)
    return {"out": np.asarray(out), "lse": np.asarray(lse)}, path


def _table(asked: DecodeProblem, x: Arrays) -> np.ndarray:
    """(B, pages): where the pages of each sequence lie."""
    if asked.has_table:
        return np.clip(x["table"], 0, x["k"].shape[0] - 1)
    return np.arange(asked.batch)[:, None]
