"""A kernel that is being written, run on the emulator: needs nvidia-cutlass-dsl and no GPU.

    python tests/emulator/cute_dsl_example.py             # reverses every 128 numbers
    python tests/emulator/cute_dsl_example.py --forget    # the barrier, and see what is said

One block reverses 128 numbers through shared memory; in between, all of its threads must wait.
"""

import sys

import numpy as np

import jax_fa4.emulator
from jax_fa4.emulator import cute_dsl

cute_dsl.start("sm_100a")

import cutlass  # noqa: E402
import cutlass.cute as cute  # noqa: E402
from cutlass.cute.runtime import from_dlpack, make_ptr  # noqa: E402

BLOCK = 128


@cute.kernel
def reverse(x: cute.Tensor, y: cute.Tensor, waits: cutlass.Constexpr):
    thread, _, _ = cute.arch.thread_idx()
    block, _, _ = cute.arch.block_idx()
    memory = cutlass.memory.SmemAllocator().allocate_tensor(
        cutlass.Float32, cute.make_layout(BLOCK), byte_alignment=16
    )
    memory[thread] = x[block * BLOCK + thread]
    if cutlass.const_expr(waits):
        cute.arch.sync_threads()
    y[block * BLOCK + thread] = memory[BLOCK - 1 - thread]


@cute.jit
def reverse_blocks(x: cute.Tensor, y: cute.Tensor, waits: cutlass.Constexpr):
    reverse(x, y, waits).launch(grid=(cute.size(x) // BLOCK, 1, 1), block=(BLOCK, 1, 1))


@cute.jit
def reverse_at(x: cute.Pointer, y: cute.Pointer, blocks: cutlass.Constexpr):
    layout = cute.make_layout(blocks * BLOCK)
    reverse(cute.make_tensor(x, layout), cute.make_tensor(y, layout), True).launch(
        grid=(blocks, 1, 1), block=(BLOCK, 1, 1)
    )


def main() -> int:
    waits = "--forget" not in sys.argv
    x = np.arange(4 * BLOCK, dtype=np.float32)
    y = np.zeros_like(x)
    expected = x.reshape(-1, BLOCK)[:, ::-1].reshape(-1)

    tensors = [from_dlpack(array) for array in (x, y)]
    function = cute_dsl.compile(reverse_blocks, *tensors, waits)
    try:
        with jax_fa4.emulator.options(seed=1, completion="latest"):
            function(*tensors)
    except cute_dsl.EmulatorError as error:
        print(error)
        return 1
    np.testing.assert_array_equal(y, expected)

    # Bare pointers do not say how much there is behind them: `buffers` does.
    y[:] = 0
    pointers = [
        make_ptr(cutlass.Float32, array.ctypes.data, cute.AddressSpace.gmem) for array in (x, y)
    ]
    by_pointer = cute_dsl.compile(reverse_at, *pointers, len(x) // BLOCK)
    with cute_dsl.record() as recordings:
        by_pointer(*pointers, buffers=[x, y])
    np.testing.assert_array_equal(y, expected)
    (recording,) = recordings
    recorded = int(recording.counts["warps"].sum())
    starts = int((recording.jumps["own"] == 0).sum())
    print(f"recorded {starts} warps, {recorded} of {by_pointer.instructions} instructions")
    print(f"right, {function.launches} launch of {function.instructions} warp instructions")

    x.flags.writeable = False
    y.flags.writeable = False
    for buffers in ([x], [x, y]):
        try:
            by_pointer(*pointers, buffers=buffers)
        except cute_dsl.EmulatorError as error:
            print(str(error).splitlines()[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
