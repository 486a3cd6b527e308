"""Words that kernels share."""
