"""A hook of mkdocs: `<!-- README: Semantics -->` in a page becomes that section of the README.

So a text has one place. Links to files of the repository, which the site does not have, become
the files' names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]
_MARK = re.compile(r"^<!-- README: (.+) -->$", re.MULTILINE)
_LINK = re.compile(r"(!?)\[([^\]]+)\]\((?!https?:|#)([^)\s]+)\)")


def section(title: str, text: str) -> str:
    """What stands below the heading `## title`, up to the next heading of its level.

    A title "A / B" is the part of section A from the paragraph that begins with **B**.
    """
    title, _, paragraph = title.partition(" / ")
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"the README has no section {title!r}")
    body = found[1]
    if paragraph:
        if f"**{paragraph}**" not in body:
            raise ValueError(f"the README's section {title!r} has no paragraph {paragraph!r}")
        body = body[body.index(f"**{paragraph}**") :]
    return body.strip()


def _link(match: re.Match[str]) -> str:
    """A link as it must be in the site."""
    image, text, target = match.groups()
    if target.startswith("docs/"):
        return f"{image}[{text}]({target.removeprefix('docs/')})"
    return text if text.strip("`") == target else f"{text} (`{target}`)"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs calls this for each page."""
    readme = (CHECKOUT / "README.md").read_text()
    return _MARK.sub(lambda mark: _LINK.sub(_link, section(mark[1], readme)), markdown)
