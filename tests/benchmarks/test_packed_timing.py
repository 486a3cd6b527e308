"""The benchmark of packed documents: what counts as work, and what a call is told."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from benchmarks import packed_timing
from benchmarks.packed_timing import Packed
from jax_fa4.ops import selection

CELL = Packed(64, 256, 4, equal=False, tokens=512, hidden=128, backward=False)


def test_work_is_what_the_bounds_let_see():
    seen = np.asarray(CELL.bounds().sees())
    assert seen.shape == (2, 256, 256)
    assert CELL.flops == 2 * 2 * float(seen.sum()) * 64 * 2
    assert CELL.lengths.sum() == 256
    assert len(CELL.lengths) == 4
    alone = Packed(64, 256, 1, equal=True, tokens=512, hidden=128, backward=True)
    np.testing.assert_array_equal(alone.bounds().sees()[0], np.tri(256, dtype=bool))
    assert alone.flops == 5 * 2 * (256 * 257 / 2) * 64 * 2 * 2


def test_cells_and_rows():
    cells = packed_timing.chosen(
        packed_timing.parser().parse_args(["--head-dim", "64", "--documents", "1", "4"])
    )
    assert [(c.backward, c.documents, c.equal) for c in cells] == [
        (backward, *documents)
        for backward in (False, True)
        for documents in ((1, True), (4, True), (4, False))
    ]
    line = packed_timing.row(cells[2], {"bounded": "400", "whole": "90", "tokamax": "ValueError"})
    assert line == "| 64 | fwd | 8192 | 4 drawn | 400 | 90 | - | - | - | ValueError |\n"


def test_equal_documents_are_batch_elements():
    cell = Packed(64, 256, 4, equal=True, tokens=512, hidden=128, backward=False)
    row = np.arange(256)
    x = np.broadcast_to(row[None, :, None, None], cell.shape)
    run, shared = packed_timing._apart(cell, (lambda shared, *arrays: arrays, ()))
    found = run(shared, x, np.broadcast_to(row, (2, 2, 256)))
    assert [a.shape for a in found] == [(8, 64, 2, 64), (8, 2, 64)]
    for document in range(8):
        expected = 64 * (document % 4) + np.arange(64)
        np.testing.assert_array_equal(found[0][document, :, 1, 5], expected)
        np.testing.assert_array_equal(found[1][document, 1], expected)


@pytest.mark.parametrize("backward", [False, True])
def test_who_is_told_the_documents_computes_the_same(backward, monkeypatch):
    """And nobody else, on the emulator, with XLA in cuDNN's place."""
    select = selection.select
    monkeypatch.setattr(selection, "select", lambda problem, _: select(problem, "emulator"))
    attend = jax.nn.dot_product_attention

    def by_xla(*x, **options):
        return attend(*x, **options | {"implementation": "xla"})

    monkeypatch.setattr(jax.nn, "dot_product_attention", by_xla)
    cell = Packed(64, 256, 4, equal=True, tokens=256, hidden=64, backward=backward)
    inputs, found = packed_timing.draw(cell)[0], {}
    for name, make in packed_timing.contestants(cell).items():
        if name != "tokamax":
            run, shared = make()
            found[name] = jax.tree.leaves(run(shared, *inputs))[0].reshape(cell.shape)
    for name, result in found.items():
        difference = np.abs(np.asarray(result - found["bounded"], np.float32)).max()
        assert (difference < 0.05) == (name != "whole"), name
