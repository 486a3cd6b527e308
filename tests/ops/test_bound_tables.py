"""The summaries that bounded kernels skip by, against the visible pairs themselves."""

import jax
import numpy as np
import pytest

pytest.importorskip("hypothesis")

from hypothesis import given, settings
from hypothesis import strategies as st

from jax_fa4.ops.bound_tables import GROUP, NOWHERE
from jax_fa4.ops.bound_tables import bound_tables as uncompiled

bound_tables = jax.jit(uncompiled)
SHAPES = ((2, 200, 129), (1, 64, 128), (2, 65, 1), (1, 1, 70))


def visible(first, last, query_ids, key_ids):
    """(B, Sq, Sk): the definition."""
    keys = np.arange(key_ids.shape[1])
    within = (first[..., None] <= keys) & (keys <= last[..., None])
    return within & (query_ids[..., None] == key_ids[:, None])


@st.composite
def bounds(draw):
    """Any: ids in any order, rows that see nothing, bounds outside of the keys, ragged lengths."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch, sq, sk = draw(st.sampled_from(SHAPES))
    first = generator.integers(-20, sk + 20, (batch, sq))
    if draw(st.booleans()):  # whole groups that see as much, which random ones hardly do
        first = np.minimum(first, generator.integers(-20, sk, (batch, 1)))
    last = first + generator.integers(draw(st.sampled_from([-5, 60])), 90, (batch, sq))
    kinds = draw(st.sampled_from([1, 2, 40]))
    ids = [generator.integers(-kinds, 0, (batch, n)) for n in (sq, sk)]
    if draw(st.booleans()):
        ids = [np.sort(x, axis=1) for x in ids]
    return tuple(np.asarray(x, np.int32) for x in (first, last, *ids))


def blocks(length):
    return [slice(at, min(at + GROUP, length)) for at in range(0, length, GROUP)]


@settings(max_examples=150, deadline=None, database=None)
@given(bounds())
def test_the_bounds_themselves_say_what_is_visible(given_bounds):
    tables = bound_tables(*given_bounds)
    row_bounds = np.asarray(tables.row_bounds)
    now = (row_bounds[..., 0], row_bounds[..., 1], *given_bounds[2:])
    assert (visible(*now) == visible(*given_bounds)).all()
    assert row_bounds[..., 0].min() >= 0
    assert row_bounds[..., 1].max() < given_bounds[3].shape[1]


@settings(max_examples=150, deadline=None, database=None)
@given(bounds())
def test_nothing_visible_is_skipped_and_nothing_hidden_goes_unmasked(given_bounds):
    sees = visible(*given_bounds)
    groups = np.asarray(bound_tables(*given_bounds).query_groups)
    for batch, of_batch in enumerate(sees):
        for group, rows in enumerate(blocks(sees.shape[1])):
            least, greatest, whole_from, whole_to = groups[batch, group]
            keys = np.flatnonzero(of_batch[rows].any(axis=0))
            assert not keys.size or (least <= keys[0] and keys[-1] <= greatest)
            if whole_from <= whole_to:
                assert of_batch[rows, whole_from : whole_to + 1].all()


@settings(max_examples=150, deadline=None, database=None)
@given(bounds())
def test_every_row_that_sees_a_key_is_visited_for_it(given_bounds):
    sees = visible(*given_bounds)
    groups = np.asarray(bound_tables(*given_bounds).key_groups)
    assert groups[..., 1].max() < sees.shape[1]
    for batch, of_batch in enumerate(sees):
        for group, keys in enumerate(blocks(sees.shape[2])):
            first, last = groups[batch, group]
            rows = np.flatnonzero(of_batch[:, keys].any(axis=1))
            assert not rows.size or (first <= rows[0] and rows[-1] <= last)


def documents(lengths):
    """Bounds of packed documents, each of which sees itself."""
    ends = np.cumsum(lengths)
    ids = np.repeat(np.arange(len(lengths)), lengths).astype(np.int32)[None]
    return (ends - lengths)[ids].astype(np.int32), (ends[ids] - 1).astype(np.int32), ids, ids


def test_packed_documents_are_bounded_tightly():
    """A visit is a pair of groups: of documents that are whole groups, no other is visited."""
    lengths = np.array([128, 64, 320])
    first, last, *ids = documents(lengths)
    tables = bound_tables(first, last, *ids)
    ends = np.cumsum(lengths)
    of_group = np.repeat(np.arange(3), lengths // GROUP)
    tight = np.stack([(ends - lengths)[of_group], ends[of_group] - 1], axis=-1)
    assert (np.asarray(tables.query_groups)[0] == np.concatenate([tight, tight], axis=-1)).all()
    assert (np.asarray(tables.key_groups)[0] == tight).all()


def test_a_group_of_two_documents_is_masked():
    tables = bound_tables(*documents(np.array([100, 28])))
    assert np.asarray(tables.query_groups)[0].tolist() == [[0, 99, 0, 99], [0, 127, 100, 99]]


def test_rows_without_keys_neither_widen_a_group_nor_leave_it_whole():
    first = np.zeros((1, 128), np.int32)
    last = np.full((1, 128), 70, np.int32)
    first[0, 5], last[0, 5] = 3, 2
    first[0, 64:], last[0, 64:] = 9, -1
    ids = np.zeros((1, 128), np.int32)
    tables = bound_tables(first, last, ids, ids)
    assert np.asarray(tables.query_groups)[0].tolist() == [
        [0, 70, NOWHERE, -1],
        [NOWHERE, -1, NOWHERE, -1],
    ]
    assert np.asarray(tables.key_groups)[0].tolist() == [[0, 63], [0, 63]]


def test_a_run_that_is_interrupted_is_masked():
    """Keys 10 .. 12 belong to another segment: no row of this one sees its bounds whole."""
    keys = np.zeros((1, 64), np.int32)
    keys[0, 10:13] = 7
    first, last = np.zeros((1, 64), np.int32), np.full((1, 64), 63, np.int32)
    groups = bound_tables(first, last, np.zeros((1, 64), np.int32), keys).query_groups
    assert np.asarray(groups)[0].tolist() == [[0, 63, NOWHERE, -1]]
