"""Legal problems: what is asked, its arrays, and what must come out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from tests.fuzz import definition, varlen

DTYPES = ("float32", "bfloat16", "float16")
ENTRIES = (
    *("dot_product_attention", "dot_product_attention", "flash_attention"),
    "flash_attention_varlen",
)
TRANSFORMS = ("jit", "eager", "vmap", "remat", "sharded")
# Calls of one operation at a time compile each of them: a quarter as many.
_MOSTLY_COMPILED = (*(name for name in TRANSFORMS if name != "eager"),) * 4 + ("eager",)


@dataclass(frozen=True)
class Problem:
    """One call of a public function, and how it is transformed.

    For `flash_attention_varlen` batch is 1, and lengths are those of all documents together.
    """

    entry: str
    dtype: str
    batch: int
    lengths: tuple[int, int]
    heads: tuple[int, int]  # of key, and of query for each
    head_dims: tuple[int, int]
    causal: bool
    window: Any
    alignment: str
    scale: float | None
    softcap: float
    has: frozenset[str]  # further arguments, by names that `arrays` knows
    dense: tuple[bool, bool, bool, bool]  # which axes bias and mask have
    transform: str
    mapped: tuple[bool, bool, bool]
    deterministic: bool
    gradients: bool
    seed: int

    @property
    def sides(self) -> tuple[int | None, int | None]:
        if self.window is None or isinstance(self.window, int):
            return (self.window, self.window)
        return self.window

    @property
    def softmax_scale(self) -> float:
        return self.head_dims[0] ** -0.5 if self.scale is None else self.scale


@dataclass(frozen=True)
class _Domain:
    """What problems are drawn from."""

    dtypes: tuple[str, ...] = DTYPES
    batches: tuple[int, ...] = (1, 2, 3, 0)
    lengths: tuple[int, int] = (0, 70)
    head_dims: tuple[int, ...] = (1, 3, 8, 16, 33, 64)
    scales: tuple[float | None, ...] = (None, None, 0.3, 1.0, 0.0, -0.5)
    deterministic: tuple[bool, ...] = (False, False, True)
    transforms: tuple[str, ...] = _MOSTLY_COMPILED
    dense: tuple[str, ...] = ("bias", "mask", "score_mod", "mask_mod")


_PORTABLE = _Domain()
_KERNELS = _Domain(
    dtypes=DTYPES[1:],
    batches=(1, 2),
    lengths=(1, 300),
    head_dims=(8, 40, 64, 64, 96, 128, 128, 192, 256),
    scales=(None, None, 0.3, 1.0),
    deterministic=(False,) * 5 + (True,),
    dense=(),
)
_EMULATED = dataclasses.replace(
    _KERNELS, lengths=(1, 140), head_dims=(8, 40, 64, 64, 96, 128, 192, 256)
)


@st.composite
def problems(draw: st.DrawFn, implementation: str = "xla") -> Problem:
    """Problems that `implementation` should take, or refuse as not supported.

    For "fa4" one in ten is from the portable path's domain, of which kernels take a few.
    """
    domain = {"xla": _PORTABLE, "emulator": _EMULATED, "fa4": _KERNELS}[implementation]
    if implementation == "fa4" and draw(st.integers(0, 9)) == 4:
        domain = _PORTABLE
    entry = draw(st.sampled_from(ENTRIES))
    flash = entry != "dot_product_attention"
    shortest, longest = domain.lengths
    lengths = st.one_of(st.integers(shortest, 12), st.integers(13, longest))
    T, S = draw(lengths), draw(lengths)
    if draw(st.booleans()):
        S = T
    dims = st.sampled_from(domain.head_dims)
    H = draw(dims)
    side = st.one_of(st.none(), st.integers(0, 20), st.integers(0, max(T, S) + 1))
    windows = st.one_of(st.none(), st.tuples(side, side))
    return Problem(
        entry=entry,
        dtype=draw(st.sampled_from(domain.dtypes)),
        batch=1 if entry == "flash_attention_varlen" else draw(st.sampled_from(domain.batches)),
        lengths=(T, S),
        heads=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        head_dims=(H, draw(st.one_of(st.just(H), st.just(H), dims))),
        causal=draw(st.booleans()),
        window=draw(windows if flash else st.one_of(windows, st.integers(0, 20))),
        alignment="bottom_right"
        if flash
        else draw(st.sampled_from(("top_left", "top_left", "bottom_right"))),
        scale=draw(st.sampled_from(domain.scales)),
        softcap=draw(st.sampled_from((0.0,) * 6 + (2.0, 30.0))),
        has=draw(_further(entry, domain)),
        dense=draw(st.tuples(*[st.booleans()] * 4)),
        transform=draw(st.sampled_from(domain.transforms)),
        mapped=draw(st.tuples(*[st.booleans()] * 3).filter(any)),
        deterministic=draw(st.sampled_from(domain.deterministic)),
        gradients=draw(st.booleans()),
        seed=draw(st.integers(0, 2**31)),
    )


@st.composite
def _further(draw: st.DrawFn, entry: str, domain: _Domain) -> frozenset[str]:
    """Which further arguments are given: mostly none, seldom two."""
    options = {
        "dot_product_attention": ("query_lengths", "key_lengths", "segments", *domain.dense),
        "flash_attention": (),
        "flash_attention_varlen": ("used",),
    }[entry]
    rare = st.sampled_from([()] * 5 + [(name,) for name in (*options, "sinks")])
    return frozenset(draw(rare)) | frozenset(draw(rare))


def arrays(problem: Problem) -> dict[str, np.ndarray]:
    """The arrays of a problem, by the names that `definition.Inputs` and the call know."""
    random = np.random.default_rng(problem.seed)
    (B, (T, S), (K, G), (H, V)) = (
        problem.batch,
        problem.lengths,
        problem.heads,
        problem.head_dims,
    )
    N = K * G
    shapes = {
        "q": (B, T, N, H),
        "k": (B, S, K, H),
        "v": (B, S, K, V),
        "dout": (B, T, N, V),
    }
    dtype = jnp.dtype(problem.dtype)
    found = {name: random.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    found["dlse"] = random.standard_normal((B, N, T)).astype(np.float32)
    full = [n if kept else 1 for n, kept in zip((B, N, T, S), problem.dense, strict=True)]
    if "bias" in problem.has:
        found["bias"] = random.standard_normal(full).astype(dtype)
    if "mask" in problem.has:
        found["mask"] = random.random(full) < 0.7
    if "query_lengths" in problem.has:
        found["query_lengths"] = random.integers(0, T + 3, B).astype(np.int32)
    if "key_lengths" in problem.has:
        found["key_lengths"] = random.integers(0, S + 3, B).astype(np.int32)
    if "segments" in problem.has:
        for name, length in (("query_ids", T), ("key_ids", S)):
            ids = random.integers(-2, 3, (B, length)).astype(np.int32)
            found[name] = ids if random.random() < 0.3 else np.sort(ids, axis=1)
    if problem.entry == "flash_attention_varlen":
        found |= varlen.arrays(random, problem.lengths, used="used" in problem.has)
    if "score_mod" in problem.has:
        found["gain"] = random.uniform(0.5, 1.5, N).astype(np.float32)
        found["tilt"] = random.standard_normal(N).astype(np.float32)
    if "mask_mod" in problem.has:
        found["period"] = random.integers(1, 5, N).astype(np.int32)
    if "sinks" in problem.has:
        found["sinks"] = random.standard_normal(N).astype(np.float32)
    return found


def visible(problem: Problem, x: dict[str, np.ndarray]) -> np.ndarray:
    """(B, N, T, S): who sees whom, as the documentation has it."""
    B, (T, S) = problem.batch, problem.lengths
    shape = (B, problem.heads[0] * problem.heads[1], T, S)
    if problem.entry == "flash_attention_varlen":
        seen = varlen.visible(x, problem.lengths, problem.causal, problem.sides)
        return np.broadcast_to(seen, shape)
    rows = np.minimum(x.get("query_lengths", np.full(B, T)), T)
    keys = np.minimum(x.get("key_lengths", np.full(B, S)), S)
    shift = keys - rows if problem.alignment == "bottom_right" else np.zeros(B, int)
    seen = definition.band(
        problem.lengths, causal=problem.causal, window=problem.sides, shift=shift
    )
    seen = seen & (np.arange(T)[None, :, None] < rows[:, None, None])
    seen = seen & (np.arange(S)[None, None, :] < keys[:, None, None])
    if "query_ids" in x:
        seen = seen & (x["query_ids"][:, :, None] == x["key_ids"][:, None, :])
    seen = seen[:, None]
    if "mask" in x:
        seen = seen & x["mask"]
    if "period" in x:
        i, j = np.arange(T)[:, None], np.arange(S)
        seen = seen & ((i // 3 + j) % x["period"][:, None, None] == 0)
    return np.broadcast_to(seen, shape)


def inputs(problem: Problem, x: dict[str, np.ndarray]) -> definition.Inputs:
    """The problem for the definition."""
    return definition.Inputs(
        *(x[name] for name in ("q", "k", "v", "dout", "dlse")),
        visible=visible(problem, x),
        scale=problem.softmax_scale,
        bias=x.get("bias"),
        softcap=problem.softcap,
        sinks=x.get("sinks"),
        gain=x.get("gain"),
        tilt=x.get("tilt"),
    )
