"""Problems whose results a real H100 recorded, and how to record them again.

    python tests/emulator/hardware.py tests/emulator/data/h100_forward.npz

runs them through the kernel of the installed package, on a machine with a Hopper GPU.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Recorded:
    """One problem; `seed` makes its inputs."""

    query: tuple[int, int, int, int]
    keys: tuple[int, int, int, int]
    causal: bool
    dtype: Any
    seed: int

    def inputs(self) -> list[jax.Array]:
        """q, k and v: standard normal, the same on every machine."""
        generator = np.random.default_rng(self.seed)
        return [
            jnp.asarray(generator.standard_normal(shape).astype(self.dtype))
            for shape in (self.query, self.keys, self.keys)
        ]

    def run(self, implementation: str) -> tuple[np.ndarray, np.ndarray]:
        """out as the bits of its elements, and lse."""
        import jax_fa4

        out, lse = jax.jit(
            lambda q, k, v: jax_fa4.flash_attention(
                q, k, v, causal=self.causal, return_lse=True, implementation=implementation
            )
        )(*self.inputs())
        return np.asarray(out).view(np.uint16), np.asarray(lse)


# Tails, GQA, unequal lengths, every tile width, both dtypes.
PROBLEMS = (
    Recorded((1, 128, 1, 128), (1, 128, 1, 128), False, jnp.bfloat16, 100),
    Recorded((1, 200, 2, 128), (1, 300, 1, 128), True, jnp.bfloat16, 101),
    Recorded((1, 128, 1, 64), (1, 256, 1, 64), False, jnp.bfloat16, 102),
    Recorded((1, 100, 1, 256), (1, 113, 1, 256), True, jnp.bfloat16, 103),
    Recorded((1, 257, 2, 64), (1, 512, 2, 64), True, jnp.bfloat16, 104),
    Recorded((1, 192, 2, 64), (1, 320, 1, 64), False, jnp.float16, 105),
)


def record(path: str) -> None:
    """Write `o<i>` and `l<i>` of every problem."""
    results = {}
    for i, problem in enumerate(PROBLEMS):
        results[f"o{i}"], results[f"l{i}"] = problem.run("fa4")
    np.savez_compressed(path, **results)


if __name__ == "__main__":
    record(sys.argv[1])
