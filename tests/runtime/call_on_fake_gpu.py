"""Runs in a process of its own, where libcuda.so.1 is the fake one: makes the calls given as JSON
and prints their error texts and the fake driver's journal.

    call_on_fake_gpu.py <ffi_caller.so> <calls>

A call is [stage, device, variants]; a list of lists of calls runs each list in its own thread.
"""

import ctypes
import json
import sys
import threading
from collections.abc import Callable

from jax_fa4 import _ext

STAGES = {"initialize": 2, "execute": 3}
TARGET = "jax_fa4_bwd_preprocess_v1"


def handler(stage: str) -> int:
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype = ctypes.c_void_p
    get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    return int(get_pointer(_ext.registrations()[TARGET][stage], None))


def main() -> None:
    caller = ctypes.CDLL(sys.argv[1])
    driver = ctypes.CDLL("libcuda.so.1")
    caller.call_preprocess.restype = ctypes.c_char_p
    caller.call_preprocess.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
    caller.call_preprocess.argtypes += [ctypes.c_char_p]
    driver.fake_cuda_journal.restype = ctypes.c_char_p
    threads = json.loads(sys.argv[2])
    errors: list[list[str]] = [[] for _ in threads]
    depths: list[int] = []
    start = threading.Barrier(len(threads))

    def run(index: int) -> Callable[[], None]:
        def body() -> None:
            start.wait()
            for stage, device, variants in threads[index]:
                text = caller.call_preprocess(
                    handler(stage), STAGES[stage], 0x1000 + device, variants.encode()
                )
                errors[index].append(text.decode())
            depths.append(driver.fake_cuda_context_depth())

        return body

    running = [threading.Thread(target=run(index)) for index in range(len(threads))]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    journal = driver.fake_cuda_journal().decode().splitlines()
    print(json.dumps({"errors": errors, "journal": journal, "context_depths": depths}))


if __name__ == "__main__":
    main()
