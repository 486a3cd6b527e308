"""The Hopper backward for short lengths, a CTA for all keys of a head; read kernel.py first."""
