"""A model of kernels' time: the emulator's recordings at the pace of SASS and of a chip's units.

The same for every architecture; what a chip is like is data (`units.Chip`).
`benchmarks.blackwell.timing` and `benchmarks.hopper.timing` make pages of it.
"""
