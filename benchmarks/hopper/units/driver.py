"""Kernels on the GPU through the driver alone: load, launch, read back."""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Callable

_LOG = 1 << 14
_ERROR_LOG, _ERROR_LOG_SIZE = 5, 6  # CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES
_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_MULTIPROCESSORS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT


class Gpu:
    """GPU 0. A kernel takes a pointer to 64-bit results, one to zeros, and two 32-bit numbers.

    `assemble` makes a cubin of a PTX text; without one the driver does, each time anew.
    """

    def __init__(
        self,
        assemble: Callable[[str], bytes] | None = None,
        results: int = 1 << 14,
        scratch: int = 1 << 28,
    ) -> None:
        self.cuda = ctypes.CDLL("libcuda.so.1")
        self.assemble = assemble or str.encode
        context = ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self._call("cuCtxSetCurrent", context)
        self.results, self.count = self._allocate(8 * results), results
        self.scratch, self.scratch_size = self._allocate(scratch), scratch
        self.functions: dict[str, ctypes.c_void_p] = {}
        number = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(number), _MULTIPROCESSORS, 0)
        self.multiprocessors = number.value

    def _call(self, name: str, *arguments: object) -> None:
        status = getattr(self.cuda, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} answered with error {status}")

    def _allocate(self, size: int) -> ctypes.c_uint64:
        pointer = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), ctypes.c_size_t(size))
        self._call("cuMemsetD8_v2", pointer, ctypes.c_ubyte(0), ctypes.c_size_t(size))
        return pointer

    def flush(self) -> None:
        """Leave nothing of the first half of the scratch memory in L2."""
        half = self.scratch_size // 2
        address = ctypes.c_uint64(self.scratch.value + half)
        self._call("cuMemsetD8_v2", address, ctypes.c_ubyte(0), ctypes.c_size_t(half))
        self._call("cuCtxSynchronize")

    def _load(self, ptx: str) -> ctypes.c_void_p:
        if ptx in self.functions:
            return self.functions[ptx]
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        log = ctypes.create_string_buffer(_LOG)
        names = (ctypes.c_int * 2)(_ERROR_LOG, _ERROR_LOG_SIZE)
        values = (ctypes.c_void_p * 2)(ctypes.cast(log, ctypes.c_void_p), _LOG)
        image = ctypes.c_char_p(self.assemble(ptx))
        if self.cuda.cuModuleLoadDataEx(ctypes.byref(module), image, 2, names, values):
            raise RuntimeError(f"a kernel was refused: {log.value.decode()}")
        self._call("cuModuleGetFunction", ctypes.byref(function), module, b"main")
        self.functions[ptx] = function
        return function

    def run(
        self,
        ptx: str,
        numbers: tuple[int, int] = (0, 0),
        *,
        threads: int,
        ctas: int = 1,
        shared: int = 0,
    ) -> list[int]:
        """Launch the kernel `main` of `ptx`; the results, zero where it wrote none."""
        function = self._load(ptx)
        self._call("cuFuncSetAttribute", function, _DYNAMIC_SHARED, shared)
        size = ctypes.c_size_t(8 * self.count)
        self._call("cuMemsetD8_v2", self.results, ctypes.c_ubyte(0), size)
        values = [self.results, self.scratch, *(ctypes.c_uint32(each) for each in numbers)]
        pointers = (ctypes.c_void_p * 4)(*(ctypes.addressof(each) for each in values))
        grid, block = (ctas, 1, 1), (threads, 1, 1)
        self._call("cuLaunchKernel", function, *grid, *block, shared, None, pointers, None)
        self._call("cuCtxSynchronize")
        found = array("Q", bytes(8 * self.count))
        address = ctypes.c_void_p(found.buffer_info()[0])
        self._call("cuMemcpyDtoH_v2", address, self.results, size)
        return found.tolist()
