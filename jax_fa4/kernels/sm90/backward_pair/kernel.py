"""The Hopper backward of wide heads: dK and dV of a block of keys, and its share of every dQ.

    P = exp2(scale log2(e) Q K^T - lse_log2)      dP = dO V^T      dS = P (dP - delta)
    dV = sum over queries of P^T dO     dK = scale sum dS^T Q     dQ += dS K, scaled afterwards

dK and dV of 64 keys fill half of an SM's registers at head dim 256, and with 64 keys a CTA all the
dQ would be twice what L2 can add. So two CTAs, with 64 keys each, exchange their dS: each makes
half of the columns of dQ, over the keys of both.

    warp 12 --TMA--> sK, sV, and half of the columns of the other CTA's K, once
            --TMA--> sQ, sdO, in halves of their columns, rank r the half r of both CTAs
            --bulk-> lse_log2, delta
    values  (warps 0-3)    S^T = K Q^T     P --> sdS      dV += P^T dO
    keys    (warps 4-7)    dP^T = V dO^T   P <-- sdS      dS --> sdS, here and there   dK += dS^T Q
    queries (warps 8-11)   dQ = dS K       to dq_accum by vector reductions

| barrier | stages    | full                          | empty                                  |
| kv      | 3         | TMA, 1 arrival + bytes        | never: K, V, other's K, once a CTA     |
| q       | q_stages  | TMA of half a Q, lse_log2     | values' and keys' warps: S, dK read it |
| do      | do_stages | TMA of half a dO, delta       | both warpgroups: dP and dV read it     |
| ready   | 2         | other CTA's loader, of q, do  | never: it is no further ahead          |
| p       | ds_stages | values' warps: P is written   | (ds)                                   |
| ds      | ds_stages | keys' warps, other's 8 KiB    | queries' warps of both CTAs            |

A pair owns a block of 128 keys of one KV head, and walks the blocks of queries that see it of all
the group's query heads: dK and dV stay in registers, without any expansion to query heads. A CTA
whose keys are all past the end takes part: they are hidden.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute

from jax_fa4.kernels.sm90.backward import turns
from jax_fa4.kernels.sm90.backward.base import HopperBackward
from jax_fa4.kernels.sm90.backward_pair import keys as keys_role
from jax_fa4.kernels.sm90.backward_pair import load, products
from jax_fa4.kernels.sm90.backward_pair import queries as queries_role
from jax_fa4.kernels.sm90.backward_pair import values as values_role
from jax_fa4.kernels.sm90.backward_pair.barriers import mbarrier_table
from jax_fa4.kernels.sm90.backward_pair.config import config_of


class BackwardPairSm90(HopperBackward):
    """One compiled backward kernel for Hopper; see the module's docstring."""

    config_of = staticmethod(config_of)
    make_tiled_mmas = staticmethod(products.make_tiled_mmas)
    mbarrier_table = staticmethod(mbarrier_table)

    @cute.jit
    def roles(self, context, warp):
        """Who does what."""
        config = self.config
        # ---- values: P and dV
        if warp < 4:
            cute.arch.setmaxregister_increase(config.value_registers)
            values_role.run(context)

        # ---- keys: dS and dK
        if (warp >= 4) & (warp < 8):
            cute.arch.setmaxregister_increase(config.key_registers)
            keys_role.run(context)

        # ---- queries: dQ
        if (warp >= 8) & (warp < 12):
            cute.arch.setmaxregister_decrease(config.query_registers)
            queries_role.run(context)

        # ---- loads, by one warp; the others see to the order of dQ's additions
        if warp >= 12:
            cute.arch.setmaxregister_decrease(config.load_registers)
            if warp == 12:
                load.run(context)
            if cutlass.const_expr(config.ordered):  # noqa: SIM102
                if warp > 12:
                    turns.run(context, warp - 13)
