"""Arguments of this package's kernels for the problems that their mutants run on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

UNBOUNDED = 2**30
SM_COUNT = 2
QUERY_PADDING = 128  # the backward's scratch covers whole tiles
ELEMENTS = {"bf16": ml_dtypes.bfloat16, "fp16": np.float16, "e4m3": ml_dtypes.float8_e4m3fn}


@dataclass(frozen=True)
class Problem:
    """A banded attention.

    The first key is `growth` times as long as the last, which kernels visit first: rows' maxima
    grow on the way.
    """

    rows: int
    keys: int
    lower: int = -UNBOUNDED
    upper: int = UNBOUNDED
    heads: int = 1
    heads_kv: int = 1
    growth: float = 1.0


# Of the forward one cluster walks all tiles, so that every loop of it runs.
FORWARD = {
    "sm90": (
        Problem(640, 640, -320, 120),
        Problem(400, 400, upper=0, heads=2, heads_kv=2),
        Problem(100, 1500, upper=1300, heads=2, heads_kv=2),  # rings of stages go round often
        Problem(400, 400, -60, 60),  # no block is whole
        Problem(150, 100, heads=6, heads_kv=6),  # one epilogue after the other
    ),
    "sm100": (
        Problem(640, 640, -320, 120, growth=16),
        Problem(400, 400, upper=0, heads=2, heads_kv=1, growth=4),
        Problem(100, 1500, upper=1300, heads=2, heads_kv=2),
        Problem(400, 400, -60, 60),
        Problem(150, 100, heads=6, heads_kv=2),
    ),
}
# Of the backward a CTA has a tile of keys, and walks rows and the heads of its group.
BACKWARD = (
    Problem(400, 300, -200, 120),
    Problem(384, 384, upper=0, heads=2, heads_kv=1),  # whole tiles
    Problem(900, 100, upper=700),
    Problem(300, 300, -60, 60),
    Problem(150, 140, heads=6, heads_kv=2),
)


def aligned(values: np.ndarray) -> np.ndarray:
    """A copy that starts at a multiple of 256, as device memory does."""
    raw = np.zeros(values.nbytes + 256, np.uint8)
    begin = -raw.ctypes.data % 256
    copy = raw[begin : begin + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return copy


def unwritten(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Room for a result, of NaNs."""
    width = ELEMENTS[dtype](0).nbytes if dtype in ELEMENTS else 4
    return aligned(np.full(shape, 2 ** (8 * width) - 1, f"u{width}"))


def _numbers(variant: Any, problem: Problem) -> dict[str, Any]:
    return {
        "batch": 1,
        "seqlen_q": problem.rows,
        "seqlen_k": problem.keys,
        "heads_q": problem.heads,
        "heads_kv": problem.heads_kv,
        "head_dim": variant.head_dim,
        "head_dim_v": variant.head_dim_v,
        "softmax_scale": variant.head_dim**-0.5,
        "band_lower": problem.lower,
        "band_upper": problem.upper,
        "sm_count": SM_COUNT,
    }


def _inputs(variant: Any, problem: Problem, random: np.random.Generator) -> dict[str, np.ndarray]:
    values = {}
    for name in ("q", "k", "v"):
        length = problem.rows if name == "q" else problem.keys
        heads = problem.heads if name == "q" else problem.heads_kv
        width = variant.head_dim_v if name == "v" else variant.head_dim
        numbers = random.standard_normal((length, heads, width)).astype(np.float32)
        if name == "k":
            numbers *= np.linspace(problem.growth, 1, problem.keys, dtype=np.float32)[:, None, None]
        values[name] = aligned(numbers.astype(ELEMENTS[variant.dtype.value]))
    return values


