"""The forward kernel for Blackwell; read kernel.py first."""
