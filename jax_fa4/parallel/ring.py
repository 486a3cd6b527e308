"""Ring attention: keys and values travel from device to device, queries stay at home.

Each hop is an ordinary call of the kernels on tiles of the device's queries and the keys that are
with it (`schedule`), and results are merged by their lse in float32. The keys for the next hop
are sent before the kernel of this one is called, and nothing of one needs the other, so that XLA
runs them side by side (`Ring.stop`). The gradient goes round once more: what each hop adds to the
gradient of keys and values travels behind them, in float32, and comes home with a last hop.
Residuals are q, k, v, out and lse of a device's own rows.

Method: Liu, Zaharia and Abbeel (arXiv:2310.01889), on FlashAttention's backward from lse.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jax_fa4.ops import core, manual_axes
from jax_fa4.ops.band import FULL
from jax_fa4.ops.key_bounds import KeyBounds
from jax_fa4.parallel import tiles
from jax_fa4.parallel.schedule import Hop, Schedule

Arrays = tuple[jax.Array, ...]


@dataclass(frozen=True)
class Ring:
    """Everything about a call that is known at trace time; `plan.band` is each tile's own."""

    axis_name: Any
    schedule: Schedule
    plan: core.Plan

    def send(self, arrays: Sequence[jax.Array], shift: int) -> Arrays:
        """Each device's arrays to the one `shift` places on, one collective for each array.

        A permute of several arrays at once must not mix dtypes (jax#32148).
        """
        shards = self.schedule.shards
        pairs = [(rank, (rank + shift) % shards) for rank in range(shards)]
        return tuple(lax.ppermute(x, self.axis_name, pairs) for x in arrays)

    def departures(self, arrays: Arrays) -> list[tuple[tuple[Hop, ...], Arrays]]:
        """Each travel with a device's own arrays, sent on their way to its first hop."""
        return [(hops, self.send(arrays, hops[0].shift)) for hops in self.schedule.travels]

    def stop(
        self, arrived: Arrays, state: Arrays, following: Hop | None
    ) -> tuple[Arrays, Arrays, Arrays]:
        """What has arrived, the state so far, and what is sent on to the hop that follows.

        Sends and kernels of a hop wait for the kernels of the one before, and for nothing of
        each other. Without it XLA sends everything round before the first kernel: no send would
        have a kernel beside it, and a device would hold the keys of all.
        """
        arrived, state = lax.optimization_barrier((arrived, state))
        return arrived, state, self.send(arrived, following.shift) if following else ()

    def at(self, hop: Hop, run: Callable[..., Any], *operands: Any) -> Any:
        """`run(tile groups, *operands)` with the tiles that this device has on the hop.

        The devices whose tiles have the same shapes run one program, whose starts are looked
        up by rank. With zigzag under a causal mask that is all devices, and nothing branches.
        """
        rank = lax.axis_index(self.axis_name)
        branches = [
            functools.partial(run, tiles.group([hop.tiles[r] for r in ranks], ranks, rank))
            for ranks in hop.cases()
        ]
        if len(branches) == 1:
            return branches[0](*operands)
        which = {r: case for case, ranks in enumerate(hop.cases()) for r in ranks}
        table = jnp.asarray([which[r] for r in range(self.schedule.shards)], jnp.int32)
        return lax.switch(table[rank], branches, *operands)


