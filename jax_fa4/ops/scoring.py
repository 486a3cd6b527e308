"""What decides a call's scores: the part known when tracing, and the arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax

from jax_fa4.ops.band import FULL, Band
from jax_fa4.ops.key_bounds import KeyBounds
from jax_fa4.ops.mods import NO_MODS, ModArrays, Mods


@dataclass(frozen=True)
class Scoring:
    """How scores come from products of queries and keys, known at trace time."""

    softmax_scale: float
    band: Band = FULL
    softcap: float = 0.0  # c: scores become c tanh(S / c); 0 is none
    mods: Mods = NO_MODS


class Operands(NamedTuple):
    """A call's arrays beside query, key and value; None for what it has not.

    bias and mask are (B or 1, Hq or 1, Sq or 1, Sk or 1). With `bounds` the band is FULL: they
    contain it. score_scale and value_scale (B, Hkv) multiply scores and out: of 8-bit arrays.
    `mods` go with those of `Scoring`.
    """

    bias: jax.Array | None = None
    mask: jax.Array | None = None
    bounds: KeyBounds | None = None
    score_scale: jax.Array | None = None
    value_scale: jax.Array | None = None
    mods: ModArrays | None = None

    def dims(self) -> tuple[str, ...]:
        """Letters of the arrays that there are, for `layout`; dots where one is broadcast.

        Those of mods have none: every device holds all of them.
        """
        found = [_dense_dims(x.shape) for x in (self.bias, self.mask) if x is not None]
        if self.bounds is not None:
            found += ["bt", "bt", "bt", "bs"]
        found += ["bk" for x in (self.score_scale, self.value_scale) if x is not None]
        return (*found, *("" for _ in jax.tree.leaves(self.mods)))


def _dense_dims(shape: tuple[int, ...]) -> str:
    return "".join("." if n == 1 else letter for n, letter in zip(shape, "bhts", strict=True))


NOTHING = Operands()
