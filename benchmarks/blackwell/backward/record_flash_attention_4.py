"""The same as record.py for FlashAttention-4's backward, in an environment that has it.

    python record_flash_attention_4.py FOLDER LIBRARY HEAD_DIM full|causal [two-ctas]

tests/emulator/peers/evidence.py describes the environment. With one CTA unless two are asked for,
which it has for the head dims from 128.
"""

from __future__ import annotations

import math
import os
import pickle
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "emulator" / "peers")]
FOLDER, LIBRARY, HEAD_DIM, MASK = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
CTAS = 2 if "two-ctas" in sys.argv else 1
if CTAS == 1:
    os.environ["FA_DISABLE_2CTA"] = "1"

import environment  # noqa: E402

COMPILED = environment.start(LIBRARY)

import flash_attn.cute.cute_dsl_utils as cute_dsl_utils  # noqa: E402
import flash_attn.cute.interface as interface  # noqa: E402
import flash_attn.cute.utils as utils  # noqa: E402
import torch  # noqa: E402

import jax_fa4.emulator  # noqa: E402
from benchmarks.blackwell.backward.record import KEYS, RUNS  # noqa: E402
from jax_fa4.emulator import cute_dsl  # noqa: E402

cute_dsl_utils.from_dlpack = utils.from_dlpack = cute_dsl.from_dlpack


def main() -> None:
    torch.manual_seed(0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for run, queries, keys, causal in RUNS:
        if causal != (MASK == "causal"):
            continue
        keys = keys or KEYS * CTAS
        q, dout, out = (torch.randn(1, queries, 1, HEAD_DIM).bfloat16() for _ in range(3))
        k, v = (torch.randn(1, keys, 1, HEAD_DIM).bfloat16() for _ in range(2))
        lse = torch.full((1, 1, queries), math.log(keys) + 0.5)
        settings = jax_fa4.emulator.options(seed=1, level="hardware", sm_count=environment.SMS)
        with settings, cute_dsl.record() as recordings:
            interface._flash_attn_bwd(q, k, v, out, dout, lse, causal=causal)
        main_kernel = max(recordings, key=lambda each: len(each.events))
        (FOLDER / f"{run}.pickle").write_bytes(pickle.dumps(main_kernel))
    kernel = max((each.compiled for each in COMPILED), key=lambda each: len(each.__ptx__))
    (FOLDER / "kernel.ptx").write_text(kernel.__ptx__)
    (FOLDER / "kernel.cubin").write_bytes(kernel.__cubin__)


if __name__ == "__main__":
    main()
