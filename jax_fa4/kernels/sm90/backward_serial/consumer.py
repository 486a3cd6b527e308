"""A consumer: one warpgroup that owns 64 keys of every block of keys, their dK and dV.

A step is as in backward/consumer.py, and so is who loads (`consumer_loads`). Steps run on from one
block of keys to the next: with `lookahead` its first scores are issued in the last step of the one
before, and dK and dV leave under them.

CONTRACT: for every step of the walk a consumer takes one stage of `q` and one of `do` and gives
each back once, and fills its half of one stage of `ds`; one arrival a warp each. For every block
of keys it takes one stage of `k` and the one of `v`; see load.py for when they are free again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import cutlass
import cutlass.cute as cute
from cutlass import Int32
from cutlass.cute.nvgpu import warpgroup

from jax_fa4.kernels.sm90.backward import consumer, early_rows
from jax_fa4.kernels.sm90.backward.config import CONSUMER_WARP, KEYS_PER_WARPGROUP
from jax_fa4.kernels.sm90.backward_serial import epilogue, load, walk
from jax_fa4.kernels.sm90.backward_serial.config import KEY_STAGES
from jax_fa4.kernels.toolkit import mbarriers
from jax_fa4.kernels.toolkit.accumulators import ThreadCoordinates, convert
from jax_fa4.kernels.toolkit.transposed_scores import load_rows, score_gradients


@dataclass(frozen=True)
class Consumer:
    """A warpgroup, its operands and sums, and where it is in the rings."""

    wg: Int32
    thread_index: Int32
    thread: ThreadCoordinates
    frag: consumer.Fragments
    keys: cute.Tensor  # operand of scores: (MMA, 1, depth, consumers and stages of K)
    state: consumer.State
    ring: mbarriers.Ring
    ds_ring: mbarriers.Ring


def _make_consumer(context, wg: Int32) -> Consumer:
    config = context.config
    thread_index = cute.arch.thread_idx()[0] % 128
    thr_s = context.tiled_mma_s.get_slice(0)
    return Consumer(
        wg=wg,
        thread_index=thread_index,
        thread=ThreadCoordinates.of_thread(thread_index),
        frag=consumer._make_fragments(context, wg),
        keys=thr_s.make_fragment_A(thr_s.partition_A(context.shared.sK)),
        state=consumer._make_state(context),
        ring=mbarriers.make_ring(config.stages),
        ds_ring=mbarriers.make_ring(config.ds_stages),
    )


def _fragments(context, me: Consumer, number) -> consumer.Fragments:
    """With K of the CTA's `number`th block of keys."""
    tile = number % KEY_STAGES * context.config.consumers + me.wg
    return replace(me.frag, tSrK=me.keys[None, None, None, tile])


def _issue_scores(context, me: Consumer, number, stage) -> None:
    """S^T of the queries in this stage and the CTA's `number`th block of keys."""
    frag = _fragments(context, me, number)
    consumer._issue_scores(context, frag, me.state, stage, me.thread)


