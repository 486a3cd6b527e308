"""Runs in a process of its own, where libcuda.so.1 is the fake one: makes the calls given as JSON
and prints their error texts and the fake driver's journal.

    call_on_fake_gpu.py <ffi_caller.so> <threads>

<threads> is a list of lists of calls; each list of calls runs in its own thread. The keys of a call
are those of test_launch.py's `forward`, `backward` and `preprocess`.
"""

import ctypes
import json
import sys
import threading
from typing import Any

from jax_fa4 import _ext

STAGES = {"initialize": 2, "execute": 3}
DTYPES = {"int32": 4, "fp16": 10, "fp32": 11, "bf16": 16}


class Buffer(ctypes.Structure):
    _fields_ = (
        ("dtype", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("dims", ctypes.c_int64 * 4),
        ("data", ctypes.c_void_p),
    )


class Attributes(ctypes.Structure):
    _fields_ = (
        ("variants", ctypes.c_char_p),
        ("softmax_scale", ctypes.c_float),
        ("band_lower", ctypes.c_int32),
        ("band_upper", ctypes.c_int32),
    )


def handler(target: str, stage: str) -> ctypes.c_void_p:
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype = ctypes.c_void_p
    get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return ctypes.c_void_p(get_pointer(_ext.registrations()[target][stage], None))


def make_call(caller: ctypes.CDLL, call: dict[str, Any]) -> str:
    """The error's number and text; empty if the call succeeded."""
    specs = call["arguments"] + call["results"]
    buffers = (Buffer * len(specs))(
        *(Buffer(DTYPES[dtype], len(shape), tuple(shape), data) for dtype, shape, data in specs)
    )
    attributes = Attributes(call["variants"].encode(), *call["scalars"])
    text: bytes = caller.call_handler(
        handler(call["target"], call["stage"]),
        STAGES[call["stage"]],
        ctypes.c_void_p(0x1000 + call["device"]),
        buffers,
        len(call["arguments"]),
        len(call["results"]),
        ctypes.byref(attributes),
        1 + len(call["scalars"]),
    )
    return text.decode()


def main() -> None:
    caller = ctypes.CDLL(sys.argv[1])
    caller.call_handler.restype = ctypes.c_char_p
    driver = ctypes.CDLL("libcuda.so.1")
    driver.fake_cuda_journal.restype = ctypes.c_char_p
    threads = json.loads(sys.argv[2])
    errors: list[list[str]] = [[] for _ in threads]
    depths: list[int] = []
    start = threading.Barrier(len(threads))

    def run(index: int) -> None:
        start.wait()
        errors[index] = [make_call(caller, call) for call in threads[index]]
        depths.append(driver.fake_cuda_context_depth())

    running = [threading.Thread(target=run, args=(index,)) for index in range(len(threads))]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    traits = {
        target: caller.handler_traits(handler(target, "execute")) for target in _ext.registrations()
    }
    journal = driver.fake_cuda_journal().decode().splitlines()
    print(
        json.dumps(
            {"errors": errors, "journal": journal, "context_depths": depths, "traits": traits}
        )
    )


if __name__ == "__main__":
    main()
