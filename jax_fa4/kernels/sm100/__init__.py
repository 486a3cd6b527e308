"""Kernels for Blackwell (sm_100f): TMA, tcgen05, tensor memory, warp specialisation."""
