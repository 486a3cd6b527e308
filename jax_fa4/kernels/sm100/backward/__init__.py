"""The backward kernel for Blackwell; read kernel.py first."""
