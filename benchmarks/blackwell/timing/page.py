"""The page's sections as markdown: counts on the emulator, the model's validation, ours beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from benchmarks.blackwell.timing.cells import LENGTHS, tflops
from benchmarks.blackwell.timing.kernels import Recorded
from benchmarks.pages import row
from benchmarks.timing_model.units import Chip


@dataclass(frozen=True)
class Published:
    """FlashAttention-4's TFLOP/s at S = 1k, 2k, ... on a B200, and the clock that they ran at."""

    tflops: tuple[int, ...]
    hertz: float


# By (head dim, causal). 128: its paper (arXiv 2603.05451). 64: its pull request 2605, the table
# whose MFU column has a B200's peak (one with a peak of 2500 TFLOP/s is of a GB300, whose
# special-function units are twice as fast). Clocks were locked there: to 1755 MHz, as its author
# says in issue 2570, of the same weeks, driver and PyTorch.
PUBLISHED: dict[tuple[int, bool], Published] = {
    (64, False): Published((623, 758, 827, 868, 878), 1.755e9),
    (64, True): Published((388, 565, 701, 802, 853), 1.755e9),
    (128, False): Published((1355, 1468, 1532, 1579, 1601, 1613), 1.85e9),
    (128, True): Published((744, 1053, 1279, 1426, 1526, 1576), 1.85e9),
}
# Milliseconds of 512 heads of dim 128 on a B200 locked to 1800 MHz, by (causal, S): pull request
# 2869 of FlashAttention-4, with the register budgets that 4.0.0b36 has.
LOCKED_HERTZ, LOCKED_HEADS = 1.8e9, 512
LOCKED = {(False, 2048): 0.813, (False, 4096): 3.433, (True, 2048): 0.580, (True, 4096): 1.922}
HEAD = "| D | mask | | " + " | ".join(f"{length // 1024}k" for length in LENGTHS) + " |"
RULE = "| ---: | --- | --- | " + " | ".join("---:" for _ in LENGTHS) + " |"

Pair = tuple[Recorded, dict[bool, Recorded]]  # ours, theirs by mask


def counts(kernels: list[Recorded]) -> Iterator[str]:
    """What one CTA does for 256 queries and 2048 keys."""
    yield from ("## Counts on the emulator", "")
    yield "One CTA, 256 queries x 2048 keys, full mask, normal numbers, as the emulator counted:"
    yield ""
    found = [each.counts("full_2048_1") for each in kernels]
    names = sorted(set().union(*found))
    yield row("", *(f"`{each.folder.name}`" for each in kernels))
    yield row("---", *("---:" for _ in kernels))
    for name in names:
        yield row(name, *(count[name] for count in found))
    yield ""


def _validation(peer: Recorded, causal: bool, chip: Chip) -> Iterator[str]:
    """What was published, and the model's error at its clock."""
    published = PUBLISHED[peer.head_dim, causal]
    there = replace(chip, hertz=published.hertz)
    kernel = peer.kernel(causal, chip)[0]
    model = [tflops(kernel, length, there) for length in LENGTHS]
    rest = [""] * (len(LENGTHS) - len(published.tflops))
    pairs = zip(model, published.tflops, strict=False)
    where = (peer.head_dim, "causal" if causal else "full")
    clock = f"{published.hertz / 1e9:g} GHz"
    yield row(*where, f"FlashAttention-4, published ({clock})", *published.tflops, *rest)
    off = (f"{100 * (a / b - 1):+.0f} %" for a, b in pairs)
    yield row(*where, f"the model's error at {clock}", *off, *rest)


def comparison(pairs: list[Pair], chip: Chip) -> Iterator[str]:
    """TFLOP/s of both in the model, and the published ones of theirs."""
    yield from ("## Timing model", "")
    yield "TFLOP/s in the model, at 1.85 GHz; 32k tokens, hidden 2048, no constant fitted to them."
    yield "Published at head dim 128 is its paper, whose roofline has that clock (what it had when"
    yield "measured is not said); at 64 a measurement on a B200 that was locked to 1.755 GHz:"
    yield from ("", HEAD, RULE)
    for ours, theirs in pairs:
        for causal, peer in theirs.items():
            where = (ours.head_dim, "causal" if causal else "full")
            mine, other = (
                [tflops(each.kernel(causal, chip)[0], length, chip) for length in LENGTHS]
                for each in (ours, peer)
            )
            yield from _validation(peer, causal, chip)
            yield row(*where, "FlashAttention-4, model", *(f"{value:.0f}" for value in other))
            yield row(*where, "ours, model", *(f"{value:.0f}" for value in mine))
            ratios = (f"**{a / b:.2f} x**" for a, b in zip(mine, other, strict=True))
            yield row(*where, "ours / FlashAttention-4, both in the model", *ratios)
    yield ""


