"""Attention and its gradients in numpy, from the documentation: no line is shared with the package.

In float64 these are the exact results; in float32, with probabilities and results rounded to the
dtype of the inputs, the plain computation that `jax_fa4.testing.tolerances` compares with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Inputs:
    """q (B, T, N, H), k (B, S, K, H), v (B, S, K, V), cotangents (B, T, N, V) and (B, N, T).

    `visible` is (B, N, T, S); bias broadcasts to it; sinks are (N,); softcap 0 is none. With gain
    and tilt (N,) a head's scores become gain x score + tilt x (key - query) / 64, last of all.
    """

    q: Any
    k: Any
    v: Any
    dout: Any
    dlse: Any
    visible: np.ndarray
    scale: float
    bias: Any = None
    softcap: float = 0.0
    sinks: Any = None
    gain: Any = None
    tilt: Any = None


def exact(x: Inputs) -> Arrays:
    """Results in float64, and beside each, as `<name>_terms`, its largest sum of absolute terms."""
    return _Computation(x, np.float64, None).results(terms=True)


def plain(x: Inputs, dtype: Any, exact: Arrays) -> Arrays:
    """Results of the same formulas, computed in float32 and rounded to `dtype` where kernels do.

    P is rounded before it is divided by its sum, or after: of each result the one that is further
    from `exact`, for the errors of a few values may be small by luck.
    """
    orders = [
        _Computation(x, np.float32, dtype, late=late).results(terms=False) for late in (True, False)
    ]

    def error(found: Arrays, name: str) -> float:
        with np.errstate(invalid="ignore"):  # lse is -inf in both
            difference = np.nan_to_num(found[name].astype(np.float64) - exact[name])
        return float(np.abs(difference).max(initial=0.0))

    return {name: max(orders, key=lambda found: error(found, name))[name] for name in orders[0]}


def _same(x: np.ndarray) -> np.ndarray:
    return x


class _Computation:
    """All intermediate results of one problem, in one precision; arrays have heads before rows."""

    def __init__(self, x: Inputs, wide: Any, dtype: Any, *, late: bool = False) -> None:
        self.x, self.wide, self.dtype, self.late = x, wide, dtype, late
        self.groups = x.q.shape[2] // x.k.shape[2]
        self.q, self.dout, keys, values = (
            _swapped(self._as_wide(a)) for a in (x.q, x.dout, x.k, x.v)
        )
        self.k, self.v = (np.repeat(a, self.groups, axis=1) for a in (keys, values))
        self.dlse = self._as_wide(x.dlse)
        T, S = x.visible.shape[2:]
        self.distance = (np.arange(S) - np.arange(T)[:, None]) / self.wide(64)
        modified = x.gain is not None
        self.gain = self._as_wide(x.gain)[:, None, None] if modified else self.wide(1)

    def results(self, *, terms: bool) -> Arrays:
        p, sink, lse, slope, scores, total = self._softmax()
        rounded = self._round(p)
        late = self._round(p * total) @ self.v / total
        out = self._round(late if self.late else rounded @ self.v)
        dp = self.dout @ self.v.mT
        mean = (self.dout * out).sum(axis=-1)
        ds = p * (dp - (mean - self.dlse)[..., None])
        found = {"out": _swapped(out), "lse": lse} | self._gradients(
            rounded, self._round(ds * slope), self.q, self.k, self.dout
        )
        self._add_others(found, ds, -sink * (mean - self.dlse), scores)
        if terms:
            size = p * (np.abs(dp) + (np.abs(mean) + np.abs(self.dlse))[..., None])
            dsinks = sink * (np.abs(mean) + np.abs(self.dlse))
            arrays = map(np.abs, (self.q, self.k, self.dout))
            sizes = self._gradients(p, size * np.abs(slope), *arrays)
            self._add_others(sizes, size, dsinks, np.abs(scores), np.abs)
            products = np.abs(self.q) @ np.abs(self.k).mT * abs(self.x.scale)
            # A soft cap is cap * (1 - 2 / (1 + e^2y)) where no unit computes tanh.
            products = (products + self.x.softcap) * np.abs(self.gain)
            sizes["lse"] = (p * products).sum(-1)
            sizes["out"] = p @ np.abs(self.v)
            found |= {f"{name}_terms": np.abs(a).max(initial=0.0) for name, a in sizes.items()}
        return found

    def _softmax(self) -> tuple[np.ndarray, ...]:
        """P, the sink's share, lse, what multiplies gradients, scores before gain, and sums."""
        scores = self.q @ self.k.mT * self.wide(self.x.scale)
        slope = np.ones_like(scores)
        if self.x.softcap:
            tanh = np.tanh(scores / self.wide(self.x.softcap))
            scores, slope = self.wide(self.x.softcap) * tanh, 1 - tanh**2
        if self.x.bias is not None:
            scores = scores + self._as_wide(self.x.bias)
        before = scores
        if self.x.gain is not None:
            tilt = self._as_wide(self.x.tilt)[:, None, None]
            scores, slope = scores * self.gain + tilt * self.distance, slope * self.gain
        scores = np.where(self.x.visible, scores, -np.inf).astype(self.wide)
        sinks = np.full(scores.shape[1], -np.inf)
        sinks = self._as_wide(sinks if self.x.sinks is None else self.x.sinks)[None, :, None]
        peak = np.maximum(scores.max(axis=-1, initial=-np.inf), sinks)
        peak = np.where(np.isneginf(peak), self.wide(0), peak)
        weights, sink = np.exp(scores - peak[..., None]), np.exp(sinks - peak)
        total = weights.sum(axis=-1) + sink
        with np.errstate(divide="ignore"):
            lse = np.log(total) + peak
        divisor = np.where(total == 0, self.wide(1), total)
        divisor = divisor[..., None]
        return weights / divisor, sink / divisor[..., 0], lse, slope, before, divisor

    def _gradients(
        self, p: np.ndarray, ds: np.ndarray, q: np.ndarray, k: np.ndarray, dout: np.ndarray
    ) -> Arrays:
        scale = self.wide(self.x.scale)
        return {
            "dq": self._round(_swapped(scale * (ds @ k))),
            "dk": self._round(scale * self._shared(ds.mT @ q)),
            "dv": self._round(self._shared(p.mT @ dout)),
        }

    def _add_others(
        self,
        found: Arrays,
        ds: np.ndarray,
        dsinks: np.ndarray,
        scores: np.ndarray,
        size: Any = _same,
    ) -> None:
        """Gradients of bias, gain, tilt and sinks, or with `size` absolute values of terms."""
        if self.x.bias is not None:
            shape = (1,) * (4 - self.x.bias.ndim) + self.x.bias.shape
            axes = tuple(axis for axis in range(4) if shape[axis] == 1)
            dbias = (ds * size(self.gain)).sum(axis=axes, keepdims=True)
            found["dbias"] = dbias.reshape(self.x.bias.shape)
        if self.x.gain is not None:
            found["dgain"] = (ds * scores).sum(axis=(0, 2, 3))
            found["dtilt"] = (ds * size(self.distance)).sum(axis=(0, 2, 3))
        if self.x.sinks is not None:
            found["dsinks"] = dsinks.sum(axis=(0, 2))

    def _shared(self, x: np.ndarray) -> np.ndarray:
        """Summed over the query heads that share a key head."""
        batch, heads, length, width = x.shape
        summed = x.reshape(batch, heads // self.groups, self.groups, length, width).sum(axis=2)
        return _swapped(summed)

    def _as_wide(self, x: Any) -> np.ndarray:
        return np.asarray(x).astype(self.wide)

    def _round(self, x: np.ndarray) -> np.ndarray:
        return x if self.dtype is None else x.astype(self.dtype).astype(self.wide)


def _swapped(x: np.ndarray) -> np.ndarray:
    """Heads and rows in the other order."""
    return x.swapaxes(1, 2)


def band(
    lengths: tuple[int, int],
    *,
    causal: bool,
    window: tuple[int | None, int | None],
    shift: np.ndarray | int = 0,
) -> np.ndarray:
    """(..., T, S): which keys j rows i see where their diagonal is j = i + shift (...)."""
    offset = np.arange(lengths[1])[None, :] - np.arange(lengths[0])[:, None]
    offset = offset - np.asarray(shift)[..., None, None]
    seen = np.ones(offset.shape, bool)
    if causal:
        seen &= offset <= 0
    if window[0] is not None:
        seen &= offset >= -window[0]
    if window[1] is not None:
        seen &= offset <= window[1]
    return seen
