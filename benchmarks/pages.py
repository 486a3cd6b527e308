"""What pages of results have in common."""

from __future__ import annotations


def row(*cells: object) -> str:
    """Of a table in Markdown."""
    return "| " + " | ".join(map(str, cells)) + " |"
