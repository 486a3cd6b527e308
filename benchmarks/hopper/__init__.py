"""What we know of the Hopper kernels besides their benchmarks."""
