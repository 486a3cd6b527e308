"""What every peer needs: CuTe DSL on the emulator, and a B200 that is not there."""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[3]))  # jax_fa4, where it is not installed

from jax_fa4.emulator import cute_dsl

SMS = 148


class _B200:
    """What kernels' host code asks of the hardware when it is traced."""

    def __init__(self, *_: Any) -> None:
        pass

    def get_max_active_clusters(self, cluster_size: int) -> int:
        return SMS // cluster_size

    def get_device_multiprocessor_count(self) -> int:
        return SMS

    def get_l2_cache_size_in_bytes(self) -> int:
        return 126 * 2**20


class Timed(cute_dsl.Emulated):
    """Counts the seconds of all calls together, without those of compiling."""

    seconds = 0.0

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        start = time.perf_counter()
        try:
            return super().__call__(*arguments, **keywords)
        finally:
            Timed.seconds += time.perf_counter() - start


def start(library: str) -> list[Timed]:
    """From here on, what `cute.compile` returns runs on the emulator; those functions, in order.

    torch tells everybody that its tensors on the CPU are on a GPU, and fills with NaN what
    `torch.empty` returns: a kernel that does not write it shows.
    """
    cute_dsl.start("sm_100a", library=library)
    os.environ.update(
        FLASH_ATTENTION_ARCH="sm_100",
        FLASH_ATTENTION_NUM_SMS=str(SMS),
    )
    import cutlass.cute as cute
    import cutlass.utils
    import torch

    cutlass.utils.HardwareInfo = _B200
    torch.cuda.get_device_capability = lambda *_: (10, 0)
    torch.cuda.current_device = lambda *_: 0
    torch.Tensor.is_cuda = property(lambda _: True)  # type: ignore[assignment]
    torch.use_deterministic_algorithms(True)
    compiled: list[Timed] = []
    compile_it = cute.compile

    def compile_and_keep(*arguments: Any, **keywords: Any) -> Timed:
        compiled.append(Timed(compile_it(*arguments, **keywords)))
        return compiled[-1]

    cute.compile = compile_and_keep
    return compiled


def ctas(compiled: list[Timed]) -> int:
    """How many CTAs share the tensor cores' work; 0 if the kernels do not use them."""
    text = "".join(each.compiled.__ptx__ for each in compiled)
    return 2 if "cta_group::2" in text else int("cta_group::1" in text)


def report(runs: list[dict[str, Any]], compiled: list[Timed], *packages: str) -> None:
    """Print what evidence.py reads: one line of JSON, the last."""
    versions = {name: importlib.metadata.version(name) for name in packages}
    print(json.dumps({"runs": runs, "ctas": ctas(compiled), "versions": versions}))
