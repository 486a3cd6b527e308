"""python -m tests.fuzz: many random problems, a nightly's work, with the seeds of all that fails.

    python -m tests.fuzz --count 5000                              # portable path, on the CPU
    python -m tests.fuzz --count 500 --implementation emulator     # kernels of both families
    python -m tests.fuzz --count 2000 --implementation fa4 --workers 16   # on a GPU
    python -m tests.fuzz --count 25 --seed 17 --shrink             # once more the lot of a seed

Every tenth call is illegal. Problems come in lots of 25, each with a seed of its own, which
processes take in turn. What fails is printed with its lot's seed; with --shrink, a smaller problem
that fails. Counts say which path ran, by `jax_fa4.explain` and by the compiled program.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import multiprocessing
import os
import sys
import time

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=4"
    # Compiling is nearly all of the time.
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    + " --xla_gpu_autotune_level=0 --xla_gpu_force_compilation_parallelism=1"
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # the partitioner's advice on meshes
# Every process is to keep to its core, and to its share of a GPU's memory.
os.environ |= {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from tests.fuzz.lots import LOT, Report, job


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--implementation", choices=("xla", "emulator", "fa4"), default="xla")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first lot; the next has the next"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--seconds", type=float, default=1e9, help="then no more lots begin")
    parser.add_argument("--shrink", action="store_true", help="look for smaller problems that fail")
    options = parser.parse_args()
    start, total = time.monotonic(), Report()
    lots = -(-options.count // LOT)
    seeds = range(options.seed, options.seed + lots)
    one = functools.partial(job, implementation=options.implementation, shrink=options.shrink)
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(options.workers, mp_context=spawn) as pool:
        jobs = [pool.submit(one, seed) for seed in seeds]
        for job_done in concurrent.futures.as_completed(jobs):
            if job_done.cancelled():
                continue
            report, seconds = job_done.result(), time.monotonic() - start
            total.add(report)
            print("".join(f"\n{text}" for text in report.failures), end="")
            print(f"\r{seconds:.0f} s, {total}", end="", flush=True)
            if seconds > options.seconds:
                for left in jobs:
                    left.cancel()
    done = sum(total.counts.values()) + len(total.failures)
    print(f"\n{options.implementation}, {done} calls, seeds from {options.seed}: {total}")
    print(f"{len(total.problems)} legal problems, each counted once")
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main())
