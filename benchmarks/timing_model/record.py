"""Record runs of one of this package's kernels on the emulator.

A process of its own: the emulator has to be there before CuTe DSL is.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import jax_fa4.emulator
from jax_fa4.aot import toolkit
from jax_fa4.aot.arguments import fake_arguments
from jax_fa4.aot.kernel_classes import kernel_class_path
from jax_fa4.aot.signatures import signature
from jax_fa4.emulator import cute_dsl
from jax_fa4.variants import ForwardVariant, Variant

_UNBOUNDED = 2**30


@dataclass(frozen=True)
class Run:
    """One head, `rows` queries by `keys`, on a chip of `multiprocessors`. Row i sees the keys up to
    `upper` + i, if it is given, else all.
    """

    name: str
    rows: int
    keys: int
    multiprocessors: int
    upper: int | None


def aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 256, np.uint8)
    start = -raw.ctypes.data % 128
    return raw[start : start + size].view(dtype).reshape(shape)


def _record(emulated: Any, head_dim: int, run: Run) -> Any:
    """One head of random numbers."""
    import cuda.bindings.driver as cuda
    import cutlass
    import ml_dtypes
    from cutlass.cute import AddressSpace
    from cutlass.cute.runtime import make_ptr

    random = np.random.default_rng(0)
    q, k, v = (
        aligned((1, n, 1, head_dim), ml_dtypes.bfloat16) for n in (run.rows, run.keys, run.keys)
    )
    for each in (q, k, v):
        each[...] = random.standard_normal(each.shape, dtype=np.float32).astype(each.dtype)
    out, lse = aligned(q.shape, q.dtype), aligned((1, 1, run.rows), np.float32)

    def pointer(kind: Any, array: Any) -> Any:
        return make_ptr(kind, array.ctypes.data, AddressSpace.gmem, assumed_align=16)

    arrays = [pointer(cutlass.BFloat16, x) for x in (q, k, v, out)] + [
        pointer(cutlass.Float32, lse)
    ]
    upper = _UNBOUNDED if run.upper is None else run.upper
    shape = (1, run.rows, run.keys, 1, 1, head_dim, head_dim)
    numbers = (*shape, head_dim**-0.5, -_UNBOUNDED, upper, run.multiprocessors)
    settings = jax_fa4.emulator.options(seed=1, sm_count=run.multiprocessors)
    with settings, cute_dsl.record() as recordings:
        emulated(*arrays, *numbers, cuda.CUstream(0), buffers=[q, k, v, out, lse])
    return recordings[0]


def emulated(folder: Path, variant: Variant, library: str | None) -> Any:
    """The kernel, to be called; its PTX and cubin in `folder`. Once in a process.

    `library` is a build of csrc/cute_dsl, by default the installed one.
    """
    cute_dsl.start(variant.arch.target, library=library)
    toolkit.use(variant.arch.cuda_major)
    import cutlass.cute as cute

    module, name = kernel_class_path(variant).split(":")
    kernel = getattr(importlib.import_module(module), name)(variant)
    options = f"--gpu-arch {variant.arch.target} --keep-ptx --keep-cubin --generate-line-info"
    arguments = fake_arguments(variant.dtype, signature(variant))
    compiled = cute.compile(kernel, *arguments, options=options)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernel.ptx").write_text(compiled.__ptx__)
    (folder / "kernel.cubin").write_bytes(compiled.__cubin__)
    return cute_dsl.Emulated(compiled)


def record(
    folder: Path, variant: ForwardVariant, runs: Iterable[Run], library: str | None = None
) -> None:
    """The kernel and a pickled Recording for each run."""
    kernel = emulated(folder, variant, library)
    for run in runs:
        recording = _record(kernel, variant.head_dim, run)
        (folder / f"{run.name}.pickle").write_bytes(pickle.dumps(recording))
