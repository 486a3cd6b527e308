"""What the parts of a Hopper multiprocessor cost, measured by small kernels of their own."""
