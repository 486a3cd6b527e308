"""Record the runs that the model needs, of one of this package's backward kernels.

python -m benchmarks.blackwell.backward.record FOLDER VARIANT [LIBRARY]
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np

import jax_fa4.emulator
from benchmarks.timing_model.record import aligned, emulated
from jax_fa4.emulator import cute_dsl
from jax_fa4.variants import BackwardVariant, parse

KEYS = 128  # of a CTA
# (name, queries, keys or 0 for those of one CTA or pair, causal)
RUNS = (
    ("full_1024", 1024, 0, False),
    ("full_2048", 2048, 0, False),
    ("causal_1024", 1024, 1024, True),
    ("causal_2048", 2048, 2048, True),
)
_MULTIPROCESSORS = 148
_UNBOUNDED = 2**30


def _record(kernel: Any, head_dim: int, own_keys: int, run: tuple[str, int, int, bool]) -> Any:
    """One head of random numbers; statistics near those of the forward."""
    import cuda.bindings.driver as cuda
    import cutlass
    import ml_dtypes
    from cutlass.cute import AddressSpace
    from cutlass.cute.runtime import make_ptr

    _, queries, keys, causal = run
    keys = keys or own_keys
    random = np.random.default_rng(0)
    rows = (queries, keys, keys, queries, keys, keys)  # q, k, v, dout, dk, dv
    tensors = [aligned((1, n, 1, head_dim), ml_dtypes.bfloat16) for n in rows]
    for each in tensors[:4]:
        each[...] = random.standard_normal(each.shape, dtype=np.float32).astype(each.dtype)
    lse_log2, delta = (aligned((1, 1, queries), np.float32) for _ in range(2))
    lse_log2[...] = np.log2(keys) + 0.7
    dq_accum = aligned((1, 1, queries, head_dim), np.float32)
    semaphores = aligned((1, 1, queries // 64), np.int32)

    def pointer(kind: Any, array: Any) -> Any:
        return make_ptr(kind, array.ctypes.data, AddressSpace.gmem, assumed_align=16)

    kinds = [cutlass.BFloat16] * 4 + [cutlass.Float32] * 3 + [cutlass.BFloat16] * 2
    buffers = [*tensors[:4], lse_log2, delta, dq_accum, *tensors[4:], semaphores]
    pointers = map(pointer, [*kinds, cutlass.Int32], buffers)
    upper = 0 if causal else _UNBOUNDED
    shape = (1, queries, keys, 1, 1, head_dim, head_dim)
    numbers = (*shape, head_dim**-0.5, -_UNBOUNDED, upper, _MULTIPROCESSORS)
    settings = jax_fa4.emulator.options(seed=1, sm_count=_MULTIPROCESSORS)
    with settings, cute_dsl.record() as recordings:
        kernel(*pointers, *numbers, cuda.CUstream(0), buffers=buffers)
    return recordings[0]


def main() -> None:
    folder, variant = Path(sys.argv[1]), parse(sys.argv[2])
    assert isinstance(variant, BackwardVariant)
    kernel = emulated(folder, variant, sys.argv[3] if len(sys.argv) > 3 else None)
    own_keys = KEYS * (2 if variant.name.endswith("_pair") else 1)
    for run in RUNS:
        recording = _record(kernel, variant.head_dim, own_keys, run)
        (folder / f"{run[0]}.pickle").write_bytes(pickle.dumps(recording))


if __name__ == "__main__":
    main()
