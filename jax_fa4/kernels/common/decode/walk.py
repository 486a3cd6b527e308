"""A warp's walk over its blocks of keys: the online softmax, in registers alone."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, max, min

from jax_fa4.kernels.common.decode import load
from jax_fa4.kernels.common.decode.config import KEYS, PANEL_BYTES, ROWS
from jax_fa4.kernels.toolkit import softcap
from jax_fa4.kernels.toolkit.forward_arrays import LOG2_E
from jax_fa4.kernels.toolkit.warp_products import load_matrices, multiply_add, round_pair

_ROW_BYTES = 128  # of a panel of 64 columns
_STEPS = 4  # of 16 columns, in a panel


@cute.jit
def run(context, first: Int32, end: Int32):
    """Blocks first .. end - 1 of the CTA: (O, maxima in base 2, this lane's share of the sums)."""
    c = context.config
    sums = cute.make_rmem_tensor(c.head_dim_v // 2, Float32)
    peaks = cute.make_rmem_tensor(2, Float32)
    totals = cute.make_rmem_tensor(2, Float32)
    sums.fill(0.0)
    peaks.fill(-Float32.inf)
    totals.fill(0.0)
    team = context.team
    count = cute.ceil_div(max(end - first - team.number, Int32(0)), team.count)
    mine = first + team.number
    if team.member == 0:
        for i in cutlass.range(min(count, team.stages), unroll=1):
            load.block(context, mine + team.count * i, team.first_stage + i)
    q = load.queries(context)
    sees = tuple(_seen_by(context, _row(context, half)) for half in range(2))
    lowest, highest = _seen_by_all(sees)

    stage, parity = Int32(0), Int32(0)
    for i in cutlass.range(count, unroll=1):
        place = team.first_stage + stage
        cute.arch.mbarrier_wait(context.full + place, parity)
        key = (mine + team.count * i) * KEYS
        whole = (key >= lowest) & (key + (KEYS - 1) <= highest)
        scores = _scores(context, q, place)
        _scale(context, scores)
        if not whole:
            _mask(context, scores, key, sees)
        _softmax(scores, peaks, totals, sums)
        if whole:
            _add_values(context, scores, sums, place, (Int32(-1), Int32(-1)), True)
        else:
            _add_values(context, scores, sums, place, _seen_words(context, key), False)
        # All lanes have read the stage, and TMA may write it: another proxy.
        cute.arch.fence_view_async_shared()
        cute.arch.sync_warp()
        if team.size == 1:
            if i + team.stages < count:
                load.block(context, mine + team.count * (i + team.stages), place)
        else:
            with cute.arch.elect_one():
                cute.arch.mbarrier_arrive(context.empty + place)
            asks = (i & (team.size - 1)) == team.member  # they take turns: it is a third of a block
            if asks & (i > 0) & (i - 1 + team.stages < count):
                _refill(context, mine + team.count * (i - 1 + team.stages), stage, parity)
        stage = stage + 1
        if stage == team.stages:
            stage = Int32(0)
            parity = parity ^ 1
    return sums, peaks, totals


@cute.jit
def _refill(context, number, stage, parity) -> None:
    """Ask for a block in the stage before this one, which the team has read a block ago."""
    team = context.team
    before = stage - 1
    if stage == 0:
        before = team.stages - 1
        parity = parity ^ 1
    cute.arch.mbarrier_wait(context.empty + team.first_stage + before, parity)
    load.block(context, number, team.first_stage + before)


def _row(context, half):
    """A lane's two rows of the fragments, from their places among the CTA's."""
    return context.team.member * ROWS + context.lane // 4 + 8 * half


@cute.jit
def _seen_by(context, within):
    """(first, last) key of the row at this place in the CTA. A row that is none sees what any does,
    so that it has finite results, which nobody reads, and takes the mask from no block's way."""
    q, length = context.queries, context.parts.length
    row = q.row(within)
    position = length - q.seqlen_q + row // q.ratio
    first = max(position + context.band[0], Int32(0))
    last = min(position + context.band[1], length - 1)
    if position < 0:
        last = Int32(-1)
    if row >= q.rows:
        first, last = context.parts.first, context.parts.last
    return first, last


@cute.jit
def _seen_by_all(sees):
    """(first, last) of the keys that every row of the warp sees."""
    lowest, highest = max(sees[0][0], sees[1][0]), min(sees[0][1], sees[1][1])
    for distance in (4, 8, 16):
        lowest = max(lowest, cute.arch.shuffle_sync_bfly(lowest, offset=distance))
        highest = min(highest, cute.arch.shuffle_sync_bfly(highest, offset=distance))
    return lowest, highest


def _address(context, ring, tile_bytes: int, place, key, side):
    """Of the 16 bytes of columns 8 side .. of a key in a stage, and how its row is turned."""
    start = ring.toint() + place * tile_bytes + key % 8 * _ROW_BYTES
    return start + key // 8 * (8 * _ROW_BYTES), (key % 8) ^ side


@cute.jit
def _scores(context, q: cute.Tensor, place: Int32) -> cute.Tensor:
    """S = Q K^T of the block, 2 x 4 registers: keys 2 (t % 4), + 1 and those + 8.

    Even and odd steps have sums of their own, so that fewer products wait for one another.
    """
    c, lane = context.config, context.lane
    scores = cute.make_rmem_tensor(16, Float32)
    scores.fill(0.0)
    # Lanes 0 to 7 point at keys 0 to 7, 8 to 15 at their next 8 columns, the others at keys 8 ..
    key, side = lane % 8 + lane // 16 * 8, lane // 8 % 2
    row, turn = _address(context, context.ring_k, c.key_bytes, place, key, side)
    for step in cutlass.range_constexpr(c.head_dim // 16):
        panel, within = divmod(step, _STEPS)
        words = load_matrices(
            row + panel * PANEL_BYTES + (turn ^ (2 * within)) * 16, transposed=False
        )
        a = [q[4 * step + i] for i in range(4)]
        multiply_add(context.dtype, scores, 8 * (step % 2), a, words[:2])
        multiply_add(context.dtype, scores, 8 * (step % 2) + 4, a, words[2:])
    total = cute.make_rmem_tensor(8, Float32)
    for i in cutlass.range_constexpr(8):
        total[i] = scores[i] + scores[8 + i]
    return total


@cute.jit
def _scale(context, scores: cute.Tensor) -> None:
    """Scores in base 2."""
    if context.softcap > 0.0:
        slope, factor = softcap.factors(context.softmax_scale, context.softcap)
        for i in cutlass.range_constexpr(8):
            scores[i] = softcap.capped(scores[i], slope) * factor
    else:
        for i in cutlass.range_constexpr(8):
            scores[i] = scores[i] * (context.softmax_scale * LOG2_E)


@cute.jit
def _mask(context, scores: cute.Tensor, key: Int32, sees) -> None:
    """-inf where a row does not see a key."""
    for i in cutlass.range_constexpr(8):
        j = key + 8 * (i // 4) + 2 * (context.lane % 4) + i % 2
        first, last = sees[i // 2 % 2]
        scores[i] = scores[i] if (j >= first) & (j <= last) else -Float32.inf


@cute.jit
def _softmax(scores: cute.Tensor, peaks: cute.Tensor, totals, sums: cute.Tensor) -> None:
    """Scores to P; O and the sums are weighed by the distance of the maxima, where one rose."""
    weights, rose = [], cutlass.Boolean(False)
    for half in cutlass.range_constexpr(2):
        own = [scores[4 * n + 2 * half + e] for n in range(2) for e in range(2)]
        peak = cute.arch.fmax(cute.arch.fmax(own[0], own[1]), cute.arch.fmax(own[2], own[3]))
        for distance in (1, 2):
            other = cute.arch.shuffle_sync_bfly(peak, offset=distance)
            peak = cute.arch.fmax(peak, other)
        peak = cute.arch.fmax(peak, peaks[half])
        base = Float32(0.0) if peak == -Float32.inf else peak
        weight = cute.math.exp2(peaks[half] - base, fastmath=True)
        total = totals[half] * weight
        for n in cutlass.range_constexpr(2):
            for e in cutlass.range_constexpr(2):
                i = 4 * n + 2 * half + e
                scores[i] = cute.math.exp2(scores[i] - base, fastmath=True)
                total = total + scores[i]
        weights.append(weight)
        rose = rose | (peak > peaks[half])
        totals[half] = total
        peaks[half] = peak
    if cute.arch.vote_any_sync(rose):
        for i in cutlass.range_constexpr(cute.size(sums)):
            sums[i] = sums[i] * weights[i // 2 % 2]


@cute.jit
def _seen_words(context, key: Int32):
    """The bits of V's words, of keys j and j + 1, that a row sees: the others may be NaN."""
    parts, masks = context.parts, []
    for half in cutlass.range_constexpr(2):
        j = key + 8 * half + 2 * (context.lane % 4)
        low = Int32(0xFFFF) if (j >= parts.first) & (j <= parts.last) else Int32(0)
        high = Int32(-65536) if (j + 1 >= parts.first) & (j + 1 <= parts.last) else Int32(0)
        masks.append(low | high)
    return tuple(masks)


@cute.jit
def _add_values(
    context,
    p: cute.Tensor,
    sums: cute.Tensor,
    place: Int32,
    masks: tuple[Int32, Int32],
    whole: cutlass.Constexpr,
) -> None:
    """O += P V; unless the block is `whole`, of V only the bits in `masks`."""
    c, lane, dtype = context.config, context.lane, context.dtype
    a = [round_pair(dtype, p[2 * i], p[2 * i + 1]) for i in range(4)]
    # Lanes 0 to 7 point at keys 0 to 7, 8 to 15 at keys 8 to 15, the others at the next columns.
    row, turn = _address(context, context.ring_v, c.value_bytes, place, lane % 16, lane // 16)
    for pair in cutlass.range_constexpr(c.head_dim_v // 16):
        panel, within = divmod(pair, _STEPS)
        words = load_matrices(
            row + panel * PANEL_BYTES + (turn ^ (2 * within)) * 16, transposed=True
        )
        b = [words[i] if whole else words[i] & masks[i % 2] for i in range(4)]
        multiply_add(dtype, sums, 8 * pair, a, b[:2])
        multiply_add(dtype, sums, 8 * pair + 4, a, b[2:])
