"""The Hopper backward of wide heads where every row has bounds and an id of its own.

`sm90/backward/bounded.py` says what differs. With a soft cap, the values' warpgroup sends
P (1 - tanh^2) to the keys', not P, since that is what dS has as a factor.
"""

from __future__ import annotations

from jax_fa4.kernels.sm90.backward.base_bounded import HopperBoundedBackward
from jax_fa4.kernels.sm90.backward_pair.kernel import BackwardPairSm90


class BackwardPairBoundedSm90(HopperBoundedBackward, BackwardPairSm90):
    """One compiled bounded backward kernel for Hopper; see the module's docstring."""