def two_ctas(peer: Recorded, chip: Chip) -> Iterator[str]:
    """FlashAttention-4's form that runs a pair of CTAs, beside its paper."""
    yield "What FlashAttention-4 runs at head dim 128 with a full mask has pairs of CTAs:"
    yield from ("", HEAD, RULE)
    yield from _validation(peer, False, chip)
    model = (tflops(peer.kernel(False, chip)[0], length, chip) for length in LENGTHS)
    yield row(128, "full", "its two-CTA form, model", *(f"{value:.0f}" for value in model))
    yield ""


def pairs_latencies(kernels: list[Recorded], chip: Chip) -> Iterator[str]:
    """A block's cycles if what pairs wait for longer than single CTAs took as long."""
    near = replace(chip, remote_latency=0)
    one = {(2, tensor): chip.product_latency[1, tensor] for tensor in (False, True)}
    same = replace(near, product_latency={**chip.product_latency, **one})
    yield "Cycles of a block, where what only pairs wait for is left out:"
    yield ""
    columns = ("arrivals at the other CTA at once", "and products as soon as one CTA's")
    yield row("kernel", "as modelled", *columns, "instructions, softmax warp", "exponentials")
    yield row("---", *("---:" for _ in range(5)))
    for each in kernels:
        cycles = (f"{each.block(there):.0f}" for there in (chip, near, same))
        yield row(f"`{each.folder.name}`", *cycles, *(f"{x:.0f}" for x in each.softmax_block()))
    yield ""


def locked(pair: Recorded, causal: Recorded, chip: Chip) -> Iterator[str]:
    """Both of its forms beside a measurement at a known clock."""
    yield "TFLOP/s on a B200 locked to 1800 MHz, 128 batches of 4 heads (its pull request 2869):"
    yield ""
    yield row("mask", "CTAs", "S", "measured", "model", "error")
    yield row("---", "---:", "---:", "---:", "---:", "---:")
    there = replace(chip, hertz=LOCKED_HERTZ)
    for (is_causal, length), milliseconds in LOCKED.items():
        each = causal if is_causal else pair
        model = tflops(each.kernel(is_causal, chip)[0], length, there, LOCKED_HEADS)
        flops = 4.0 * length**2 * 128 * LOCKED_HEADS * (0.5 if is_causal else 1.0)
        measured = flops / milliseconds / 1e9
        mask = "causal" if is_causal else "full"
        numbers = (f"{measured:.0f}", f"{model:.0f}", f"{100 * (model / measured - 1):+.0f} %")
        yield row(mask, each.ctas, length, *numbers)
    yield ""


def lines(kernels: list[tuple[Recorded, bool]], chip: Chip) -> Iterator[str]:
    """What the cells are made of."""
    yield "Cycles of a CTA's tile, or a pair's, by the line through simulated CTAs. A block is of"
    yield "128 keys, and of as many queries as the tile has:"
    yield ""
    heads = ("queries", "first tile", "each further one", "a block", "worst CTA off")
    yield row("kernel", "mask", *heads)
    yield row("---", "---", *("---:" for _ in heads))
    for each, causal in kernels:
        kernel, worst = each.kernel(causal, chip)
        further = f"{kernel.further.start:.0f}" if kernel.further else "a CTA of its own"
        mask = "causal" if causal else "full"
        first = kernel.first
        cells = (f"{first.start:.0f}", further, f"{first.slope:.0f}", f"{100 * worst:.1f} %")
        yield row(f"`{each.folder.name}`", mask, each.rows, *cells)
    yield ""


def waits(kernels: list[Recorded], chip: Chip) -> Iterator[str]:
    """Share of its time that each warp's wait is, in the model."""
    yield "Waits of a warp of each role, percent of the CTA's time (256 x 2048, full mask), and how"
    yield "busy the tensor core and the special-function units are:"
    yield ""
    roles = {0: "softmax 0", 4: "softmax 1", 8: "correction", 12: "products"}
    yield row("kernel", *roles.values(), "tensor core busy", "special units busy")
    yield row("---", *("---:" for _ in range(len(roles) + 2)))
    for each in kernels:
        result = each.replay("full_2048_1", chip)
        end = max(result.end.values())
        waited: Counter[int] = Counter()
        for span in result.spans:
            if span.line and span.warp in roles:
                waited[span.warp] += round(span.end - span.begin)
        busy = (result.busy[0, "tensor"] / end, result.busy[0, "special"] / 4 / end)
        shares = [waited[warp] / end for warp in roles]
        yield row(f"`{each.folder.name}`", *(f"{100 * share:.0f}" for share in (*shares, *busy)))
    yield ""


def assumptions(chip: Chip) -> Iterator[str]:
    """Every constant; units.py has the source of each."""
    yield "Constants, cycles where no unit is named; their sources are in"
    yield "`benchmarks/timing_model/units.py`:"
    yield ""
    values = (f"{each.name} {getattr(chip, each.name)}" for each in fields(chip))
    yield ", ".join(value.replace("_", " ") for value in values) + "."
    yield ""
