"""The Hopper backward in pairs of CTAs: dK and dV of a block of keys, and its share of every dQ.

    P = exp2(scale log2(e) Q K^T - lse_log2)      dP = dO V^T      dS = P (dP - delta)
    dV = sum over queries of P^T dO     dK = scale sum dS^T Q     dQ += dS K, scaled afterwards

As sm90/backward/kernel.py, but two CTAs, with 128 keys each, exchange their dS: each makes half of
the columns of dQ, over the keys of both, so that half as much is added to global memory. They walk
the same queries, and load them for each other.

    warp 0 --TMA--> sK, sV, and half of the columns of the other CTA's K, once
           --TMA--> sQ (rank 0), sdO (rank 1) of both CTAs; lse_log2, delta
    consumers (warps 4-11, 64 keys a warpgroup)
                    S^T = K Q^T, dP^T = V dO^T, dV += P^T dO, dK += dS^T Q
                    dS --> sdS, here and there
    queries (warps 0-3)
                    dQ = dS K to dq_accum by vector reductions

Where CTAs take turns (sm90/backward/turns.py), a fourth warpgroup has warps for them, and loads.

| barrier | stages    | full                          | empty                                 |
| kv      | 3         | TMA, 1 arrival + bytes        | never: K, V, other's K, once a CTA    |
| q       | q_stages  | TMA of Q, bulk of lse_log2    | consumer warps, dK has read Q         |
| do      | do_stages | TMA of dO, bulk of delta      | consumer warps, dV has read dO        |
| freed   | as q, do  | other CTA's consumer warps    | never: it is what the loader waits for |
| ds      | ds_stages | consumer warps, other's bytes | queries' warps of both CTAs           |

A pair owns a block of 256 keys of one KV head, and walks the blocks of queries that see it of all
the group's query heads. A CTA whose keys are all past the end takes part: they are hidden.
"""

from __future__ import annotations

from jax_fa4.kernels.sm90.backward.kernel import BackwardSm90
from jax_fa4.kernels.sm90.backward_pair_narrow import consumer, load
from jax_fa4.kernels.sm90.backward_pair_narrow import queries as queries_role
from jax_fa4.kernels.sm90.backward_pair_narrow.barriers import mbarrier_table
from jax_fa4.kernels.sm90.backward_pair_narrow.config import config_of


class BackwardPairNarrowSm90(BackwardSm90):
    """One compiled backward kernel for Hopper; see the module's docstring."""

    config_of = staticmethod(config_of)
    mbarrier_table = staticmethod(mbarrier_table)
    run_queries = staticmethod(queries_role.run)
    run_consumer = staticmethod(consumer.run)
    run_loads = staticmethod(load.run)
