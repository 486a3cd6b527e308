"""Arrays on the host: where their bytes are, and how to hand them over as if on a GPU."""

from __future__ import annotations

import ctypes
from typing import Any

# DLPack's codes (dlpack.h, DLDataTypeCode) and widths, by the names of NumPy's and torch's types.
_DTYPES = {
    **{f"int{bits}": (0, bits) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": (1, bits) for bits in (8, 16, 32, 64)},
    **{f"float{bits}": (2, bits) for bits in (16, 32, 64)},
    "bfloat16": (4, 16),
    "bool": (6, 8),
    "float8_e4m3fn": (10, 8),
    "float8_e5m2": (12, 8),
}
_CUDA = 2


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    )


class _DLManaged(ctypes.Structure):
    _fields_ = (
        ("tensor", _DLTensor),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


class HostArray:
    """A NumPy array or a torch tensor on the CPU: address, shape, strides in elements, type."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.dtype = str(array.dtype).removeprefix("torch.")
        self.shape = tuple(map(int, array.shape))
        self.writable = True
        if _is_numpy(array):
            self.address = int(array.ctypes.data)
            self.itemsize = int(array.itemsize)
            self.strides = tuple(stride // self.itemsize for stride in array.strides)
            self.writable = bool(array.flags.writeable)
        else:
            self.address = int(array.data_ptr())
            self.itemsize = int(array.element_size())
            self.strides = tuple(map(int, array.stride()))

    def extent(self) -> tuple[int, int]:
        """First byte and the one after the last."""
        if 0 in self.shape:
            return self.address, self.address
        reach = [(size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True)]
        first = self.address + self.itemsize * sum(step for step in reach if step < 0)
        last = self.address + self.itemsize * sum(step for step in reach if step > 0)
        return first, last + self.itemsize


class OnGpu:
    """A host array that DLPack hands over as one on GPU 0; it must outlive what takes it."""

    def __init__(self, array: HostArray) -> None:
        if array.dtype not in _DTYPES:
            raise TypeError(f"an array of {array.dtype} cannot be handed over by DLPack")
        rank = len(array.shape)
        self._shape = (ctypes.c_int64 * rank)(*array.shape)
        self._strides = (ctypes.c_int64 * rank)(*array.strides)
        self._array = array
        self._managed = _DLManaged(
            _DLTensor(
                array.address,
                (ctypes.c_int32 * 2)(_CUDA, 0),
                rank,
                _DataType(*_DTYPES[array.dtype], 1),
                self._shape,
                self._strides,
                0,
            )
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return (_CUDA, 0)

    def __dlpack__(self, **_: Any) -> Any:
        return _new_capsule(ctypes.addressof(self._managed), b"dltensor", None)


def is_host_array(value: Any) -> bool:
    """Whether it is a NumPy array or a torch tensor on the CPU."""
    if _is_numpy(value):
        return True
    device = getattr(value, "device", None)
    return hasattr(value, "data_ptr") and getattr(device, "type", None) == "cpu"


def _is_numpy(value: Any) -> bool:
    return hasattr(value, "__array_interface__") and hasattr(value, "ctypes")
