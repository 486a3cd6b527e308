"""Which form of a Hopper backward kernel a call runs on: a pair of CTAs where that was faster.

A pair adds half as much to global memory and loads queries once for both CTAs, but its CTAs wait
for each other, both walk the queries that either sees, and one idles behind an odd block of keys.
"""

from __future__ import annotations

from collections.abc import Sequence

from jax_fa4.variants.problem import Call
from jax_fa4.variants.variant import BackwardVariant, Form

_KEYS = 128  # of a CTA

# (head dim, whether a mask cuts something) -> speed of the pair over that of the usual form, main
# kernel alone, by the steps of 64 queries that a block of keys may walk. Measured on an H100 (bf16,
# 16384 tokens, 2048 hidden, lengths 512, 2048, 8192; benchmarks/NOTES.md).
PAIR_SPEED: dict[tuple[int, bool], dict[int, float]] = {
    (64, False): {8: 1.13, 32: 0.86, 128: 0.84},
    (64, True): {8: 0.93, 32: 0.82, 128: 0.80},
    (128, False): {8: 1.22, 32: 1.00, 128: 0.99},
    (128, True): {8: 1.01, 32: 0.95, 128: 1.00},
}


def pair_speed(head_dim: int, call: Call) -> float:
    """Speed of the pair over that of the usual form; that of the measured length next to it."""
    cut = call.band_upper < call.seqlen_k - 1 or call.band_lower > 1 - call.seqlen_q
    steps = max(1, call.seqlen_q // 64) * (call.heads // call.heads_kv)
    measured = PAIR_SPEED.get((head_dim, cut), {1: 1.0})
    nearest = min(measured, key=lambda length: max(length / steps, steps / length))
    blocks = -(-call.seqlen_k // _KEYS)
    return measured[nearest] * blocks / (blocks + blocks % 2)


def fastest(forms: Sequence[BackwardVariant], call: Call) -> BackwardVariant:
    """The pair of `forms` where it gains something, else the first."""
    wanted = Form.PAIR if pair_speed(forms[0].head_dim, call) > 1 else Form.USUAL
    return next((v for v in forms if v.form is wanted), forms[0])
