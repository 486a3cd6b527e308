"""Run FlashAttention-4's own sm_100a forward on the emulator, in an environment that has it.

    python flash_attention_4.py LIBRARY HEAD_DIM CAUSAL SEQLEN HEADS KV_HEADS SEED COMPLETION

LIBRARY is built by evidence.py, which calls this. The package compiles its kernel for fake
tensors, as it does without a GPU; its launch is caught and made on host memory that says it is
on a GPU. Prints one line of JSON.
"""

from __future__ import annotations

import ctypes
import glob
import json
import math
import os
import sys
import tempfile
import time
from typing import Any

LIBRARY = sys.argv[1]
HEAD_DIM, CAUSAL, SEQLEN, HEADS, KV_HEADS, SEED, COMPLETION = map(int, sys.argv[2:9])
DUMP = tempfile.mkdtemp()
os.environ.update(
    FLASH_ATTENTION_ARCH="sm_100",
    FLASH_ATTENTION_NUM_SMS="148",
    CUTE_DSL_ARCH="sm_100a",
    CUTE_DSL_KEEP="ptx",
    CUTE_DSL_DUMP_DIR=DUMP,
    CUTE_DSL_LINEINFO="1",
    CUTE_DSL_LIBS=LIBRARY,
)

import cutlass.utils  # noqa: E402
import torch  # noqa: E402
import tvm_ffi  # noqa: E402


class _B200:
    """What the package asks of the hardware."""

    def __init__(self, *_: Any) -> None:
        pass

    def get_max_active_clusters(self, size: int) -> int:
        return 148 // size

    def get_device_multiprocessor_count(self) -> int:
        return 148

    def get_l2_cache_size_in_bytes(self) -> int:
        return 126 * 2**20


torch.cuda.get_device_capability = lambda *_: (10, 0)
torch.cuda.current_device = lambda *_: 0
cutlass.utils.HardwareInfo = _B200

import flash_attn.cute.interface as interface  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402


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


_DTYPES = {torch.bfloat16: (4, 16), torch.float32: (2, 32), torch.int32: (0, 32)}
_CUDA = 2
_alive: list[Any] = []
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


class _OnGpu:
    """A host tensor that DLPack hands over as one on GPU 0."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __dlpack_device__(self) -> tuple[int, int]:
        return (_CUDA, 0)

    def __dlpack__(self, *_: Any, **__: Any) -> Any:
        tensor, rank = self.tensor, self.tensor.dim()
        shape = (ctypes.c_int64 * rank)(*tensor.shape)
        strides = (ctypes.c_int64 * rank)(*tensor.stride())
        managed = _DLManaged()
        managed.tensor = _DLTensor(
            tensor.data_ptr(),
            (ctypes.c_int32 * 2)(_CUDA, 0),
            rank,
            _DataType(*_DTYPES[tensor.dtype], 1),
            shape,
            strides,
            0,
        )
        _alive.append((managed, shape, strides, tensor))
        return _new_capsule(ctypes.addressof(managed), b"dltensor", None)


def _caught_launch() -> tuple[Any, tuple[Any, ...]]:
    """The compiled function, and the fake arguments that the package would call it with."""
    calls: list[tuple[Any, tuple[Any, ...]]] = []

    class Cache(dict):  # type: ignore[type-arg]
        def __getitem__(self, key: Any) -> Any:
            function = dict.__getitem__(self, key)
            return lambda *arguments: calls.append((function, arguments))

    interface._flash_attn_fwd.compile_cache = Cache()
    interface.is_fake_mode = lambda: False
    with FakeTensorMode():
        q, k, v = (
            torch.empty(1, SEQLEN, heads, HEAD_DIM, dtype=torch.bfloat16, device="cuda")
            for heads in (HEADS, KV_HEADS, KV_HEADS)
        )
        interface._flash_attn_fwd(q, k, v, causal=bool(CAUSAL), return_lse=True)
    return calls[0]


def _aligned(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor of normal numbers, at an address that TMA takes."""
    size = math.prod(shape) * torch.empty(0, dtype=dtype).element_size()
    raw = torch.zeros(size + 256, dtype=torch.uint8)
    start = -raw.data_ptr() % 256
    tensor = raw[start : start + size].view(dtype).view(*shape)
    return tensor.copy_(torch.randn(shape).to(dtype)) if dtype.is_floating_point else tensor


def _plain(q: Any, k: Any, v: Any, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention as it is written, probabilities and output rounded to `dtype`: out, lse."""
    groups = HEADS // KV_HEADS
    k, v = (x.double().repeat_interleave(groups, 2) for x in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), k) * HEAD_DIM**-0.5
    if CAUSAL:
        hidden = ~torch.ones(SEQLEN, SEQLEN, dtype=torch.bool).tril()
        scores = scores.masked_fill(hidden, -math.inf)
    weights = scores.softmax(-1).to(dtype).double()
    out = torch.einsum("bhqk,bkhd->bqhd", weights, v).to(dtype).double()
    return out, scores.logsumexp(-1)


def main() -> None:
    library = ctypes.CDLL(LIBRARY)
    library.peers_error.restype = ctypes.c_char_p
    torch.manual_seed(SEED)
    function, fakes = _caught_launch()
    for path in glob.glob(DUMP + "/*.ptx"):
        if library.peers_load(path.encode()):
            sys.exit(library.peers_error().decode())
    library.peers_options(ctypes.c_uint64(SEED), COMPLETION, 1)
    made: dict[int, torch.Tensor] = {}
    for fake in fakes:
        if isinstance(fake, torch.Tensor) and id(fake) not in made:
            made[id(fake)] = _aligned(tuple(fake.shape), fake.dtype)
    q, k, v, out, lse = list(made.values())[:5]
    out.fill_(math.nan)
    lse.fill_(math.nan)
    for x in made.values():
        library.peers_memory(ctypes.c_uint64(x.data_ptr()), ctypes.c_uint64(x.nbytes))
    arguments = [
        tvm_ffi.from_dlpack(_OnGpu(made[id(x)])) if isinstance(x, torch.Tensor) else x
        for x in fakes
    ]
    start = time.perf_counter()
    function(*arguments)
    seconds = time.perf_counter() - start
    expected_out, expected_lse = _plain(q, k, v, torch.float64)
    plain_out, _ = _plain(q, k, v, torch.bfloat16)
    print(
        json.dumps(
            {
                "finding": library.peers_error().decode(),
                "out_error": (out.double() - expected_out).abs().max().item(),
                "plain_error": (plain_out - expected_out).abs().max().item(),
                "lse_error": (lse.double() - expected_lse).abs().max().item(),
                "seconds": seconds,
            }
        )
    )


if __name__ == "__main__":
    main()
