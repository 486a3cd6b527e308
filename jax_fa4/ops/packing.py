"""Arguments that say what each row attends by values: segment ids and sequence lengths."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jax_fa4.ops import checks, errors, partition
from jax_fa4.ops.band import Band
from jax_fa4.ops.checks import ShapeDtype
from jax_fa4.ops.key_bounds import KeyBounds


class Packing(NamedTuple):
    """The arguments of `dot_product_attention` by these names, as they came."""

    query_seq_lengths: ArrayLike | None = None
    key_value_seq_lengths: ArrayLike | None = None
    query_segment_ids: ArrayLike | None = None
    key_value_segment_ids: ArrayLike | None = None

    @property
    def is_given(self) -> bool:
        return any(x is not None for x in self)

    def check(self, batch: tuple[int, ...], lengths: tuple[int, int]) -> None:
        """ValueError unless what is given fits arrays of these batch axes and (T, S)."""
        for name, x, length in zip(self._fields, self, lengths * 2, strict=True):
            if x is None:
                continue
            array = _array(x)
            if name.endswith("seq_lengths"):
                checks.seq_lengths(name, array, batch)
            else:
                checks.segment_ids(name, array, batch, length)
        ids = self._fields[2:]
        given = [x is not None for x in self[2:]]
        if any(given) and not all(given) and lengths[0] != lengths[1]:
            raise errors.lone_segment_ids(*(ids if given[0] else ids[::-1]), lengths)

    def bounds(
        self, band: Band, batch: tuple[int, ...], lengths: tuple[int, int], *, moves: bool
    ) -> KeyBounds | None:
        """Checked arguments as bounds, which contain the band; None without any.

        `moves`: whether the band is aligned at the last query and key (see `KeyBounds.make`).
        """
        if not self.is_given:
            return None
        size = math.prod(batch)
        given = {name: x for name, x in zip(self._fields, self, strict=True) if x is not None}
        arrays = [
            jnp.asarray(x).reshape(size, *np.shape(x)[-1:] * name.endswith("ids"))
            for name, x in given.items()
        ]

        def compute(*arrays: jax.Array) -> tuple[jax.Array, ...]:
            found = Packing(**dict(zip(given, arrays, strict=True)))
            return tuple(found._key_bounds(band, (arrays[0].shape[0], *lengths), moves))

        return KeyBounds(*partition.by_batch(compute, arrays, len(KeyBounds._fields)))

    def _key_bounds(self, band: Band, shape: tuple[int, int, int], moves: bool) -> KeyBounds:
        """Of arrays of one batch axis."""
        queries, keys = (
            jnp.full(shape[0], length) if x is None else jnp.asarray(x)
            for x, length in zip(self[:2], shape[1:], strict=True)
        )
        ids = [jnp.asarray(x, jnp.int32) for x in self[2:] if x is not None]
        return KeyBounds.make(
            band,
            shape,
            lengths=(queries, keys) if any(x is not None for x in self[:2]) else None,
            segments=(ids[0], ids[-1]) if ids else None,
            moves=moves,
        )


def _array(x: ArrayLike) -> ShapeDtype:
    return x if isinstance(x, jax.ShapeDtypeStruct) else jnp.asarray(x)
