"""Named problems with tags, and their seeded inputs: one list feeds tests and benchmarks."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jax_fa4.ops.band import Alignment, Band, Window


@dataclass(frozen=True, kw_only=True)
class Case:
    """One attention problem: B x (Sq, Hq) queries, (Sk, Hkv) keys, head dim D, and its mask.

    `head_dim_v` is the head dim of the values, the same unless said.
    The first key is `growth` times as long as the last. Kernels visit blocks from the last to the
    first: with it their rows' maxima grow on the way, and what was accumulated is rescaled.
    """

    name: str
    query_length: int
    key_length: int
    batch: int = 2
    heads: int = 2
    heads_kv: int = 2
    head_dim: int = 64
    head_dim_v: int = 0
    causal: bool = False
    window: Window = (None, None)
    alignment: Alignment = "bottom_right"
    softmax_scale: float | None = None
    growth: float = 1.0
    tags: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        object.__setattr__(self, "head_dim_v", self.head_dim_v or self.head_dim)

    @property
    def band(self) -> Band:
        return Band.make(
            self.query_length,
            self.key_length,
            causal=self.causal,
            window=self.window,
            alignment=self.alignment,
        )

    @property
    def scale(self) -> float:
        return self.softmax_scale if self.softmax_scale is not None else self.head_dim**-0.5


class Inputs(NamedTuple):
    """Arguments of a call and cotangents of its results out and lse."""

    q: jax.Array
    k: jax.Array
    v: jax.Array
    dout: jax.Array
    dlse: jax.Array


def make(case: Case, dtype: DTypeLike, seed: int = 0) -> Inputs:
    """Normal inputs of `case`, the same for every dtype up to rounding."""
    generator = np.random.default_rng([zlib.crc32(case.name.encode()), seed])
    queries = (case.batch, case.query_length, case.heads, case.head_dim)
    keys = (case.batch, case.key_length, case.heads_kv, case.head_dim)
    values, outputs = (*keys[:3], case.head_dim_v), (*queries[:3], case.head_dim_v)
    rows = (case.batch, case.heads, case.query_length)
    shapes = (queries, keys, values, outputs, rows)
    normal = [generator.standard_normal(shape) for shape in shapes]
    normal[1] *= np.linspace(case.growth, 1, case.key_length)[:, None, None]
    wide = [jnp.asarray(x.astype(np.float32)) for x in normal]
    q, k, v, dout = (x.astype(dtype) for x in wide[:4])
    return Inputs(q, k, v, dout, wide[4])


def make_descales(case: Case, seed: int = 0) -> tuple[jax.Array, ...]:
    """Descales of query, key and value for `case`, float32 (B, Hkv) each, of several sizes."""
    generator = np.random.default_rng([zlib.crc32(case.name.encode()), seed, 1])
    sizes = 10 ** generator.uniform(-1, 0.5, (3, case.batch, case.heads_kv))
    return tuple(jnp.asarray(sizes.astype(np.float32)))


def tagged(tag: str) -> tuple[Case, ...]:
    """The cases that carry `tag`."""
    return tuple(case for case in CASES if tag in case.tags)


def _case(name: str, lengths: tuple[int, int], tags: str = "", **options: Any) -> Case:
    words = frozenset(tags.split())
    return Case(name=name, query_length=lengths[0], key_length=lengths[1], tags=words, **options)


_CAUSAL: dict[str, Any] = {"causal": True}
_TOP_LEFT: dict[str, Any] = {"causal": True, "alignment": "top_left"}

# Tags: `gradient`: check gradients too; `half`: in every half precision; `long`: several blocks;
# `packed`: few queries, so that kernels may put several heads into one tile.
CASES: tuple[Case, ...] = (
    _case("one-by-one", (1, 1), "gradient"),
    _case("square", (64, 64), "gradient"),
    _case("ragged", (113, 239), "gradient"),
    _case("ragged-causal", (113, 239), "gradient half", **_CAUSAL),
    _case("ragged-top-left", (239, 113), "gradient", **_TOP_LEFT),
    _case("rows-without-keys", (239, 113), "gradient half", **_CAUSAL),
    _case("decode", (1, 300), heads=4, **_CAUSAL),
    _case("one-key", (130, 1), "gradient"),
    _case("window", (200, 200), "gradient", window=(37, 11)),
    _case("window-left", (150, 260), window=(64, 0)),
    _case("window-right", (260, 150), window=(None, 5), alignment="top_left"),
    _case("window-causal", (200, 200), "gradient", window=(50, None), **_CAUSAL),
    _case("window-diagonal", (129, 129), window=(0, 0)),
    _case("window-past-the-keys", (300, 40), "gradient", window=(16, 16), alignment="top_left"),
    _case("grouped", (100, 100), "gradient half", heads=6, heads_kv=2, **_CAUSAL),
    _case("multi-query", (70, 90), "gradient", heads=4, heads_kv=1),
    _case("head-dim-8", (65, 65), head_dim=8, **_CAUSAL),
    _case("head-dim-40", (90, 100), "gradient", head_dim=40, **_CAUSAL),
    _case("head-dim-63", (90, 100), "gradient half", head_dim=63),
    _case("head-dim-72", (140, 130), "half", head_dim=72),
    _case("head-dim-80", (90, 300), head_dim=80, **_CAUSAL),
    _case("head-dim-88", (113, 239), head_dim=88, heads=4, window=(100, None)),
    _case("head-dim-96", (90, 100), "gradient", head_dim=96, **_CAUSAL),
    _case("head-dim-128", (160, 160), "gradient", head_dim=128, **_CAUSAL),
    _case("head-dim-256", (140, 140), "gradient", head_dim=256, **_CAUSAL),
    _case("values-192-128", (200, 300), "gradient half", head_dim=192, head_dim_v=128, **_CAUSAL),
    _case("values-128-64", (130, 70), "gradient", head_dim=128, head_dim_v=64),
    _case("values-64-128", (150, 260), head_dim=64, head_dim_v=128, window=(64, 0)),
    _case("values-96-40", (113, 239), "gradient", heads=4, head_dim=96, head_dim_v=40, **_CAUSAL),
    _case("values-8-256", (65, 140), "gradient", heads=2, heads_kv=1, head_dim=8, head_dim_v=256),
    _case("values-21-3", (40, 30), "gradient", head_dim=21, head_dim_v=3, window=(9, 9)),
    _case("scale", (80, 80), softmax_scale=0.7),
    _case("growing", (200, 600), "gradient half", batch=1, growth=16.0),
    _case("growing-128", (300, 500), batch=1, head_dim=128, growth=16.0, **_CAUSAL),
    _case("growing-96", (140, 400), batch=1, head_dim=96, growth=16.0),
    _case("growing-192-128", (300, 400), batch=1, head_dim=192, head_dim_v=128, growth=16.0),
    _case("growing-256", (140, 400), batch=1, head_dim=256, growth=16.0),
    _case("packed-1-of-16", (1, 300), "packed", heads=16, heads_kv=1),
    _case("packed-1-of-20", (1, 130), "packed", heads=20, heads_kv=1, **_CAUSAL),
    _case("packed-2-of-6", (2, 257), "packed", heads=12, heads_kv=2, **_CAUSAL),
    _case("packed-17-of-8", (17, 129), "packed", heads=8, heads_kv=1, **_CAUSAL),
    _case("packed-17-of-3", (17, 200), "packed", heads=6, heads_kv=2, window=(100, 3)),
    _case("packed-70-of-2", (70, 150), "packed", heads=2, heads_kv=1, **_TOP_LEFT),
    _case("packed-128-of-3", (128, 140), "packed", heads=3, heads_kv=1, **_CAUSAL),
    _case("packed-129-of-4", (129, 260), "packed", heads=4, heads_kv=1, window=(64, None)),
    _case("packed-diagonal", (64, 160), "packed", heads=2, heads_kv=1, window=(0, 0), growth=400.0),
    _case("packed-far", (40, 256), "packed", heads=3, heads_kv=1, growth=200.0),
    _case("packed-128", (9, 400), "packed", heads=16, heads_kv=2, head_dim=128, growth=16.0),
    _case("packed-256", (17, 390), "packed", heads=8, heads_kv=2, head_dim=256, **_CAUSAL),
    _case("blocks", (1023, 1023), "gradient long", batch=1, **_CAUSAL),
    _case("blocks-full", (530, 1100), "gradient long", batch=1, heads=2, heads_kv=1),
    _case("blocks-ragged", (600, 1100), "gradient half long", batch=1, heads=4, **_CAUSAL),
    _case("blocks-window", (1300, 1300), "long", batch=1, window=(100, 30)),
)
