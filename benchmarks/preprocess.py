"""Time the backward preprocess kernel beside XLA's fusion of the same formula, in GB/s.

    python -m benchmarks.preprocess

Bytes are O and dO, lse and dlse read, delta, lse_log2 and the zeros of dq_accum written, whatever
is really moved; the copy is the ceiling: a device-to-device copy of the size of O, read plus
written.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp

from benchmarks.cells import HEAD_DIMS, Cell
from benchmarks.measure import DISTINCT_INPUTS
from benchmarks.roofline import preprocess_bytes
from jax_fa4.testing import timing
from jax_fa4.variants import CATALOG, BackwardPreprocessVariant, DType

ROUNDS = 5
VARIANTS = tuple(
    variant.name
    for variant in CATALOG
    if isinstance(variant, BackwardPreprocessVariant) and variant.dtype is DType.BF16
)


def _by_xla(out: jax.Array, dout: jax.Array, lse: jax.Array, dlse: jax.Array) -> tuple[Any, ...]:
    from jax_fa4.ops.portable import row_delta

    dq_accum = jnp.zeros((*lse.shape, out.shape[-1]), jnp.float32)
    return row_delta(out, dout, dlse), lse * jnp.float32(1.4426950408889634), dq_accum


def contestants() -> dict[str, Callable[..., Any]]:
    """The kernel where its extension and a GPU are there, and the same by XLA.

    Each returns delta first, of rows that are padded: 2048 is a whole number of tiles.
    """
    found: dict[str, Callable[..., Any]] = {"xla": _by_xla}
    if jax.devices()[0].platform == "gpu":
        from jax_fa4 import ffi
        from jax_fa4.ffi.backward import backward_preprocess

        ffi.register()
        found["kernel"] = lambda *arrays: backward_preprocess(
            *arrays, width=arrays[0].shape[-1], variants=VARIANTS
        )
    else:
        print("kernel is absent: it needs an NVIDIA GPU", flush=True)
    return found


def make_inputs(cell: Cell) -> list[tuple[jax.Array, ...]]:
    """DISTINCT_INPUTS of (out, dout, lse, dlse), together far larger than the L2 cache."""

    @jax.jit
    def draw(key: jax.Array) -> tuple[jax.Array, ...]:
        keys = jax.random.split(key, 4)
        out, dout = (jax.random.normal(k, cell.shape, jnp.bfloat16) for k in keys[:2])
        shape = (cell.batch, cell.heads, cell.seqlen)
        return out, dout, *(jax.random.normal(k, shape, jnp.float32) for k in keys[2:])

    return [draw(key) for key in jax.random.split(jax.random.key(0), DISTINCT_INPUTS)]


def measure(cell: Cell) -> dict[str, float]:
    """Seconds of one call by contestant, the copy included; the kernel is checked first."""
    inputs = make_inputs(cell)

    def each(function: Callable[..., Any]) -> Callable[[], Any]:
        program = jax.jit(lambda sets: [function(*arrays) for arrays in sets])
        return lambda: program(inputs)

    functions = contestants()
    calls = {name: each(function) for name, function in functions.items()}
    calls["copy"] = each(lambda out, *_: jnp.negative(out))
    if "kernel" in calls:
        for ours, plain in zip(calls["kernel"](), calls["xla"](), strict=True):
            worst = float(jnp.max(jnp.abs(ours[0] - plain[0])))
            if not worst < 1e-3:  # both sum float32 products of 2-byte numbers
                raise SystemExit(f"{cell.name}: the kernel differs from XLA by {worst}")
    executions = {name: timing.calibrate(call) for name, call in calls.items()}
    timed = timing.interleaved(calls, executions, rounds=ROUNDS)
    return {name: result.seconds / DISTINCT_INPUTS for name, result in timed.items()}


def main() -> int:
    """One line for each head dim."""
    for head_dim in HEAD_DIMS:
        cell = Cell(head_dim=head_dim, seqlen=2048, mask="full", pass_="fwd")
        words = []
        for name, seconds in measure(cell).items():
            moved = cell.tokens * cell.hidden * 4 if name == "copy" else preprocess_bytes(cell)
            words.append(f"{name} {seconds * 1e6:.1f} us, {moved / seconds / 1e9:.0f} GB/s")
        print(f"D = {head_dim}: " + "; ".join(words), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
