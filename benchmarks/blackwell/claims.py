"""What claiming tiles is worth to the Blackwell forward, in the model of time of `timing`.

    python -m benchmarks.blackwell.claims --nvdisasm NVDISASM --library LIBRARY

LIBRARY is a build of csrc/cute_dsl. Records the usual form and the one that claims tiles, once
with every claim granted, so that one CTA does all tiles, and once with none, so that each has a CTA
of its own; replays them, draws lines through the CTAs, and hands tiles out to a whole chip.
"""

from __future__ import annotations

import argparse
import heapq
import importlib
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import jax_fa4.emulator
from benchmarks.blackwell.timing.cells import HIDDEN, TOKENS
from benchmarks.timing_model import listing, replay, streams
from benchmarks.timing_model.lines import Line, fit
from benchmarks.timing_model.record import aligned
from benchmarks.timing_model.units import B200
from jax_fa4.aot import toolkit
from jax_fa4.aot.arguments import fake_arguments
from jax_fa4.aot.kernel_classes import kernel_class_path
from jax_fa4.aot.signatures import signature
from jax_fa4.emulator import cute_dsl
from jax_fa4.variants import Arch, DType, Form, ForwardVariant

VARIANTS = ((64, 64), (96, 96), (128, 128), (192, 128))
LENGTHS = (1024, 4096, 16384)
ROWS, BLOCK = 256, 128
GRANTED, REFUSED = 0, 4  # seeds with which the emulator grants every claim, or none
CLAIM_CYCLES = 1500  # until the answer is there [assumed: some trips to L2]
# Blocks of a tile that are left to multiply when the next one is claimed: two to be loaded, and two
# that are in the ring.
CLAIMED_BEFORE_END = 4
_UNBOUNDED = 2**30


class Replay(replay.Replay):
    """With requests for tiles, which the model of `timing` does not know."""

    def _arrivals(self, stream: Any, event: Any) -> Any:
        if event.opcode.startswith("clusterlaunchcontrol.try_cancel"):
            return [((stream.cta, thing, phase), size) for thing, phase, size in event.started]
        return super()._arrivals(stream, event)

    def _event(self, warp: Any, event: Any, now: float) -> float | None:
        if event.opcode.startswith("clusterlaunchcontrol.try_cancel"):
            for key, _ in self._arrivals(warp.stream, event):
                self._arrive(key, now + CLAIM_CYCLES)
            return now
        return super()._event(warp, event, now)


@dataclass(frozen=True)
class Tiles:
    """Cycles: of a CTA's first tile by its blocks, and of what each tile that it claims adds."""

    first: Line
    claimed: float | None  # beside its blocks, causal; None if nothing is claimed
    claimed_full: float | None  # full mask


def _record(emulated: Any, variant: ForwardVariant, rows: int, causal: bool, seed: int) -> Any:
    """One head of random numbers, as many keys as rows or 1024 for all."""
    import cuda.bindings.driver as cuda
    import cutlass
    import ml_dtypes
    from cutlass.cute import AddressSpace
    from cutlass.cute.runtime import make_ptr

    d, d_v, random = variant.head_dim, variant.head_dim_v, np.random.default_rng(0)
    keys = rows if causal else 1024
    sizes = ((rows, d), (keys, d), (keys, d_v), (rows, d_v))
    arrays = [aligned((1, n, 1, width), ml_dtypes.bfloat16) for n, width in sizes]
    for each in arrays[:3]:
        each[...] = random.standard_normal(each.shape, dtype=np.float32).astype(each.dtype)
    arrays.append(aligned((1, 1, rows), np.float32))
    kinds = [cutlass.BFloat16] * 4 + [cutlass.Float32]
    pointers = [
        make_ptr(kind, x.ctypes.data, AddressSpace.gmem, assumed_align=16)
        for kind, x in zip(kinds, arrays, strict=True)
    ]
    upper = 0 if causal else _UNBOUNDED
    numbers = (1, rows, keys, 1, 1, d, d_v, d**-0.5, -_UNBOUNDED, upper, B200.multiprocessors)
    with jax_fa4.emulator.options(seed=seed), cute_dsl.record() as recordings:
        emulated(*pointers, *numbers, cuda.CUstream(0), buffers=arrays)
    return recordings[0]


