"""Real English text that every Python ships: the language reference of `pydoc_data.topics`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pydoc_data.topics import topics

import numpy as np
import numpy.typing as npt

# Tokens are the bytes of UTF-8: nothing to learn, nothing out of vocabulary.
VOCABULARY = 256
HELD_OUT_SHARE = 0.1

Tokens = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Corpus:
    """The text as bytes: what the model learns from, and what it never sees."""

    train: Tokens
    held_out: Tokens


def load() -> Corpus:
    """The topics in alphabetical order, each paragraph once; the last tenth is held out.

    Topics quote one another at length, so without the second rule the held-out text
    would be full of paragraphs from the training text.
    """
    paragraphs: dict[str, str] = {}
    for name in sorted(topics):
        for paragraph in topics[name].split("\n\n"):
            words = " ".join(paragraph.split())
            if words:
                paragraphs.setdefault(words, paragraph.strip("\n"))
    tokens = encode("\n\n".join(paragraphs.values()))
    boundary = int(len(tokens) * (1 - HELD_OUT_SHARE))
    return Corpus(train=tokens[:boundary], held_out=tokens[boundary:])


def encode(text: str) -> Tokens:
    """The UTF-8 bytes of a text."""
    return np.frombuffer(text.encode(), np.uint8)


def decode(tokens: Tokens) -> str:
    """The text that bytes spell; a cut or impossible character becomes U+FFFD."""
    return tokens.tobytes().decode(errors="replace")


def batches(
    tokens: Tokens, *, size: int, length: int, seed: int
) -> Iterator[npt.NDArray[np.int32]]:
    """Endless (size, length + 1) windows at random places; the same ones for the same seed.

    The first `length` tokens of a window are the input, the last `length` the targets.
    """
    generator = np.random.default_rng(seed)
    span = np.arange(length + 1)
    while True:
        starts = generator.integers(0, len(tokens) - length, size)
        yield tokens[starts[:, None] + span].astype(np.int32)