def _bounds(problem: Problem, seed: int) -> dict[str, Any]:
    """What bounded kernels take: the band, row by row; of every other problem ids that hide keys.

    With what the ids leave whole: the first keys and rows have one.
    """
    from jax_fa4.ops.band import Band
    from jax_fa4.ops.bound_tables import bound_tables
    from jax_fa4.ops.key_bounds import KeyBounds

    random, shape = np.random.default_rng(seed), (1, problem.rows, problem.keys)
    ids = [random.integers(0, 5, (1, length)) // 4 for length in shape[1:]]
    for x in ids:
        x[:, : x.shape[1] // 2 if seed % 2 else None] = 0
    segments = tuple(x.astype(np.int32) for x in ids)
    bounds = KeyBounds.make(Band(problem.lower, problem.upper), shape, segments=segments)
    tables = bound_tables(*bounds)._asdict()
    return {name: aligned(np.asarray(x)) for name, x in tables.items()} | {
        "sinks": aligned(np.linspace(-1, 1, problem.heads, dtype=np.float32)),
        "softcap": 5.0,
    }


def forward(variant: Any, problem: Problem, seed: int) -> dict[str, Any]:
    """All arguments of the forward, by name."""
    random = np.random.default_rng(seed)
    shape = (problem.rows, problem.heads, variant.head_dim_v)
    values: dict[str, Any] = {
        **_inputs(variant, problem, random),
        "out": unwritten(shape, variant.dtype.output.value),
        "lse": unwritten((problem.heads, problem.rows), "float32"),
    }
    for name in ("q_descale", "k_descale", "v_descale"):
        numbers = random.uniform(0.5, 2, (1, problem.heads_kv)).astype(np.float32)
        values[name] = aligned(numbers)
    if variant.bounded:
        values |= _bounds(problem, seed)
    return values | _numbers(variant, problem)


def _padded(numbers: np.ndarray, beyond: float) -> np.ndarray:
    """(heads, rows) with the rows of whole tiles."""
    heads, rows = numbers.shape
    whole = np.full((heads, -(-rows // QUERY_PADDING) * QUERY_PADDING), beyond, np.float32)
    whole[:, :rows] = numbers
    return aligned(whole)


def _lse_log2(q: np.ndarray, k: np.ndarray, scale: float) -> np.ndarray:
    """(heads, rows); of all keys, whatever the mask: any numbers do that keep P below 1."""
    keys = np.repeat(k.astype(np.float32), q.shape[1] // k.shape[1], axis=1)
    scores = np.einsum("qhd,khd->hqk", q.astype(np.float32), keys) * (scale * np.log2(np.e))
    top = scores.max(axis=-1, keepdims=True)
    return np.log2(np.exp2(scores - top).sum(axis=-1)) + top[..., 0]


def backward(variant: Any, problem: Problem, seed: int) -> dict[str, Any]:
    """All arguments of the backward's main kernel, by name, as its preprocess leaves them."""
    random = np.random.default_rng(seed)
    numbers = _numbers(variant, problem)
    values = _inputs(variant, problem, random)
    rows, heads = problem.rows, problem.heads
    dout = random.standard_normal((rows, heads, variant.head_dim_v))
    lse_log2 = _lse_log2(values["q"], values["k"], numbers["softmax_scale"])
    lse_log2 = _padded(lse_log2, np.inf)
    padded = lse_log2.shape[1]
    keys = (problem.keys, problem.heads_kv)
    return {
        **(_bounds(problem, seed) if variant.bounded else {}),
        **numbers,
        **values,
        "dout": aligned(dout.astype(ELEMENTS[variant.dtype.value])),
        "lse_log2": lse_log2,
        "delta": _padded(random.standard_normal((heads, rows)), 0),
        "dq_accum": aligned(np.zeros((heads, padded, variant.head_dim), np.float32)),
        "dk": unwritten((*keys, variant.head_dim), variant.dtype.value),
        "dv": unwritten((*keys, variant.head_dim_v), variant.dtype.value),
        "semaphores": aligned(np.zeros((heads, padded // 64), np.int32)),
    }


def postprocess(variant: Any, problem: Problem, seed: int) -> dict[str, Any]:
    """All arguments of the backward's last kernel, by name; head dim 96 in tiles of 128."""
    random = np.random.default_rng(seed)
    padded, head_dim, width = -(-problem.rows // QUERY_PADDING) * QUERY_PADDING, 96, 128
    sums = random.standard_normal((problem.heads, padded, width)).astype(np.float32)
    return {
        "dq_accum": aligned(sums),
        "dq": unwritten((problem.rows, problem.heads, head_dim), variant.dtype.value),
        "batch": 1,
        "seqlen_q": problem.rows,
        "seqlen_q_padded": padded,
        "heads_q": problem.heads,
        "head_dim": head_dim,
        "dq_tile_width": width,
        "softmax_scale": head_dim**-0.5,
        "sm_count": SM_COUNT,
    }
