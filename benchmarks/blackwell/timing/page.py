"""The page's sections as markdown: counts on the emulator, the model's validation, ours beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import fields

from benchmarks.blackwell.timing.cells import LENGTHS, tflops
from benchmarks.blackwell.timing.kernels import Recorded
from benchmarks.blackwell.timing.units import Chip

# TFLOP/s that were published for FlashAttention-4 by (head dim, causal), S = 1k, 2k, ...: for 128
# its paper (B200, arXiv 2603.05451), for 64 the comparison with cuDNN in its pull request 2605.
PUBLISHED: dict[tuple[int, bool], tuple[int, ...]] = {
    (64, False): (784, 989, 1120, 1193, 1225),
    (64, True): (463, 706, 917, 1079, 1176),
    (128, False): (1355, 1468, 1532, 1579, 1601, 1613),
    (128, True): (744, 1053, 1279, 1426, 1526, 1576),
}
HEAD = "| D | mask | | " + " | ".join(f"{length // 1024}k" for length in LENGTHS) + " |"
RULE = "| ---: | --- | --- | " + " | ".join("---:" for _ in LENGTHS) + " |"

Pair = tuple[Recorded, dict[bool, Recorded]]  # ours, theirs by mask


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def counts(kernels: list[Recorded]) -> Iterator[str]:
    """What one CTA does for 256 queries and 2048 keys."""
    yield from ("## Counts on the emulator", "")
    yield "One CTA, 256 queries x 2048 keys, full mask, normal numbers, as the emulator counted:"
    yield ""
    found = [each.counts("full_2048_1") for each in kernels]
    names = sorted(set().union(*found))
    yield _row("", *(f"`{each.folder.name}`" for each in kernels))
    yield _row("---", *("---:" for _ in kernels))
    for name in names:
        yield _row(name, *(count[name] for count in found))
    yield ""


def comparison(pairs: list[Pair], chip: Chip) -> Iterator[str]:
    """TFLOP/s of both in the model, and the published ones of theirs."""
    yield from ("## Timing model", "")
    yield "TFLOP/s in the model; 32k tokens, hidden 2048, no constant fitted to them:"
    yield from ("", HEAD, RULE)
    for ours, theirs in pairs:
        for causal, peer in theirs.items():
            where = (ours.head_dim, "causal" if causal else "full")
            mine, other = (
                [tflops(each.kernel(causal, chip)[0], length, chip) for length in LENGTHS]
                for each in (ours, peer)
            )
            published = PUBLISHED[ours.head_dim, causal]
            rest = [""] * (len(LENGTHS) - len(published))
            off = [f"{100 * (a / b - 1):+.0f} %" for a, b in zip(other, published, strict=False)]
            yield _row(*where, "FlashAttention-4, published", *published, *rest)
            yield _row(*where, "FlashAttention-4, model", *(f"{value:.0f}" for value in other))
            yield _row(*where, "its error", *off, *rest)
            yield _row(*where, "ours, model", *(f"{value:.0f}" for value in mine))
            ratios = (f"**{a / b:.2f} x**" for a, b in zip(mine, other, strict=True))
            yield _row(*where, "ours / FlashAttention-4, both in the model", *ratios)
    yield ""


def two_ctas(peer: Recorded, chip: Chip) -> Iterator[str]:
    """FlashAttention-4's form that runs a pair of CTAs, beside its paper."""
    yield "What FlashAttention-4 runs at head dim 128 with a full mask has pairs of CTAs:"
    yield from ("", HEAD, RULE)
    published = PUBLISHED[128, False]
    model = [tflops(peer.kernel(False, chip)[0], length, chip) for length in LENGTHS]
    off = [f"{100 * (a / b - 1):+.0f} %" for a, b in zip(model, published, strict=True)]
    where = (128, "full")
    yield _row(*where, "FlashAttention-4, published", *published)
    yield _row(*where, "its two-CTA form, model", *(f"{value:.0f}" for value in model))
    yield _row(*where, "its error", *off)
    yield ""


def lines(kernels: list[tuple[Recorded, bool]], chip: Chip) -> Iterator[str]:
    """What the cells are made of."""
    yield "Cycles of a CTA's tile, or a pair's, by the line through simulated CTAs. A block is of"
    yield "128 keys, and of as many queries as the tile has:"
    yield ""
    heads = ("queries", "first tile", "each further one", "a block", "worst CTA off")
    yield _row("kernel", "mask", *heads)
    yield _row("---", "---", *("---:" for _ in heads))
    for each, causal in kernels:
        kernel, worst = each.kernel(causal, chip)
        further = f"{kernel.further.start:.0f}" if kernel.further else "a CTA of its own"
        mask = "causal" if causal else "full"
        first = kernel.first
        cells = (f"{first.start:.0f}", further, f"{first.slope:.0f}", f"{100 * worst:.1f} %")
        yield _row(f"`{each.folder.name}`", mask, each.rows, *cells)
    yield ""


def waits(kernels: list[Recorded], chip: Chip) -> Iterator[str]:
    """Share of its time that each warp's wait is, in the model."""
    yield "Waits of a warp of each role, percent of the CTA's time (256 x 2048, full mask), and how"
    yield "busy the tensor core and the special-function units are:"
    yield ""
    roles = {0: "softmax 0", 4: "softmax 1", 8: "correction", 12: "products"}
    yield _row("kernel", *roles.values(), "tensor core busy", "special units busy")
    yield _row("---", *("---:" for _ in range(len(roles) + 2)))
    for each in kernels:
        result = each.replay("full_2048_1", chip)
        end = max(result.end.values())
        waited: Counter[int] = Counter()
        for span in result.spans:
            if span.line and span.warp in roles:
                waited[span.warp] += round(span.end - span.begin)
        busy = (result.busy[0, "tensor"] / end, result.busy[0, "special"] / 4 / end)
        shares = [waited[warp] / end for warp in roles]
        yield _row(f"`{each.folder.name}`", *(f"{100 * share:.0f}" for share in (*shares, *busy)))
    yield ""


def assumptions(chip: Chip) -> Iterator[str]:
    """Every constant; units.py has the source of each."""
    yield "Constants, cycles where no unit is named; their sources are in"
    yield "`benchmarks/blackwell/timing/units.py`:"
    yield ""
    values = (f"{each.name} {getattr(chip, each.name)}" for each in fields(chip))
    yield ", ".join(value.replace("_", " ") for value in values) + "."
    yield ""