def _ends(ptx: str, code: listing.Listing, recording: Any) -> list[float]:
    """When each CTA is done, longest first."""
    if recording.finding or recording.dropped:
        raise RuntimeError(recording.finding or "events are missing")
    found = streams.streams(recording, ptx, code)
    return sorted(Replay(found, code, B200).run().end.values(), reverse=True)


def _blocks(length: int) -> list[int]:
    """Of each causal tile of a head, longest first."""
    return [(row + ROWS) // BLOCK for row in range(length - ROWS, -1, -ROWS)]


def measure(variant: ForwardVariant, folder: Path, nvdisasm: str) -> Tiles:
    """A form's tiles, replayed."""
    import cutlass.cute as cute

    module, name = kernel_class_path(variant).split(":")
    kernel = getattr(importlib.import_module(module), name)(variant)
    options = f"--gpu-arch {variant.arch.target} --keep-ptx --keep-cubin --generate-line-info"
    arguments = fake_arguments(variant.dtype, signature(variant))
    compiled = cute.compile(kernel, *arguments, options=options)
    cubin = folder / f"{variant.name}.cubin"
    cubin.write_bytes(compiled.__cubin__)
    code, emulated = listing.read_cubin(cubin, nvdisasm), cute_dsl.Emulated(compiled)

    def ends(rows: int, causal: bool, seed: int) -> list[float]:
        return _ends(compiled.__ptx__, code, _record(emulated, variant, rows, causal, seed))

    lengths = (1024, 2048)
    own = {n: ends(n, True, REFUSED) for n in lengths}
    first = fit([pair for n in lengths for pair in zip(_blocks(n), own[n], strict=True)])
    if variant.form is not Form.DYNAMIC:
        return Tiles(first, None, None)
    further = []
    for n in lengths:
        (end,) = ends(n, True, GRANTED)
        blocks = _blocks(n)
        further.append((end - first.start - first.slope * sum(blocks)) / (len(blocks) - 1))
    (end,) = ends(3 * ROWS, False, GRANTED)
    full = (end - first.start - first.slope * 3 * 1024 / BLOCK) / 2
    return Tiles(first, statistics.mean(further), full)


def makespan(tiles: Tiles, blocks: Sequence[int]) -> float:
    """Cycles until all are done. Who is free takes the next tile, or claims it a little earlier."""
    first, slope = tiles.first, tiles.first.slope
    ends = [(0.0, 0.0)] * B200.multiprocessors  # (when it takes its next tile, when it is done)
    for i, count in enumerate(blocks):
        takes, free = ends[0]
        if tiles.claimed is None or i < len(ends):
            done = free + B200.launch + first(count)
        else:
            done = free + tiles.claimed + slope * count
        takes = done if tiles.claimed is None else max(free, done - CLAIMED_BEFORE_END * slope)
        heapq.heapreplace(ends, (takes, done))
    return max(done for _, done in ends)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blackwell.claims")
    parser.add_argument("--nvdisasm", default=shutil.which("nvdisasm"))
    parser.add_argument("--library", required=True, help="libjax_fa4_cute_dsl.so")
    parser.add_argument("--folder", type=Path, default=Path("build/claims"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    cute_dsl.start(Arch.SM100.target, library=options.library)
    toolkit.use(Arch.SM100.cuda_major)
    print("| D | form | first tile | claimed, causal | claimed, full | a block |", end="")
    print("".join(f" S = {n} |" for n in LENGTHS))
    for d, d_v in VARIANTS:
        usual = None
        for form in (Form.USUAL, Form.DYNAMIC):
            variant = ForwardVariant(
                arch=Arch.SM100, dtype=DType.BF16, head_dim=d, head_dim_v=d_v, form=form
            )
            tiles = measure(variant, options.folder, options.nvdisasm)
            spans = []
            for n in LENGTHS:
                heads = TOKENS // n * (HIDDEN // d)
                spans.append(makespan(tiles, [b for b in _blocks(n) for _ in range(heads)]))
            usual = usual or spans
            numbers = (tiles.first.start, tiles.claimed, tiles.claimed_full, tiles.first.slope)
            words = ["-" if x is None else f"{x:.0f}" for x in numbers]
            words += [f"{x:.0f} ({x / u - 1:+.1%})" for x, u in zip(spans, usual, strict=True)]
            print(f"| {d} | {form.value or 'usual'} | {' | '.join(words)} |", flush=True)


if __name__ == "__main__":
    main()
