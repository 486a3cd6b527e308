"""Record the runs that the model needs, of one of this package's kernels, on the emulator.

python -m benchmarks.blackwell.timing.record FOLDER VARIANT [LIBRARY]
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.timing_model.record import Run, record
from jax_fa4.variants import ForwardVariant, parse
from jax_fa4.variants.select_sm100 import COSTS

# (name, keys, tiles of queries or 0 for as many rows as keys, causal)
RUNS = (
    ("full_1024_1", 1024, 1, False),
    ("full_2048_1", 2048, 1, False),
    ("full_3072_1", 3072, 1, False),
    ("full_4096_1", 4096, 1, False),
    ("full_1024_3", 1024, 3, False),
    ("causal_1024", 1024, 0, True),
    ("causal_2048", 2048, 0, True),
)
MULTIPROCESSORS = 148  # a causal run has as many CTAs as tiles


def main() -> None:
    folder, variant = Path(sys.argv[1]), parse(sys.argv[2])
    assert isinstance(variant, ForwardVariant)
    form = COSTS[variant.head_dim, variant.head_dim_v, variant.form]
    runs = []
    for name, keys, tiles, causal in RUNS:
        # Full: one CTA, or one pair, takes all tiles.
        multiprocessors = MULTIPROCESSORS if causal else form.multiprocessors
        upper = 0 if causal else None
        runs.append(Run(name, tiles * form.rows or keys, keys, multiprocessors, upper))
    record(folder, variant, runs, sys.argv[3] if len(sys.argv) > 3 else None)


if __name__ == "__main__":
    main()
