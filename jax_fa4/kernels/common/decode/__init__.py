"""Decoding, one source for every architecture."""
