"""The CUDA driver through ctypes: loads PTX and launches it, with nothing but NumPy."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
ERROR_LOG, ERROR_LOG_BYTES = 5, 6  # CU_JIT_ERROR_LOG_BUFFER, ..._SIZE_BYTES
FAMILY = 75  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
CLUSTER_DIMENSION = 4  # CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
L2_128_BYTES = 2  # CU_TENSOR_MAP_L2_PROMOTION_L2_128B
ELEMENTS = {"u8": 0, "u16": 1, "u32": 2, "f16": 6, "f32": 7, "bf16": 9}  # CUtensorMapDataType
INVALID_VALUE = 1

Handle = ctypes.c_void_p


def joined(values: list[bytes], sizes: list[int]) -> Iterator[bytes]:
    """The value of each parameter; an array by value may be several of `values`."""
    parts = iter(values)
    for at, size in enumerate(sizes):
        value = b""
        while len(value) < size:
            part = next(parts, None)
            if part is None:
                raise ValueError(f"{len(values)} values, not enough for {len(sizes)} parameters")
            value += part
        if len(value) != size:
            raise ValueError(f"parameter {at} has {len(value)} bytes, the kernel's {size}")
        yield value


class Attribute(ctypes.Structure):
    """CUlaunchAttribute: an id, padding to 8 bytes, and a union of 64."""

    _fields_ = (
        ("id", ctypes.c_uint),
        ("pad", ctypes.c_uint),
        ("value", ctypes.c_uint * 16),
    )


class Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", Handle),
        ("attributes", ctypes.POINTER(Attribute)),
        ("attribute_count", ctypes.c_uint),
    )


class DriverError(Exception):
    """A call of the driver failed; `status` is its CUresult."""

    def __init__(self, call: str, status: int, name: str, log: str = "") -> None:
        super().__init__(f"{call}: {name} ({status}){log and chr(10) + log}")
        self.status = status


class Driver:
    """One context, the primary one of device 0. After an error it is of no more use."""

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL(os.environ.get("JAX_FA4_LIBCUDA", "libcuda.so.1"))
        self._call("cuInit", ctypes.c_uint(0))
        device = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        context = Handle()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)
        name = ctypes.create_string_buffer(100)
        self._call("cuDeviceGetName", name, ctypes.c_int(len(name)), device)
        family = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(family), ctypes.c_int(FAMILY), device)
        self.family = family.value  # the major compute capability
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        major, minor = divmod(version.value, 1000)
        self.description = f"{name.value.decode()}, driver for CUDA {major}.{minor // 10}"

    def _call(self, function: str, *arguments: Any, log: Any = None) -> None:
        status = getattr(self._cuda, function)(*arguments)
        if status:
            name = ctypes.c_char_p()
            self._cuda.cuGetErrorName(ctypes.c_int(status), ctypes.byref(name))
            text = log.value.decode(errors="replace") if log is not None else ""
            raise DriverError(function, status, (name.value or b"?").decode(), text)

    @contextmanager
    def module(self, text: str) -> Iterator[Handle]:
        """`text` compiled by the driver; what is wrong with it is in the error."""
        log = ctypes.create_string_buffer(8192)
        options = (ctypes.c_int * 2)(ERROR_LOG, ERROR_LOG_BYTES)
        values = (Handle * 2)(ctypes.addressof(log), len(log))
        module = Handle()
        image = ctypes.create_string_buffer(text.encode())
        count = ctypes.c_uint(len(options))
        self._call(
            "cuModuleLoadDataEx", ctypes.byref(module), image, count, options, values, log=log
        )
        yield module
        self._call("cuModuleUnload", module)

    def function(self, module: Handle, name: str) -> Handle:
        function = Handle()
        self._call("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        return function

    def parameters(self, function: Handle) -> list[tuple[int, int]]:
        """(offset, bytes) of each parameter."""
        found: list[tuple[int, int]] = []
        while True:
            offset, size = ctypes.c_size_t(), ctypes.c_size_t()
            index = ctypes.c_size_t(len(found))
            try:
                self._call(
                    "cuFuncGetParamInfo", function, index, ctypes.byref(offset), ctypes.byref(size)
                )
            except DriverError as error:
                if error.status != INVALID_VALUE:
                    raise
                return found
            found.append((offset.value, size.value))

    @contextmanager
    def memory(self, array: np.ndarray) -> Iterator[int]:
        """The address of a copy of `array` on the device, which is copied back at the end."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(array.nbytes, 1)))
        size, host = ctypes.c_size_t(array.nbytes), Handle(array.ctypes.data)
        self._call("cuMemcpyHtoD_v2", address, host, size)
        yield address.value
        self._call("cuMemcpyDtoH_v2", host, address, size)
        self._call("cuMemFree_v2", address)

    def tensor_map(self, described: Any, address: int) -> bytes:
        """The 128 bytes that the driver makes of a launches.TensorMap."""
        rank = len(described.dims)
        raw = ctypes.create_string_buffer(192)
        at = -ctypes.addressof(raw) % 64
        wide, words = ctypes.c_uint64 * max(rank, 2), ctypes.c_uint32 * rank
        self._call(
            "cuTensorMapEncodeTiled",
            Handle(ctypes.addressof(raw) + at),
            ctypes.c_int(ELEMENTS[described.kind]),
            ctypes.c_uint32(rank),
            Handle(address + described.offset),
            wide(*described.dims),
            wide(*described.strides),
            words(*described.box),
            words(*(described.steps or (1,) * rank)),
            ctypes.c_int(0),  # CU_TENSOR_MAP_INTERLEAVE_NONE
            ctypes.c_int(described.swizzle),
            ctypes.c_int(L2_128_BYTES),
            ctypes.c_int(int(described.fill_nan)),
        )
        return raw.raw[at : at + 128]

    def launch(self, function: Handle, launch: Any, values: list[bytes]) -> None:
        """Runs the kernel to its end; `values` has its parameters, and perhaps more."""
        if launch.shared > 48 << 10:
            limit = ctypes.c_int(launch.shared)
            self._call("cuFuncSetAttribute", function, ctypes.c_int(MAX_DYNAMIC_SHARED), limit)
        # NOTES: offsets that the driver tells are none of a packed block: an alignment of 64 is
        # that of its constant bank.
        sizes = [size for _, size in self.parameters(function)]
        buffers = [ctypes.create_string_buffer(v, len(v)) for v in joined(values, sizes)]
        places = (Handle * (len(sizes) + 1))(*map(ctypes.addressof, buffers))
        cluster = Attribute(CLUSTER_DIMENSION, 0, (ctypes.c_uint * 16)(*launch.cluster))
        config = Config(
            (ctypes.c_uint * 3)(*launch.grid),
            (ctypes.c_uint * 3)(*launch.block),
            launch.shared,
            None,
            ctypes.pointer(cluster),
            1,
        )
        self._call("cuLaunchKernelEx", ctypes.byref(config), function, places, None)
        self._call("cuCtxSynchronize")
