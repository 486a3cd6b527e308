"""Which scores of a thread's are seen where rows have bounds of their own: a word of 32 bits each.

A warp's lanes are 32 neighbouring rows and a thread's columns keys, or lanes are keys and columns
rows. Each lane loads what is known of one column, and the warp exchanges: ids by votes
(`equal_ids`), and bounds, which belong to rows, where these are columns by transposing bits.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Uint32

from jax_fa4.kernels.toolkit import key_bounds
from jax_fa4.kernels.toolkit.equal_ids import equal_words
from jax_fa4.kernels.toolkit.key_bounds import KeyBounds, Row
from jax_fa4.kernels.toolkit.masks import interval_word

_WARP = 32
# Steps of the transposition: by how much, and the columns that stay where rows have no such bit.
_STEPS = ((16, 0x0000FFFF), (8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555))


@cute.jit
def of_row(
    bounds: KeyBounds, batch: Int32, row: Row, key: Int32, lane: Int32, words: cutlass.Constexpr
) -> cute.Tensor:
    """A bit for each of 32 `words` keys from `key` on; `row` is this lane's."""
    ids = cute.make_rmem_tensor(words, Int32)
    for i in cutlass.range_constexpr(words):
        ids[i] = key_bounds.key_id_of(bounds, batch, key + i * _WARP + lane)
    found = equal_words(row.id, ids)
    for i in cutlass.range_constexpr(words):
        begin = key + i * _WARP
        found[i] = found[i] & interval_word(row.first - begin, begin + _WARP - 1 - row.last)
    return found


@cute.jit
def of_key(
    bounds: KeyBounds, batch: Int32, key: Int32, row: Int32, lane: Int32, words: cutlass.Constexpr
) -> cute.Tensor:
    """A bit for each of 32 `words` rows from `row` on; this lane's key is `key` + lane."""
    ids, seen = cute.make_rmem_tensor(words, Int32), cute.make_rmem_tensor(words, Uint32)
    for i in cutlass.range_constexpr(words):
        found = key_bounds.row_of(bounds, batch, row + i * _WARP + lane)
        ids[i] = found.id
        word = interval_word(found.first - key, key + _WARP - 1 - found.last)
        seen[i] = _transposed(word, lane)
    same = equal_words(key_bounds.key_id_of(bounds, batch, key + lane), ids)
    for i in cutlass.range_constexpr(words):
        seen[i] = seen[i] & same[i]
    return seen


@cute.jit
def _transposed(word: Uint32, lane: Int32) -> Uint32:
    """Bit l of lane c, of what was bit c of lane l."""
    for step, stays in _STEPS:
        other = Uint32(cute.arch.shuffle_sync_bfly(word, offset=step))
        low = (word & Uint32(stays)) | ((other & Uint32(stays)) << step)
        high = (word & ~Uint32(stays)) | ((other >> step) & Uint32(stays))
        word = low if (lane & step) == 0 else high
    return word
