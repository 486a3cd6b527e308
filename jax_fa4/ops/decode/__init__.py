"""Decoding: a few new queries against a long cache of keys and values, contiguous or in pages."""
