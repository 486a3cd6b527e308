"""The Hopper backward of wide heads, in clusters of two CTAs."""
