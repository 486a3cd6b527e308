"""The turns of Hopper's deterministic backward as a multiprocessor takes them, in plain Python.

What each role waits for and what it counts comes from the kernels' own functions, run as Python on
ints: the order of tiles, the walk, the barriers' stages and parities, the semaphores' places and
counts. `simulate` then runs the roles of all CTAs on a number of multiprocessors and in any order
that the waits allow; CTAs start in the order of the grid.

    turn warp w    for its steps: wait for a count, arrive at `turn`, wait for `done`, count
    queries' warp  for every step: wait for dS and `turn`, add, arrive at `done`
"""

from __future__ import annotations

import contextlib
import random
from collections import defaultdict
from dataclasses import dataclass, field
from types import SimpleNamespace
from unittest.mock import patch

import cutlass

from jax_fa4.kernels.sm90.backward import base, config, turns, walk
from jax_fa4.kernels.sm90.backward_pair import config as pair_config
from jax_fa4.kernels.sm90.backward_pair_narrow import config as narrow_config
from jax_fa4.kernels.toolkit import query_range as query_ranges
from jax_fa4.kernels.toolkit import schedulers
from jax_fa4.kernels.toolkit.block_range import Band
from jax_fa4.kernels.toolkit.forward_arrays import Shape
from jax_fa4.kernels.toolkit.query_range import query_range
from jax_fa4.variants import Arch, BackwardVariant, DType, Form

WARPS = 4  # of the queries' warpgroup
ROWS_OF_A_SEMAPHORE = 64


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One deterministic call and the device that runs it."""

    head_dims: tuple[int, int]
    batch: int
    heads_kv: int
    ratio: int
    seqlen_q: int
    seqlen_k: int
    lower: int
    upper: int
    multiprocessors: int  # that the launch is told of
    pair: bool = False  # of CTAs, where head dims leave the choice
    l2_bytes: int = schedulers._L2_BUDGET_BYTES  # less makes groups of heads

    @property
    def band(self) -> Band:
        return Band(self.lower, self.upper, self.seqlen_q, self.seqlen_k)

    @property
    def config(self):
        dim, dim_v = self.head_dims
        form, of = Form.USUAL, config.config_of
        if self.head_dims in pair_config.PAIR_CONFIGS:
            form, of = Form.PAIR, pair_config.config_of
        elif self.pair:
            form, of = Form.PAIR, narrow_config.config_of
        variant = BackwardVariant(
            arch=Arch.SM90,
            dtype=DType.BF16,
            head_dim=dim,
            head_dim_v=dim_v,
            form=form,
            deterministic=True,
        )
        return of(variant)


def _plain(function):
    """What a function of the DSL was written as."""
    return getattr(function, "__wrapped__", function)


@contextlib.contextmanager
def as_python():
    """The kernels' functions on ints; what they do is recorded by `Recorder`."""

    def select(condition, yes, no):
        return yes if condition else no

    with contextlib.ExitStack() as stack:
        for module in (turns, walk, base, schedulers):
            stack.enter_context(patch.object(module, "select_", select))
        plain_names = {"Int32": int, "Int64": int, "min": min, "max": max}
        for module in (turns, walk, base, schedulers, query_ranges):
            for name in plain_names.keys() & vars(module).keys():
                stack.enter_context(patch.object(module, name, plain_names[name]))
        for module, name in ((walk, "next_step"), (turns, "_oversee")):
            stack.enter_context(patch.object(module, name, _plain(getattr(module, name))))
        arch = SimpleNamespace(elect_one=contextlib.nullcontext)
        dsl = SimpleNamespace(arch=arch, fast_divmod_create_divisor=int)
        stack.enter_context(patch.object(turns, "cute", dsl))
        stack.enter_context(patch.object(schedulers, "cute", dsl))
        plain = SimpleNamespace(range=lambda *limits, unroll: range(*limits), const_expr=bool)
        for module in (turns, walk):
            stack.enter_context(patch.object(module, "cutlass", plain))
        yield


