"""What can be known of the Blackwell kernels without the chip. See `benchmarks/README.md`."""
