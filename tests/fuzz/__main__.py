"""python -m tests.fuzz: many random problems, a nightly's work, with the seeds of all that fails.

    python -m tests.fuzz --count 5000                              # portable path, on the CPU
    python -m tests.fuzz --count 500 --implementation emulator     # the kernels, on the CPU
    python -m tests.fuzz --count 2000 --implementation fa4         # the kernels, on a GPU
    python -m tests.fuzz --count 25 --seed 17 --shrink              # once more the lot of a seed

Every tenth call is illegal. Problems come in lots of 25, each with a seed of its own; where one
fails, the lot's seed and the problem are printed, and with --shrink a smaller one that fails.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=4"
    # Compiling is nearly all of the time.
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # the partitioner's advice on meshes

import jax

from tests.fuzz.lots import LOT, Counts, run_lot


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--implementation", choices=("xla", "emulator", "fa4"), default="xla")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first lot; the next has the next"
    )
    parser.add_argument("--shrink", action="store_true", help="look for smaller problems that fail")
    options = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "float32")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    counts, failed, start = Counts(), [], time.monotonic()
    lots = -(-options.count // LOT)
    for lot in range(lots):
        seed = options.seed + lot
        try:
            run_lot(seed, options.implementation, counts, shrink=options.shrink)
        except Exception:
            failed.append(seed)
            print(f"\nseed {seed}:\n{traceback.format_exc(limit=-3)}", flush=True)
        jax.clear_caches()
        seconds = time.monotonic() - start
        print(f"\r{(lot + 1) * LOT}/{lots * LOT} {counts}, {seconds:.0f} s", end="", flush=True)
    print(f"\n{options.implementation}: {counts}; lots that failed: {failed or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