class Recorder:
    """Barriers and semaphores that write down what a role does to them."""

    def __init__(self) -> None:
        self.steps: list[tuple] = []

    def barrier(self, name):
        def wait(stage, parity):
            self.steps.append(("wait", name, stage, parity))

        def arrive(stage):
            self.steps.append(("arrive", name, stage))

        return SimpleNamespace(wait=wait, arrive=arrive, arrive_as_warp=arrive)

    def wait_for_sums(self, place, count):
        self.steps.append(("wait_count", place, count))

    def count_sums(self, place):
        self.steps.append(("count", place))


def _context(problem, tile, ctas, rank, upwards):
    """What a CTA knows, as HopperBackward.kernel makes it."""
    scheduler, config, band = tile[0], problem.config, problem.band
    block, head_kv, batch = scheduler.decode(tile[1])
    from_end, block = block, scheduler.row_blocks - 1 - block
    block = from_end if upwards == 1 else block
    keys = ctas * config.tile_n
    rows_padded = -(-problem.seqlen_q // base.ROWS_PADDED_TO) * base.ROWS_PADDED_TO
    return SimpleNamespace(
        config=config,
        band=band,
        queries=query_range(band, block * keys, config.tile_m, keys),
        position=SimpleNamespace(
            key_block=block * ctas + rank, rank=rank, head_kv=head_kv, batch=batch
        ),
        heads_q=problem.heads_kv * problem.ratio,
        ratio=problem.ratio,
        rows_padded=rows_padded,
        upwards=upwards,
        gmem=SimpleNamespace(semaphores=0),
    )


def _turn_warp(context, number):
    """What a warp of turns does."""
    recorder = Recorder()
    context.barriers = {name: recorder.barrier(name) for name in ("turn", "done")}
    with patch.object(turns, "semaphores", recorder):
        _plain(turns.run)(context, number)
    return recorder.steps


def _queries_warp(context):
    """What a warp of the queries does, of that only which turns are about."""
    recorder = Recorder()
    context.barriers = {name: recorder.barrier(name) for name in ("turn", "done")}
    head, block = walk.first_step(context)
    for i in range(walk.steps(context)):
        recorder.steps.append(("ds", i))
        _plain(turns.begin)(context, i)
        line = context.position.batch * context.heads_q + head
        recorder.steps.append(
            ("add", (line, block), context.position.key_block // context.config.ctas)
        )
        _plain(turns.end)(context, i)
        head, block = walk.next_step(context, head, block)
    return recorder.steps


@dataclass
class Cluster:
    """The roles of the CTAs that start together, and where each stands."""

    roles: list[tuple[int, bool, list[tuple]]] = field(default_factory=list)  # rank, adds, steps
    at: list[int] = field(default_factory=list)
    arrived: dict[tuple, int] = field(default_factory=lambda: defaultdict(int))
    added: dict[tuple, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def done(self) -> bool:
        return all(at == len(steps) for at, (_, _, steps) in zip(self.at, self.roles, strict=True))


def clusters_of(problem: Problem) -> list[Cluster]:
    """All CTAs of the launch, in the order of the grid."""
    config = problem.config
    shape = Shape(
        problem.batch,
        problem.seqlen_q,
        problem.seqlen_k,
        problem.heads_kv * problem.ratio,
        problem.heads_kv,
        *problem.head_dims,
    )
    kernel = base.HopperBackward.__new__(base.HopperBackward)
    kernel.config, kernel.dtype = config, cutlass.BFloat16
    budget = patch.object(schedulers, "_L2_BUDGET_BYTES", problem.l2_bytes)
    with as_python(), budget:
        is_cut = problem.upper < problem.seqlen_k - 1 or problem.lower > 1 - problem.seqlen_q
        scheduler, (upwards,) = kernel._order(shape, problem.multiprocessors, is_cut)
        divisors = scheduler.make_divisors() if config.ctas > 1 else ()
        scheduler = schedulers.LongestFirst(
            scheduler.row_blocks,
            scheduler.heads,
            scheduler.batch,
            scheduler.heads_per_group,
            divisors,
        )
        clusters = []
        for tile in range(scheduler.tiles()):
            cluster = Cluster()
            for rank in range(config.ctas):
                context = _context(problem, (scheduler, tile), config.ctas, rank, upwards)
                for number in range(config.turn_warps):
                    cluster.roles.append((rank, False, _turn_warp(context, number)))
                steps = _queries_warp(context)
                cluster.roles.extend((rank, True, steps) for _ in range(WARPS))
            cluster.at = [0] * len(cluster.roles)
            clusters.append(cluster)
    return clusters


class Device:
    """Clusters that run, and semaphores as the preprocess kernel leaves them."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.config = problem.config
        self.table = turns.mbarrier_table(self.config)
        lines = problem.batch * problem.heads_kv * problem.ratio
        each = -(-problem.seqlen_q // base.ROWS_PADDED_TO) * base.ROWS_PADDED_TO // 64
        zeroed = -(-problem.seqlen_q // ROWS_OF_A_SEMAPHORE)
        # The others have whatever was in memory: to touch one is a KeyError.
        self.counts = {line * each + block: 0 for line in range(lines) for block in range(zeroed)}
        self.semaphore = {
            (line, block): line * each + block for line in range(lines) for block in range(zeroed)
        }
        self.waits: dict[int, list[int]] = defaultdict(list)
        self.additions: dict[tuple, list[int]] = defaultdict(list)

    def _goes(self, cluster: Cluster, rank: int, step: tuple) -> bool:
        """Whether a role may take its next step."""
        kind = step[0]
        if kind == "wait":
            _, name, stage, parity = step
            arrivals = cluster.arrived[rank, name, stage]
            return arrivals // self.table[name].count % 2 != parity
        if kind == "wait_count":
            return self.counts[step[1]] >= step[2]
        if kind == "ds":  # made by both CTAs when both have left the stage
            wanted = (step[1] - self.config.ds_stages + 1) * WARPS
            return all(cluster.added[r] >= wanted for r in range(self.config.ctas))
        return True

    def _take(self, cluster: Cluster, rank: int, step: tuple) -> None:
        kind = step[0]
        if kind == "wait_count":
            self.waits[step[1]].append(step[2])
        elif kind == "arrive":
            cluster.arrived[rank, *step[1:]] += 1
        elif kind == "count":
            self.counts[step[1]] += 1
        elif kind == "add":
            cluster.added[rank] += 1
            self.additions[step[1]].append(step[2])

    def advance(self, cluster: Cluster, role: int, most: int) -> bool:
        """Let a role go on, for so many steps at most; whether it went any."""
        rank, _, steps = cluster.roles[role]
        begin = at = cluster.at[role]
        while at < min(len(steps), begin + most) and self._goes(cluster, rank, steps[at]):
            self._take(cluster, rank, steps[at])
            at += 1
        cluster.at[role] = at
        return at > begin


def simulate(problem: Problem, seed: int = 0) -> Device:
    """Run a launch to its end, roles in any order; AssertionError if it stands."""
    choose = random.Random(seed)
    device, clusters = Device(problem), clusters_of(problem)
    slots = max(1, problem.multiprocessors // problem.config.ctas)
    running, started = {}, 0
    while running or started < len(clusters):
        while len(running) < slots and started < len(clusters):
            running[started] = clusters[started]
            started += 1
        turns_of = [(n, role) for n, c in running.items() for role in range(len(c.roles))]
        choose.shuffle(turns_of)
        most = choose.choice((1, 3, 1 << 30))
        went = [device.advance(running[n], role, most) for n, role in turns_of]
        assert any(went), (problem, "stands", sorted(running), started)
        running = {n: c for n, c in running.items() if not c.done}
    return device
