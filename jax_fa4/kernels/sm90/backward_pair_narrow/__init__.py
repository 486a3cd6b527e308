"""The Hopper backward of narrow heads in clusters of two CTAs; read kernel.py first."""
