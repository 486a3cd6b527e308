"""The Hopper backward: dK and dV of a block of keys, and its share of every dQ.

    P = exp2(scale log2(e) Q K^T - lse_log2)      dP = dO V^T      dS = P (dP - delta)
    dV = sum over queries of P^T dO     dK = scale sum dS^T Q     dQ += dS K, scaled afterwards

    loads  --TMA--> sK, sV, once
           --TMA--> sQ, lse_log2 --+--> consumer warpgroups 0 and 1, 64 keys each
           --TMA--> sdO, delta   --+      S^T = K Q^T, dP^T = V dO^T    from shared memory
                                   |      dV += P^T dO, dK += dS^T Q    A from registers
                                   |      dK, dV --> sK, sV --TMA-->    at the end
                                   |      dS --> sdS
                                   +--> queries' warpgroup
                                          dQ = dS K                     from shared memory
                                          dQ to dq_accum                by vector reductions

| barrier | stages    | full                        | empty                                 |
| kv      | 2         | TMA, 1 arrival + bytes      | never: K, then V, once a CTA          |
| q       | stages    | TMA of Q, bulk of lse_log2  | every consumer warp, dK has read Q    |
| do      | stages    | TMA of dO, bulk of delta    | every consumer warp, dV has read dO   |
| ds      | ds_stages | every consumer warp, fenced | the queries' 4 warps, dQ has read dS  |

One warp loads: the queries' first, or that of the first consumer (`consumer_loads`).

A CTA owns one block of keys of one KV head, and walks the blocks of queries that see it of all the
group's query heads: dK and dV stay in registers, without any expansion to query heads.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute

from jax_fa4.kernels.sm90.backward import consumer, load, products, turns
from jax_fa4.kernels.sm90.backward import queries as queries_role
from jax_fa4.kernels.sm90.backward.barriers import mbarrier_table
from jax_fa4.kernels.sm90.backward.base import HopperBackward
from jax_fa4.kernels.sm90.backward.config import config_of


class BackwardSm90(HopperBackward):
    """One compiled backward kernel for Hopper; see the module's docstring."""

    config_of = staticmethod(config_of)
    make_tiled_mmas = staticmethod(products.make_tiled_mmas)
    mbarrier_table = staticmethod(mbarrier_table)
    run_queries = staticmethod(queries_role.run)
    run_consumer = staticmethod(consumer.run)
    run_loads = staticmethod(load.run)

    @cute.jit
    def roles(self, context, warp):
        """Who does what."""
        config = self.config
        # Plain functions, since the DSL takes a method's call in a branch for a change of `self`.
        run_queries, run_consumer, run_loads = self.run_queries, self.run_consumer, self.run_loads
        # ---- queries: dQ, and maybe loads
        if warp < 4:
            cute.arch.setmaxregister_decrease(config.query_registers)
            run_queries(context, warp)

        # ---- consumers: dK and dV, 64 keys a warpgroup, and maybe loads
        is_consumer = warp >= 4
        if cutlass.const_expr(config.counts_consumers):
            is_consumer = is_consumer & (warp < 4 + 4 * config.consumers)
        if is_consumer:
            cute.arch.setmaxregister_increase(config.consumer_registers)
            run_consumer(context, warp // 4 - 1)

        # ---- turns: the order of dQ's additions; the first warp loads
        if cutlass.const_expr(config.ordered):  # noqa: SIM102
            if warp >= 4 + 4 * config.consumers:
                cute.arch.setmaxregister_decrease(config.turn_registers)
                if warp == 4 + 4 * config.consumers:
                    run_loads(context)
                else:
                    turns.run(context, warp - 5 - 4 * config.consumers)
