"""CTAs of Hopper's deterministic backward take turns: they never stand, and in one order."""

import dataclasses
import itertools
import random

import pytest

pytest.importorskip("cutlass")

from turns_model import WARPS, Problem, simulate

from jax_fa4.kernels.toolkit.query_range import query_range

FAR = 1 << 30
LENGTHS = (1, 63, 64, 65, 127, 128, 129, 200, 256, 300, 384, 512, 640, 777)
DIMS = ((64, 64), (96, 96), (128, 128), (192, 128), (256, 256))


def band(choose, seqlen_q, seqlen_k):
    """Full, causal or a window, of either corner; some rows or keys see nothing.

    Never lower > upper, which the handler refuses: then some blocks have no order.
    """
    corner = choose.choice((0, seqlen_k - seqlen_q))
    left = choose.choice((FAR, 0, 1, 1, 40, 65, 127, 128, 300))
    right = choose.choice((FAR, FAR, 0, 0, 0, 1, 64, 200))
    shift = choose.choice((0, 0, 0, 0, 0, 0, -500, 70, 600))
    lower = -FAR if left == FAR else corner - left + shift
    upper = FAR if right == FAR else corner + right + shift
    return lower, upper


def problems(count, seed=0):
    """Calls at random, small enough for a simulation."""
    choose = random.Random(seed)
    while count:
        seqlen_q, seqlen_k = choose.choice(LENGTHS), choose.choice(LENGTHS)
        if choose.random() < 0.1:  # one much longer than the other
            seqlen_q, seqlen_k = choose.choice(((1, 3000), (3000, 1), (70, 2500), (2500, 129)))
        batch, heads_kv, ratio = choose.choice((1, 1, 2, 3)), choose.randint(1, 6), 1
        if choose.random() < 0.5:
            ratio = choose.randint(1, 8)
        steps = batch * heads_kv * ratio * -(-seqlen_q // 64) * -(-seqlen_k // 128)
        if steps > 200:
            continue
        count -= 1
        lower, upper = band(choose, seqlen_q, seqlen_k)
        dims = choose.choice(DIMS)
        yield Problem(
            head_dims=dims,
            pair=dims == (128, 128) and choose.random() < 0.5,
            batch=batch,
            heads_kv=heads_kv,
            ratio=ratio,
            seqlen_q=seqlen_q,
            seqlen_k=seqlen_k,
            lower=lower,
            upper=upper,
            multiprocessors=choose.choice((1, 1, 2, 3, 5, 8, 16, 132, 148, choose.randint(1, 148))),
            l2_bytes=choose.choice((1, 1 << 18, 1 << 20, 1 << 25)),
        )


def keys_that_visit(problem, block):
    """Numbers of the blocks of keys, of a CTA or pair, that walk a block of queries."""
    config = problem.config
    keys = config.ctas * config.tile_n
    ranges = [
        query_range(problem.band, key, config.tile_m, keys)
        for key in range(0, problem.seqlen_k, keys)
    ]
    return [n for n, of in enumerate(ranges) if of.first <= block < of.last]


def check(problem, seed=0):
    """The order of additions, by keys, of every block of queries of every head."""
    device = simulate(problem, seed)
    ctas, each = problem.config.ctas, problem.config.ctas * WARPS
    orders = {}
    for place, semaphore in device.semaphore.items():
        added = device.additions[place]
        order = added[::each]
        # All of one CTA or pair, then all of the next; each that visits once, up or down.
        assert added == [n for n in order for _ in range(each)], (problem, place)
        visitors = keys_that_visit(problem, place[1])
        assert order in (visitors, visitors[::-1]), (problem, place)
        assert device.counts[semaphore] == len(visitors) * ctas, (problem, place)
        waits = [n * ctas for n in range(len(visitors)) for _ in range(ctas)]
        assert sorted(device.waits[semaphore]) == waits, (problem, place)
        orders[place] = order
    assert device.additions.keys() <= device.semaphore.keys()
    return orders


@pytest.mark.parametrize("part", range(6))
def test_no_launch_stands_and_every_sum_has_one_order(part):
    for number, problem in enumerate(problems(60, part)):
        check(problem, number)


@pytest.mark.parametrize(
    ("dims", "pair"), [((128, 128), False), ((128, 128), True), ((256, 256), True)]
)
def test_the_order_is_the_same_on_every_device(dims, pair):
    for ratio, upper in itertools.product((1, 4), (FAR, 0)):
        call = Problem(
            head_dims=dims,
            pair=pair,
            batch=1,
            heads_kv=5,
            ratio=ratio,
            seqlen_q=300,
            seqlen_k=700,
            lower=-FAR,
            upper=upper,
            multiprocessors=132,
        )
        orders = check(call)
        assert any(len(order) > 2 for order in orders.values())
        for multiprocessors in (1, 7, 114, 148):
            assert check(dataclasses.replace(call, multiprocessors=multiprocessors)) == orders


def test_both_orders_are_met():
    """By how many heads stay in L2 together; see turns.order."""
    few = dict(head_dims=(128, 128), batch=1, ratio=1, seqlen_q=64, seqlen_k=300)
    few |= dict(lower=-FAR, upper=FAR, multiprocessors=132)
    assert check(Problem(heads_kv=2, **few))[0, 0] == [2, 1, 0]
    assert check(Problem(heads_kv=50, **few))[0, 0] == [0, 1, 2]


@pytest.mark.parametrize("heads", [2, 50])
def test_narrow_pairs_ascend(heads):
    call = Problem(
        head_dims=(128, 128),
        pair=True,
        batch=1,
        heads_kv=heads,
        ratio=1,
        seqlen_q=64,
        seqlen_k=700,
        lower=-FAR,
        upper=FAR,
        multiprocessors=132,
    )
    assert check(call)[0, 0] == [0, 1, 2]
