"""The training text: deterministic, split without overlap, and real English."""

import itertools

import numpy as np

from jax_fa4.demo import text


def test_the_corpus_is_the_same_every_time():
    first, second = text.load(), text.load()
    np.testing.assert_array_equal(first.train, second.train)
    np.testing.assert_array_equal(first.held_out, second.held_out)


def test_a_tenth_is_held_out_of_a_text_worth_training_on():
    corpus = text.load()
    total = len(corpus.train) + len(corpus.held_out)
    assert total > 300_000
    assert abs(len(corpus.held_out) / total - 0.1) < 1e-3
    assert text.decode(corpus.train).count(" the ") > 1000


def test_no_held_out_paragraph_is_in_the_training_text():
    def paragraphs(tokens: text.Tokens) -> set[str]:
        return {" ".join(p.split()) for p in text.decode(tokens).split("\n\n")}

    corpus = text.load()
    held_out = paragraphs(corpus.held_out)
    assert len(held_out) > 100
    assert not held_out & paragraphs(corpus.train)


def test_encoding_round_trips():
    words = "def f(x): return “ß” — 1"
    assert text.decode(text.encode(words)) == words


def test_batches_repeat_with_the_seed_and_differ_without():
    tokens = text.encode("abcdefghij" * 20)

    def draw(seed: int) -> np.ndarray:
        stream = text.batches(tokens, size=3, length=8, seed=seed)
        return np.stack(list(itertools.islice(stream, 4)))

    assert draw(0).shape == (4, 3, 9)
    np.testing.assert_array_equal(draw(0), draw(0))
    assert (draw(0) != draw(1)).any()


def test_every_window_is_a_piece_of_the_text_and_the_ends_are_reached():
    tokens = np.arange(12, dtype=np.uint8)
    batch = next(text.batches(tokens, size=500, length=8, seed=0))
    np.testing.assert_array_equal(batch - batch[:, :1], np.tile(np.arange(9), (500, 1)))
    assert batch.min() == 0
    assert batch.max() == 11
