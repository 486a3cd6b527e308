"""The definition in numpy float64, with its gradients, written out once more.

It shares no code with the package, so a test against it is a test of the definition in
`ops/reference.py` too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jax_fa4.ops.band import Band

Arrays = dict[str, np.ndarray]


def _softmax(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and log-sum-exp of rows; 0 and -inf where all scores are -inf."""
    peak = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    peak = np.where(np.isneginf(peak), 0.0, peak)
    weights = np.exp(scores - peak)
    total = weights.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (np.log(total) + peak)[..., 0]
    return weights / np.where(total == 0, 1.0, total), lse


def _attended(q: np.ndarray, k: np.ndarray, band: Band, mask: Any) -> np.ndarray:
    i, j = np.ogrid[: q.shape[1], : k.shape[1]]
    keep: np.ndarray = (j - i >= band.lower) & (j - i <= band.upper)
    return keep if mask is None else keep & np.asarray(mask)


def exact(
    inputs: tuple[Any, ...],
    *,
    softmax_scale: float,
    band: Band,
    bias: Any = None,
    mask: Any = None,
    descales: Any = None,
    softcap: float = 0.0,
) -> Arrays:
    """out, lse, dq, dk, dv (dbias) for inputs (q, k, v, dout, dlse); q, k, v times `descales`.
    With `softcap` scores are softcap * tanh(scores / softcap).

    Beside each result stands `<name>_terms`, the largest sum of absolute values of its
    terms, which says how much of it may be rounding. lse moves by the mean of what a row's scores
    move by, and those are sums of products.
    """
    q, k, v, dout, dlse = (np.asarray(x).astype(np.float64) for x in inputs)
    groups = q.shape[2] // k.shape[2]
    if descales is not None:
        query, key, value = (np.asarray(x).astype(np.float64)[:, None, :, None] for x in descales)
        q, k, v = q * np.repeat(query, groups, axis=2), k * key, v * value
    keys, values = (np.repeat(x, groups, axis=2) for x in (k, v))
    scores = np.einsum("bihd,bjhd->bhij", q, keys, optimize=True) * softmax_scale
    slope: Any = 1.0
    if softcap:
        scores = softcap * np.tanh(scores / softcap)
        slope = 1 - (scores / softcap) ** 2
    if bias is not None:
        scores = scores + np.asarray(bias).astype(np.float64)
    p, lse = _softmax(np.where(_attended(q, k, band, mask), scores, -np.inf))
    score_terms = np.einsum("bihd,bjhd->bhij", *map(np.abs, (q, keys)), optimize=True)
    # tanh is made as 1 less something, by an exponential, so that a capped score has a term cap.
    lse_terms = softmax_scale * (p * score_terms).sum(axis=-1) + softcap
    dp = np.einsum("bihd,bjhd->bhij", dout, values, optimize=True)
    mean = (p * dp).sum(axis=-1, keepdims=True)
    ds = p * (dp - mean + dlse[..., None])
    ds_terms = p * (np.abs(dp) + np.abs(mean) + np.abs(dlse)[..., None])

    def shared(x: np.ndarray) -> np.ndarray:
        """Summed over the query heads that share a key head."""
        summed: np.ndarray = x.reshape(*k.shape[:3], groups, -1).sum(axis=3)
        return summed

    def gradients(ds: np.ndarray, q: np.ndarray, keys: np.ndarray, dout: np.ndarray) -> Arrays:
        dproducts = softmax_scale * ds * slope
        found = {
            "dq": np.einsum("bhij,bjhd->bihd", dproducts, keys, optimize=True),
            "dk": shared(np.einsum("bhij,bihd->bjhd", dproducts, q, optimize=True)),
            "dv": shared(np.einsum("bhij,bihd->bjhd", p, dout, optimize=True)),
        }
        if bias is not None:
            axes = tuple(a for a in range(4) if bias.shape[a] == 1)
            found["dbias"] = ds.sum(axis=axes, keepdims=True)
        return found

    terms = gradients(ds_terms, *map(np.abs, (q, keys, dout)))
    out, out_terms = (
        np.einsum("bhij,bjhd->bihd", p, x, optimize=True) for x in (values, np.abs(values))
    )
    return {
        "out": out,
        "out_terms": out_terms.max(initial=0.0),
        "lse": lse,
        "lse_terms": lse_terms.max(initial=0.0),
        **gradients(ds, q, keys, dout),
        **{f"{name}_terms": np.abs(x).max(initial=0.0) for name, x in terms.items()},
    }
