"""The Blackwell backward by pairs of CTAs; `kernel` has the picture."""
