"""Arguments that say what each row attends by values: segment ids and sequence lengths."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_fa4.ops import checks, errors
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
        queries, keys = (
            jnp.full(size, length) if x is None else jnp.asarray(x).reshape(size)
            for x, length in zip(self[:2], lengths, strict=True)
        )
        first, second = self[2:]
        ids = (first if first is not None else second, second if second is not None else first)
        return KeyBounds.make(
            band,
            (size, *lengths),
            lengths=(queries, keys) if any(x is not None for x in self[:2]) else None,
            segments=None if ids[0] is None else (_ids(ids[0], size), _ids(ids[1], size)),
            moves=moves,
        )


def _ids(x: ArrayLike | None, batch: int) -> jax.Array:
    assert x is not None
    x = jnp.asarray(x)
    return x.astype(jnp.int32).reshape(batch, x.shape[-1])


def _array(x: ArrayLike) -> ShapeDtype:
    return x if isinstance(x, jax.ShapeDtypeStruct) else jnp.asarray(x)
