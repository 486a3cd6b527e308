"""Record the runs that the model needs, of one Hopper forward, on the emulator.

python -m benchmarks.hopper.timing.record FOLDER HEAD_DIM [LIBRARY]
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.timing_model.record import Run, record
from jax_fa4.kernels.sm90.forward.config import FORWARD_CONFIGS
from jax_fa4.variants import ForwardVariant, parse

LONE = (512, 2048, 4096)  # keys of a tile alone
WALKS = (512, 2048)  # of CTAs with several tiles: three of all keys, or a causal problem's


def runs(tile_m: int) -> list[Run]:
    """Lone tiles, whose last row sees all keys; and walks."""
    return [
        *(Run(f"full_{keys}", tile_m, keys, 1, None) for keys in LONE),
        *(Run(f"full_{keys}_walk", 3 * tile_m, keys, 1, None) for keys in WALKS),
        *(Run(f"causal_{keys}", tile_m, keys, 1, keys - tile_m) for keys in LONE),
        *(Run(f"causal_{keys}_walk", keys, keys, 1, 0) for keys in WALKS),
    ]


def main() -> None:
    variant = parse(f"fwd_sm90_bf16_d{sys.argv[2]}")
    assert isinstance(variant, ForwardVariant)
    found = runs(FORWARD_CONFIGS[variant.head_dim, variant.head_dim_v].tile_m)
    record(Path(sys.argv[1]), variant, found, sys.argv[3] if len(sys.argv) > 3 else None)


if __name__ == "__main__":
    main()
