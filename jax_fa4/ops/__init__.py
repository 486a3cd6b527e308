"""What a JAX user calls: the public functions, their meaning, and the portable path."""