@cute.jit
def _issue_next_scores(context, me, number, now):
    """S of the next step; the last, which has none, does its own again: no branch around it."""
    stage, parity, is_last, goes_on = now
    following = number + 1 if is_last & goes_on else number
    if is_last & goes_on:
        context.barriers["k_full"].wait(following % KEY_STAGES, following // KEY_STAGES % 2)
    repeats = is_last & ~goes_on
    at = stage if repeats else me.ring.place[0]
    context.barriers["q_full"].wait(at, parity if repeats else me.ring.place[1])
    _issue_scores(context, me, following, at)


@cute.jit
def _gradients(context, me, stage):
    """dS of P and dP, both rounded to operands."""
    state = me.state
    if cutlass.const_expr(consumer._reads_rows_ahead(context.config)):
        source = context.shared.sDelta.iterator + stage * context.config.tile_m
        deltas = load_rows(source, state.acc_dP, me.thread)
        warpgroup.wait_group(0)
        score_gradients(state.acc_S, state.acc_dP, deltas)
    else:
        early = early_rows.load_if_any(context, context.shared.sDelta, stage, me.thread)
        warpgroup.wait_group(0)
        early_rows.score_gradients(context, state.acc_S, state.acc_dP, stage, me.thread, early)
    convert(state.acc_S, state.tVrP)
    convert(state.acc_dP, state.tKrdS)


@cute.jit
def _walk_keys(context, me, number, goes_on, load_next):
    """The blocks of queries that see one block of keys."""
    config, barriers = context.config, context.barriers
    key = context.position.key_block * config.tile_n + me.wg * KEYS_PER_WARPGROUP
    head, block = walk.first_step(context)
    count = walk.steps(context)
    frag = _fragments(context, me, number)
    for i in cutlass.range(count, unroll=1):
        stage, parity = mbarriers.take(me.ring, 1)[0]
        consumer._probabilities(context, frag, me.state, stage, parity, block, key, me.thread)
        _gradients(context, me, stage)
        ds_stage, ds_parity = mbarriers.take(me.ds_ring, 1)[0]
        if i == 0:
            epilogue.wait_for_copies(me.wg, me.thread_index)
        barriers["ds_empty"].wait(ds_stage, ds_parity ^ 1)
        consumer._write_gradients(context, me.state, ds_stage, me.wg, me.thread_index)
        consumer._issue_sums(context, me.frag, me.state, stage, i == 0)
        # Before the wait for the next K, which is loaded when all have written the first dS.
        cute.arch.fence_view_async_shared()
        barriers["ds_full"].arrive_as_warp(ds_stage)
        if cutlass.const_expr(config.lookahead):
            now = (stage, parity, i == count - 1, goes_on)
            _issue_next_scores(context, me, number, now)

        warpgroup.wait_group(1 + int(config.lookahead))
        barriers["do_empty"].arrive_as_warp(stage)
        # NOTES: with a product in flight across the loop's end, ptxas serialises all of them.
        warpgroup.wait_group(0)
        barriers["q_empty"].arrive_as_warp(stage)
        if cutlass.const_expr(load_next is not None):
            load_next(i, number)
        head, block = walk.next_step(context, head, block)


@cute.jit
def _load_next(context, loader, loads, i, number) -> None:
    """Into the stage of the step before, which the other consumer has left, too."""
    if loads & ((i > 0) | (number > 0)):
        load.go_on(context, loader)


@cute.jit
def run(context, wg: Int32) -> None:
    """Do all of this CTA's keys as consumer number `wg`; see the contract above."""
    units, barriers = context.units, context.barriers
    me = _make_consumer(context, wg)
    load_next = None
    if cutlass.const_expr(context.config.consumer_loads):
        loader = load.make_loader(context)
        loads = cute.arch.make_warp_uniform(cute.arch.warp_idx()) == CONSUMER_WARP
        if loads:
            load.start(context, loader)
        load_next = partial(_load_next, context, loader, loads)
    if cutlass.const_expr(context.config.lookahead):
        barriers["k_full"].wait(0, 0)
        mbarriers.wait_stage(barriers["q_full"], me.ring)
        _issue_scores(context, me, Int32(0), Int32(0))
        warpgroup.wait_group(0)
    number = Int32(0)
    for unit in cutlass.range(units.first, units.count, units.step, unroll=1):
        for key_block in cutlass.range(units.key_blocks, unroll=1):
            if cutlass.const_expr(not context.config.lookahead):
                barriers["k_full"].wait(number % KEY_STAGES, number // KEY_STAGES % 2)
            barriers["v_full"].wait(0, number % 2)
            here = walk.at(context, unit, key_block)
            _walk_keys(here, me, number, walk.goes_on(context, unit, key_block), load_next)
            epilogue.run(here, me, number % KEY_STAGES)
            number = number + 1
    epilogue.wait_for_copies(wg, me.thread_index)
