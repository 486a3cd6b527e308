"""Measure jax_fa4 beside its peers. The command is `python -m benchmarks.attention`."""
