"""Record the runs that the model needs, of one of this package's kernels, on the emulator.

    python -m benchmarks.blackwell.timing.record FOLDER VARIANT [LIBRARY]

Writes the kernel's PTX, its cubin and a pickled Recording for each run. A process of its own: the
emulator has to be there before CuTe DSL is. LIBRARY is a build of csrc/cute_dsl, by default the
installed one.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np

import jax_fa4.emulator
from jax_fa4.aot import toolkit
from jax_fa4.aot.compile import kernel_class_path
from jax_fa4.aot.signatures import fake_arguments
from jax_fa4.emulator import cute_dsl
from jax_fa4.variants import ForwardVariant, parse
from jax_fa4.variants.select_sm100 import COSTS

# (name, keys, tiles of queries or 0 for as many rows as keys, causal)
RUNS = (
    ("full_1024_1", 1024, 1, False),
    ("full_2048_1", 2048, 1, False),
    ("full_3072_1", 3072, 1, False),
    ("full_4096_1", 4096, 1, False),
    ("full_1024_3", 1024, 3, False),
    ("causal_1024", 1024, 0, True),
    ("causal_2048", 2048, 0, True),
)
MULTIPROCESSORS = 148  # a causal run has as many CTAs as tiles
_UNBOUNDED = 2**30


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 256, np.uint8)
    start = -raw.ctypes.data % 128
    return raw[start : start + size].view(dtype).reshape(shape)


def _run(emulated: Any, head_dim: int, rows: int, keys: int, sm_count: int, causal: bool) -> Any:
    """One head of random numbers."""
    import cuda.bindings.driver as cuda
    import cutlass
    import ml_dtypes
    from cutlass.cute import AddressSpace
    from cutlass.cute.runtime import make_ptr

    random = np.random.default_rng(0)
    q, k, v = (_aligned((1, n, 1, head_dim), ml_dtypes.bfloat16) for n in (rows, keys, keys))
    for each in (q, k, v):
        each[...] = random.standard_normal(each.shape, dtype=np.float32).astype(each.dtype)
    out, lse = _aligned(q.shape, q.dtype), _aligned((1, 1, rows), np.float32)

    def pointer(kind: Any, array: Any) -> Any:
        return make_ptr(kind, array.ctypes.data, AddressSpace.gmem, assumed_align=16)

    arrays = [pointer(cutlass.BFloat16, x) for x in (q, k, v, out)] + [
        pointer(cutlass.Float32, lse)
    ]
    upper = 0 if causal else _UNBOUNDED
    shape = (1, rows, keys, 1, 1, head_dim, head_dim)
    numbers = (*shape, head_dim**-0.5, -_UNBOUNDED, upper, sm_count)
    with jax_fa4.emulator.options(seed=1, sm_count=sm_count), cute_dsl.record() as recordings:
        emulated(*arrays, *numbers, cuda.CUstream(0), buffers=[q, k, v, out, lse])
    return recordings[0]


def main() -> None:
    folder, variant = Path(sys.argv[1]), parse(sys.argv[2])
    assert isinstance(variant, ForwardVariant)
    library = sys.argv[3] if len(sys.argv) > 3 else None
    cute_dsl.start(variant.arch.target, library=library)
    toolkit.use(variant.arch.cuda_major)
    import cutlass.cute as cute

    module, name = kernel_class_path(variant).split(":")
    kernel = getattr(importlib.import_module(module), name)(variant)
    options = f"--gpu-arch {variant.arch.target} --keep-ptx --keep-cubin --generate-line-info"
    compiled = cute.compile(kernel, *fake_arguments(variant), options=options)
    emulated = cute_dsl.Emulated(compiled)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernel.ptx").write_text(compiled.__ptx__)
    (folder / "kernel.cubin").write_bytes(compiled.__cubin__)
    form = COSTS[variant.head_dim, variant.head_dim_v, variant.form]
    for run, keys, tiles, causal in RUNS:
        rows = tiles * form.rows or keys
        sm_count = MULTIPROCESSORS if causal else form.multiprocessors  # full: one takes all tiles
        recording = _run(emulated, variant.head_dim, rows, keys, sm_count, causal)
        (folder / f"{run}.pickle").write_bytes(pickle.dumps(recording))


if __name__ == "__main__":
    main()
