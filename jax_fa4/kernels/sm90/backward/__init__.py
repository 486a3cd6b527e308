"""The backward kernel for Hopper; read kernel.py first."""
