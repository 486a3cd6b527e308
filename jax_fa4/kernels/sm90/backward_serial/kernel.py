"""The Hopper backward for short lengths: all gradients of a head in one CTA, and no sums in memory.

    warp 0 --TMA--> sK, two blocks --+
           --TMA--> sV ------------+ |
           --TMA--> sQ, lse_log2 --+-+--> consumer warpgroups 0 and 1, as in backward/kernel.py
           --TMA--> sdO, delta   --+ |      dV --> its sK, dK --> its sdS --TMA-->   under the next
                                     |      dS --> sdS                               block's scores
                                     +--> queries' warpgroup, warp 0 of which loads
                                            dQ = dS K            stored, added, read back in scratch
                                            scale dQ --> dq      by the last block of keys

| barrier | stages    | full                        | empty                                  |
| k       | 2         | TMA of K                    | when ds is full in a block's first step|
| v       | 1         | TMA of V                    | when ds is full in a block's last step |
| q       | stages    | TMA of Q, bulk of lse_log2  | every consumer warp, dK has read Q     |
| do      | stages    | TMA of dO, bulk of delta    | every consumer warp, dV has read dO    |
| ds      | ds_stages | every consumer warp, fenced | the queries' 4 warps, dQ has read dS   |

The CTAs stay, at most one a multiprocessor, and take KV heads in turn; one does all blocks of
keys of a head one after the other. So the sums of dQ are nobody else's: they need no zeros before
and no kernel after, a scratch of one head a CTA (of all query heads of the group) is used again
and again and stays in L2, and additions have one order: dq has the same bits in every run.
"""

from __future__ import annotations

import cutlass.cute as cute
from cutlass import Boolean, Int32

from jax_fa4.kernels.sm90.backward import memory, products
from jax_fa4.kernels.sm90.backward.base import HopperBackward
from jax_fa4.kernels.sm90.backward.config import KEYS_PER_WARPGROUP
from jax_fa4.kernels.sm90.backward_serial import consumer, walk
from jax_fa4.kernels.sm90.backward_serial import queries as queries_role
from jax_fa4.kernels.sm90.backward_serial.barriers import mbarrier_table
from jax_fa4.kernels.sm90.backward_serial.config import KEY_STAGES, config_of
from jax_fa4.kernels.toolkit.forward_arrays import Shape
from jax_fa4.kernels.toolkit.schedulers import LongestFirst


class BackwardSerialSm90(HopperBackward):
    """One compiled serial backward kernel; see the module's docstring.

    It is called as the usual one, but with dq in the place of semaphores, of which it has none.
    """

    config_of = staticmethod(config_of)
    make_tiled_mmas = staticmethod(products.make_tiled_mmas)
    mbarrier_table = staticmethod(mbarrier_table)

    def _scheduler(self, shape: Shape, sm_count: Int32, is_cut: Boolean) -> LongestFirst:
        """As few CTAs as need no more rounds than one for every multiprocessor would."""
        heads = shape.heads_kv * shape.batch
        ctas = cute.ceil_div(heads, cute.ceil_div(heads, sm_count))
        return LongestFirst(ctas, Int32(1), Int32(1), Int32(1))

    def _dk_stage(self) -> tuple[str, tuple[int, int]]:
        return "sdS", (KEYS_PER_WARPGROUP, self.config.tile_m)

    def _layouts(self) -> dict[str, cute.ComposedLayout]:
        layouts, config = super()._layouts(), self.config
        stages = KEY_STAGES * config.consumers
        keys = memory.tile_rows(self.dtype, KEYS_PER_WARPGROUP, config.head_dim, stages)
        return layouts | {"sK": keys}

    @cute.jit
    def roles(self, context, warp):
        """Who does what."""
        config = self.config
        context = walk.on_the_way(context)
        # ---- queries: dQ, and warp 0 loads
        if warp < 4:
            cute.arch.setmaxregister_decrease(config.query_registers)
            queries_role.run(context, warp)

        # ---- consumers: dK and dV, 64 keys of a block a warpgroup
        if warp >= 4:
            cute.arch.setmaxregister_increase(config.consumer_registers)
            consumer.run(context, warp // 4 - 1)
