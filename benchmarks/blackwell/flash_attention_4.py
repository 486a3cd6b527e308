"""Compile FlashAttention-4's forward for sm_100a where its package is, without a GPU.

    python benchmarks/blackwell/flash_attention_4.py FOLDER HEAD_DIM full|causal [one-cta]

`tests/emulator/peers/evidence.py` says what to install. Leaves the kernel's .cubin and .ptx in
FOLDER and prints the package's version and the compiler's.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
from typing import Any

SMS = 148
SEQLEN, HEADS = 4096, 4


class _B200:
    """What the host code asks of the hardware when it is traced."""

    def __init__(self, *_: Any) -> None:
        pass

    def get_max_active_clusters(self, cluster_size: int) -> int:
        return SMS // cluster_size

    def get_device_multiprocessor_count(self) -> int:
        return SMS

    def get_l2_cache_size_in_bytes(self) -> int:
        return 126 * 2**20


def main() -> None:
    folder, head_dim, mask, *forms = sys.argv[1:]
    os.makedirs(folder, exist_ok=True)
    os.environ.update(
        FLASH_ATTENTION_ARCH="sm_100",
        CUTE_DSL_ARCH="sm_100a",
        FLASH_ATTENTION_NUM_SMS=str(SMS),
        CUTE_DSL_KEEP="ptx,cubin",
        CUTE_DSL_DUMP_DIR=folder,
        FA_DISABLE_2CTA="1" if "one-cta" in forms else "0",
    )
    import cutlass.utils
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    cutlass.utils.HardwareInfo = _B200
    torch.cuda.get_device_capability = lambda *_: (10, 0)
    torch.cuda.current_device = lambda *_: 0
    from flash_attn.cute import interface

    with FakeTensorMode():
        shape = (1, SEQLEN, HEADS, int(head_dim))
        q, k, v = (torch.empty(shape, dtype=torch.bfloat16, device="cuda") for _ in range(3))
        interface._flash_attn_fwd(q, k, v, causal=mask == "causal", return_lse=True)
    packages = ("flash-attn-4", "nvidia-cutlass-dsl")
    print(json.dumps({name: importlib.metadata.version(name) for name in packages}))


if __name__ == "__main__":
    main()
