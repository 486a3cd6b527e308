"""Arrays of mbarriers, declared as data.

A kernel states its barriers as a table, name -> (stages, arrivals); `allocate` gives each
its place, `initialise` its counts, and roles speak of them by name.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass.cute as cute
from cutlass import Int32

_LANES = 32  # of a warp
_ARRIVE = (
    "{{ .reg .pred p; bar.warp.sync 0xffffffff; elect.sync _|p, 0xffffffff; "
    "@p mbarrier.arrive.shared::cta.b64 _, [{$r0}]; }}"
)
_ARRIVE_AT_LEADER = (  # at rank 0's; as in PTX ISA 9.7.16.6.4
    "{{ .reg .pred p; .reg .b32 at; mapa.shared::cluster.u32 at, {$r0}, 0; "
    "bar.warp.sync 0xffffffff; elect.sync _|p, 0xffffffff; "
    "@p mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [at]; }}"
)
_ARRIVE_AT_RANK = (
    "{{ .reg .pred p; .reg .b32 at; mapa.shared::cluster.u32 at, {$r0}, {$r1}; "
    "bar.warp.sync 0xffffffff; elect.sync _|p, 0xffffffff; "
    "@p mbarrier.arrive.shared::cluster.b64 _, [at]; }}"
)
_COMMIT = (
    "{{ .reg .pred p; elect.sync _|p, 0xffffffff; @p tcgen05.commit"
    ".cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [{$r0}]; }}"
)
_COMMIT_TO_BOTH = (  # ranks 0 and 1, as a mask
    "{{ .reg .pred p; .reg .b16 both; mov.b16 both, 3; elect.sync _|p, 0xffffffff; "
    "@p tcgen05.commit.cta_group::2.mbarrier::arrive::one.shared::cluster.multicast::cluster.b64 "
    "[{$r0}], both; }}"
)
# As in PTX ISA 9.7.16.6.4; the address and the parity.
_RELAXED_WAIT = (
    "{{ .reg .pred ended; again: mbarrier.try_wait.parity.relaxed.cluster.shared::cta.b64 "
    "ended, [{$r0}], {$r1}; @!ended bra again; }}"
)


@dataclass(frozen=True)
class MbarrierSpec:
    """`stages` barriers, each of whose phases ends with `arrivals` arrivals (and its bytes).

    Those of a pair of CTAs: threads and copies of both arrive at the leader's, which is CTA 0
    of the cluster; the products, which the leader issues, arrive at both CTAs'. Those `of_tensors`
    guard nothing but tensor memory, whose fences order it, so that threads arrive and wait
    relaxed: a release or an acquire of the cluster's scope would be a fence of all memory.
    At those that are `by_lanes`, every lane of a warp arrives, where `arrivals` counts warps: one
    instruction that hangs on nothing, for the three of meeting, electing and arriving.
    """

    stages: int
    arrivals: int
    paired: bool = False
    of_tensors: bool = False
    by_lanes: bool = False

    @property
    def count(self) -> int:
        """Of arrivals that end a phase, as the barrier counts them."""
        return self.arrivals * (_LANES if self.by_lanes else 1)


@dataclass(frozen=True)
class MbarrierArray:
    """Barriers of one meaning in shared memory."""

    base: cute.Pointer
    spec: MbarrierSpec

    def at(self, stage) -> cute.Pointer:
        return self.base + stage

    def wait(self, stage, parity) -> None:
        """Until the phase of this parity has ended: parity 0 first, then 1, 0, ...

        Parity 1 on a new barrier returns at once: a producer's first round.
        """
        if self.spec.paired and self.spec.of_tensors:
            cute.arch.inline_ptx(_RELAXED_WAIT, read_only_args=[self.at(stage).toint(), parity])
        else:
            cute.arch.mbarrier_wait(self.at(stage), parity)

    def arrive(self, stage) -> None:
        """One arrival of each calling thread."""
        cute.arch.mbarrier_arrive(self.at(stage))

    def arrive_as_warp(self, stage) -> None:
        """The calling warp's arrival, after all of its lanes."""
        if self.spec.by_lanes:
            self.arrive(stage)
        else:
            cute.arch.inline_ptx(
                _ARRIVE_AT_LEADER if self.spec.paired else _ARRIVE,
                read_only_args=[self.at(stage).toint()],
            )

    def arrive_as_warp_at(self, stage, rank) -> None:
        """One arrival of the calling warp at the same barrier of CTA `rank` of the cluster."""
        cute.arch.inline_ptx(_ARRIVE_AT_RANK, read_only_args=[self.at(stage).toint(), rank])

    def arrive_with_bytes(self, stage, count: int) -> None:
        """One arrival, and `count` bytes for copies to complete."""
        cute.arch.mbarrier_arrive_and_expect_tx(self.at(stage), count)

    def commit(self, stage) -> None:
        """One arrival when the products that this warp issued so far are done.

        NOTES: the thread is elected within the assembly. A branch around a lone instruction makes
        ptxas take the loop for divergent, and each product of it becomes a loop over lanes.
        """
        cute.arch.inline_ptx(
            _COMMIT_TO_BOTH if self.spec.paired else _COMMIT,
            read_only_args=[self.at(stage).toint()],
        )


