"""What the NVIDIA driver of this machine can do."""

from __future__ import annotations

import ctypes
import functools


@functools.cache
def driver_cuda_version() -> tuple[int, int] | None:
    """The newest CUDA that the driver knows, as (major, minor); None where there is no driver."""
    try:
        get_version = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion
    except (OSError, AttributeError):
        return None
    number = ctypes.c_int(0)
    if get_version(ctypes.byref(number)) != 0:
        return None
    return number.value // 1000, number.value % 1000 // 10
