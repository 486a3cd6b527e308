"""The backward kernel for Blackwell at wide heads; read kernel.py first."""