def attention(
    ring: Ring, q: jax.Array, k: jax.Array, v: jax.Array, *ids: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """out (B, S, Hq, Dv) and lse (B, Hq, S) float32 of this device's rows; differentiable.

    `ids`: those of the segments of queries and keys, (B, S) int32 each, or none.
    """
    arrays = (q, k, v, *ids)
    here = lax.axis_index(ring.axis_name)
    axes = frozenset[Any]().union(*map(manual_axes.varying_axes, (*arrays, here)))
    out, lse = _attention(ring, *(manual_axes.vary(x, axes) for x in arrays))
    return out, lse


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(ring: Ring, *arrays: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _forward(ring, *arrays)


def _attention_fwd(
    ring: Ring, *arrays: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[Any, ...]]:
    name: Callable[[jax.Array, str], jax.Array] = checkpoint_name
    out, lse = map(name, _forward(ring, *arrays), ring.plan.names)
    return (out, lse), (arrays, (out, lse))


def _attention_bwd(
    ring: Ring, residuals: tuple[Any, ...], cotangents: tuple[jax.Array, jax.Array]
) -> tuple[Any, ...]:
    (q, k, v, *ids), results = residuals
    return *_backward(ring, q, k, v, *ids, *results, *cotangents), *(None for _ in ids)


_attention.defvjp(_attention_fwd, _attention_bwd)


def _forward(
    ring: Ring, q: jax.Array, k: jax.Array, v: jax.Array, *ids: jax.Array
) -> tuple[jax.Array, jax.Array]:
    out = tiles.zeros_like(q, (*q.shape[:-1], v.shape[-1]))
    lse = tiles.zeros_like(q, (q.shape[0], q.shape[2], q.shape[1])) - jnp.inf
    run, home, keys = functools.partial(_hop_forward, ring), (q, *ids[:1]), (k, v, *ids[1:])
    departures = ring.departures(keys)
    out, lse = ring.at(ring.schedule.home, run, out, lse, home, keys)
    for travel, arrived in departures:
        for hop, following in _stops(travel):
            arrived, (out, lse), coming = ring.stop(arrived, (out, lse), following)
            out, lse = ring.at(hop, run, out, lse, home, arrived)
            arrived = coming
    return out.astype(q.dtype), lse


def _hop_forward(
    ring: Ring,
    groups: list[tiles.Group],
    out: jax.Array,
    lse: jax.Array,
    home: Arrays,
    arrived: Arrays,
) -> tuple[jax.Array, jax.Array]:
    """The sums so far, merged with what the hop's keys add.

    `home` is q and `arrived` k and v, each with its ids where there are segments.
    """
    for group in groups:
        plan, bounds = _visible(ring, group, home[1:] + arrived[2:])
        q, k, v = group.queries(home[0]), group.keys(arrived[0]), group.keys(arrived[1])
        part = core.attention(plan, q, k, v, bounds=bounds)
        for at, (part_out, part_lse) in group.split(*part):
            merged = _merge(at.take(out), at.take(lse, axis=2), part_out, part_lse)
            out, lse = at.put(out, merged[0]), at.put(lse, merged[1], axis=2)
    return out, lse


def _merge(
    out: jax.Array, lse: jax.Array, part_out: jax.Array, part_lse: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Attention to two sets of keys from attention to each, in float32.

    Of weights exp(lse) only their ratio counts, which does not suffer from a large lse.
    """
    nothing = jnp.isneginf(part_lse)  # nor may the difference be of two of these
    share = jnp.where(nothing, 0.0, jax.nn.sigmoid(jnp.where(nothing, 0.0, part_lse) - lse))
    change = share.transpose(0, 2, 1)[..., None] * (part_out.astype(out.dtype) - out)
    return out + change, jnp.logaddexp(lse, part_lse)


def _visible(ring: Ring, group: tiles.Group, ids: Arrays) -> tuple[core.Plan, KeyBounds | None]:
    """The plan of a group's call, whose band goes into its bounds where there are segments."""
    if not ids:
        return replace(ring.plan, band=group.band), None
    segments = group.queries(ids[0]), group.keys(ids[1])
    batch, rows = segments[0].shape
    shape = batch, rows, segments[1].shape[1]
    return replace(ring.plan, band=FULL), KeyBounds.make(group.band, shape, segments=segments)


def _backward(
    ring: Ring, q: jax.Array, k: jax.Array, v: jax.Array, *rest: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """dq stays; dk and dv follow the keys by one hop, so that they too travel during a kernel."""
    *ids, out, lse, dout, dlse = rest
    # Else XLA takes the forward's sends for the same, and keeps what they brought until now.
    k, v, lse, dout = lax.optimization_barrier((k, v, lse, dout))
    home, keys = (q, *ids[:1], out, lse, dout, dlse), (k, v, *ids[1:])
    dq = tiles.zeros_like(q, q.shape)
    run = functools.partial(_hop_backward, ring)
    departures = ring.departures(keys)
    dq, *parts = ring.at(ring.schedule.home, run, dq, home, keys)
    totals: Arrays = tuple(parts)
    for travel, arrived in departures:
        behind: Arrays = ()
        for hop, following in _stops(travel):
            arrived, (dq, *sums), coming = ring.stop(arrived, (dq, *behind), following)
            behind = ring.send(sums, hop.shift)
            dq, *parts = ring.at(hop, run, dq, home, arrived)
            behind = _sum(behind, parts) if behind else tuple(parts)
            arrived = coming
        # Else one's way home and the other's last hop become one send, beside no kernel.
        behind = lax.optimization_barrier(behind)
        totals = _sum(totals, ring.send(behind, -sum(hop.shift for hop in travel)))
    return dq.astype(q.dtype), totals[0].astype(k.dtype), totals[1].astype(v.dtype)


def _hop_backward(
    ring: Ring, groups: list[tiles.Group], dq: jax.Array, home: Arrays, arrived: Arrays
) -> Arrays:
    """dq so far with the hop's share added, and the hop's dk and dv, all float32."""
    (q, *own_ids, out, lse, dout, dlse), (k, v, *ids) = home, arrived
    dk, dv = tiles.zeros_like(k, k.shape), tiles.zeros_like(v, v.shape)
    for group in groups:
        plan, bounds = _visible(ring, group, (*own_ids, *ids))
        parts = core.gradients(
            plan,
            group.queries(q),
            group.keys(k),
            group.keys(v),
            (group.queries(out), group.queries(lse, axis=2)),
            (group.queries(dout), group.queries(dlse, axis=2)),
            bounds,
        )
        for at, (part,) in group.split(parts[0]):
            dq = at.add(dq, part)
        for at, (dk_part, dv_part) in group.split_keys(*parts[1:]):
            dk, dv = at.add(dk, dk_part), at.add(dv, dv_part)
    return dq, dk, dv


def _stops(travel: tuple[Hop, ...]) -> Iterator[tuple[Hop, Hop | None]]:
    """Each hop and the one after it."""
    return zip(travel, (*travel[1:], None), strict=True)


def _sum(a: Sequence[jax.Array], b: Sequence[jax.Array]) -> Arrays:
    return tuple(x + y for x, y in zip(a, b, strict=True))
