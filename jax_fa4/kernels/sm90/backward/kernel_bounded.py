"""The Hopper backward where every row has bounds and an id of its own; `bounded` says what differs.

Sinks need nothing here: the log-sum-exp has them.
"""

from __future__ import annotations

from jax_fa4.kernels.sm90.backward.base_bounded import HopperBoundedBackward
from jax_fa4.kernels.sm90.backward.kernel import BackwardSm90


class BackwardBoundedSm90(HopperBoundedBackward, BackwardSm90):
    """One compiled bounded backward kernel for Hopper; see the module's docstring."""