def count(table: dict[str, MbarrierSpec]) -> int:
    """How many barriers the table holds."""
    return sum(spec.stages for spec in table.values())


def allocate(table: dict[str, MbarrierSpec], base: cute.Pointer) -> dict[str, MbarrierArray]:
    """Each array's place after `base`, in the table's order."""
    arrays = {}
    first = 0
    for name, spec in table.items():
        arrays[name] = MbarrierArray(base + first, spec)
        first += spec.stages
    return arrays


def initialise(arrays: dict[str, MbarrierArray]) -> None:
    """Set every count. For one thread; a fence and a barrier must follow."""
    for array in arrays.values():
        for stage in range(array.spec.stages):
            cute.arch.mbarrier_init(array.at(stage), array.spec.count)


def make_counters(stages: int) -> cute.Tensor:
    """How often this role has used each of a few barriers; registers, indexed at trace time.

    The parity of use number n, from 0, is n mod 2: what a consumer waits for. A producer
    waits for the other one, so that its first round returns at once.
    """
    uses = cute.make_rmem_tensor(cute.make_layout(stages), Int32)
    uses.fill(0)
    return uses


def wait_next(
    barriers: MbarrierArray,
    uses: cute.Tensor,
    stage,
    *,
    counter=None,
    turns: int = 1,
    producer: bool = False,
) -> None:
    """Wait for this role's next use of the barrier, and count it.

    `counter` is the stage's counter, where that is not the stage itself; `turns`, a power of
    two, says how many stages share it by turns.
    """
    counter = stage if counter is None else counter
    count = uses[counter] >> (turns.bit_length() - 1) if turns > 1 else uses[counter]
    barriers.wait(stage, (count & 1) ^ int(producer))
    uses[counter] = uses[counter] + 1


@dataclass(frozen=True)
class Ring:
    """A place in a ring of stages: the next stage to use, and the parity of its phase."""

    stages: int
    place: cute.Tensor

    @property
    def stage(self) -> Int32:
        return self.place[0]


def make_ring(stages: int) -> Ring:
    """At the first stage, in its first phase."""
    return Ring(stages, make_counters(2))


def wait_stage(barriers: MbarrierArray, ring: Ring, *, producer: bool = False) -> None:
    """Wait for the ring's next stage; see `make_counters`."""
    barriers.wait(ring.place[0], ring.place[1] ^ int(producer))


@cute.jit
def advance(ring: Ring) -> None:
    """On to the next stage."""
    place = ring.place
    following = place[0] + 1
    wraps = following == ring.stages
    place[1] = place[1] ^ 1 if wraps else place[1]
    place[0] = Int32(0) if wraps else following


def take(ring: Ring, count: int) -> list[tuple[Int32, Int32]]:
    """The ring's next `count` stages, each with its phase's parity; the ring goes on past them."""
    stages = []
    for _ in range(count):
        stages.append((ring.place[0], ring.place[1]))
        advance(ring)
    return stages
