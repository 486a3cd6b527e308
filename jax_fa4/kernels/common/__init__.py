"""Kernels that serve every architecture."""
