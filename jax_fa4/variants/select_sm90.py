"""Which form of a Hopper backward kernel a call runs on: what was fastest, by the call's lengths.

A pair of CTAs adds half as much to global memory and loads queries once for both, but its CTAs wait
for each other, both walk the queries that either sees, and one idles behind an odd block of keys.

The serial form adds nothing to global memory beyond L2 and needs neither zeros nor a kernel after
it: as long as the queries and sums of a head for every multiprocessor stay in L2. It has a CTA for
each KV head, and wants many.

Forms whose CTAs take turns lose a share of their speed, the pair less than the usual one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from jax_fa4.variants.problem import Call
from jax_fa4.variants.variant import BackwardVariant, Form

_KEYS = 128  # of a CTA
_MULTIPROCESSORS = 132  # of an H100; another count moves few calls

# (head dim, whether a mask cuts something) -> speed of the pair over that of the usual form, by the
# steps of 64 queries that a block of keys may walk. Measured on an H100 (bf16, 16384 tokens, 2048
# hidden, lengths 512, 2048, 8192; benchmarks/NOTES.md): at 64 the main kernel alone, at 128 all
# kernels of the backward together.
PAIR_SPEED: dict[tuple[int, bool], dict[int, float]] = {
    (64, False): {8: 1.13, 32: 0.86, 128: 0.84},
    (64, True): {8: 0.93, 32: 0.82, 128: 0.80},
    (128, False): {8: 1.19, 32: 0.98, 128: 0.96},
    (128, True): {8: 1.00, 32: 0.94, 128: 0.93},
}

# Likewise the speed of the serial form over the better of the other two, of all kernels of the
# backward together, by the queries of all heads that a KV head has (there 128 to 2048 of one).
SERIAL_SPEED: dict[tuple[int, bool], dict[int, float]] = {
    (64, False): {128: 1.72, 256: 1.50, 512: 1.33, 768: 1.07, 1024: 1.02, 2048: 0.67},
    (64, True): {128: 1.72, 256: 1.64, 512: 1.47, 768: 1.20, 1024: 1.16, 2048: 0.80},
    (128, False): {128: 1.73, 256: 1.27, 512: 1.02, 768: 0.78, 1024: 0.70},
    (128, True): {128: 1.73, 256: 1.55, 512: 1.27, 768: 0.93, 1024: 0.82},
}

# Speed of a form whose CTAs take turns over that of the same one without, likewise, from 2048 on.
TURNS_SPEED: dict[tuple[int, Form], float] = {
    (64, Form.USUAL): 0.92,
    (128, Form.USUAL): 0.85,
    (128, Form.PAIR): 0.95,
}


def _is_cut(call: Call) -> bool:
    """Whether a mask hides something."""
    return call.band_upper < call.seqlen_k - 1 or call.band_lower > 1 - call.seqlen_q


def _nearest(measured: dict[int, float], length: int) -> float:
    """What was measured at the length next to this one, by their ratio."""
    return measured[min(measured, key=lambda known: max(known / length, length / known))]


def _share(ctas: int) -> float:
    """Of the multiprocessors' time that CTAs take which all last as long."""
    return ctas / _MULTIPROCESSORS / math.ceil(ctas / _MULTIPROCESSORS)


def pair_speed(head_dim: int, call: Call) -> float:
    """Speed of the pair over that of the usual form."""
    steps = max(1, call.seqlen_q // 64) * (call.heads // call.heads_kv)
    measured = PAIR_SPEED.get((head_dim, _is_cut(call)), {1: 1.0})
    blocks = -(-call.seqlen_k // _KEYS)
    return _nearest(measured, steps) * blocks / (blocks + blocks % 2)


def serial_speed(head_dim: int, call: Call) -> float:
    """Speed of the serial form over that of the better other one."""
    measured = SERIAL_SPEED.get((head_dim, _is_cut(call)), {1: 0.0})
    rows = max(1, call.seqlen_q) * (call.heads // call.heads_kv)
    units = call.batch * call.heads_kv
    blocks = -(-call.seqlen_k // _KEYS)
    return _nearest(measured, rows) * _share(units) / _share(units * blocks)


def fastest(forms: Sequence[BackwardVariant], call: Call) -> BackwardVariant:
    """The one of `forms`, in any order, that gains something over the usual one, else that."""
    over_usual = pair_speed(forms[0].head_dim, call)
    speeds = {Form.USUAL: 1.0, Form.PAIR: over_usual}
    if any(variant.form is Form.SERIAL for variant in forms):
        serial = serial_speed(forms[0].head_dim, call)
        speeds[Form.SERIAL] = serial * max(1.0, over_usual)

    def speed(variant: BackwardVariant) -> tuple[float, bool]:
        kept = TURNS_SPEED.get((variant.head_dim, variant.form), 1.0)
        over = speeds[variant.form] * (kept if variant.deterministic else 1.0)
        return over, variant.form is Form.USUAL

    return max(forms, key=speed)
