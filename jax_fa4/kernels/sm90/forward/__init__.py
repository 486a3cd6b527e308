"""The forward kernel for Hopper; read kernel.py first."""
