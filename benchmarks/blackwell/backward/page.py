"""The page's sections as markdown."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.blackwell.backward.kernels import Backward
from benchmarks.blackwell.timing.cells import LENGTHS
from benchmarks.pages import row
from benchmarks.timing_model.units import Chip

# FlashAttention-4's TFLOP/s at S = 1k, 2k, ... on a B200, backward at head dim 128, by mask: its
# paper (arXiv 2603.05451). It states no clock, and none for head dim 64.
PUBLISHED = {
    False: (936, 1166, 1331, 1430, 1457, 1412),
    True: (614, 887, 1102, 1284, 1402, 1446),
}
# Its pull request 2280: 4 batches of 16 heads of dim 128, S = 8192, by mask and CTAs.
BESIDE_EACH_OTHER = {(False, 1): 1247.5, (False, 2): 1359.8, (True, 1): 1117.9, (True, 2): 1208.6}
HEAD = "| D | mask | | " + " | ".join(f"{length // 1024}k" for length in LENGTHS) + " |"
RULE = "| ---: | --- | --- | " + " | ".join("---:" for _ in LENGTHS) + " |"

Ours = dict[int, Backward]  # by CTAs
Theirs = dict[int, dict[bool, Backward]]  # by CTAs and mask
Pairs = dict[int, tuple[Ours, Theirs]]  # by head dim
_NAMES = {1: "one CTA", 2: "two CTAs"}


def _model(kernel: Backward, causal: bool, chip: Chip) -> list[float]:
    return [kernel.tflops(causal, length, chip) for length in LENGTHS]


def _theirs(
    where: tuple[int, str], name: str, model: list[float], published: tuple[int, ...] | None
) -> Iterator[str]:
    yield row(*where, f"FlashAttention-4, {name}, model", *(f"{x:.0f}" for x in model))
    if published:
        off = (f"{100 * (a / b - 1):+.0f} %" for a, b in zip(model, published, strict=True))
        yield row(*where, f"the model's error, {name}", *off)


def comparison(pairs: Pairs, chip: Chip) -> Iterator[str]:
    """TFLOP/s of both in the model, and the published ones of theirs."""
    yield from (HEAD, RULE)
    for head_dim, (ours, theirs) in pairs.items():
        for causal in (False, True):
            where = (head_dim, "causal" if causal else "full")
            published = PUBLISHED[causal] if head_dim == 128 else None
            if published:
                yield row(*where, "FlashAttention-4, published", *published)
            others = {ctas: _model(each[causal], causal, chip) for ctas, each in theirs.items()}
            for ctas, model in others.items():
                yield from _theirs(where, _NAMES[ctas], model, published)
            mine = {ctas: _model(each, causal, chip) for ctas, each in ours.items()}
            for ctas, model in mine.items():
                yield row(*where, f"ours, {_NAMES[ctas]}, model", *(f"{x:.0f}" for x in model))
            best, other = (
                [max(x) for x in zip(*each.values(), strict=True)] for each in (mine, others)
            )
            ratios = (f"**{a / b:.2f} x**" for a, b in zip(best, other, strict=True))
            yield row(*where, "ours / FlashAttention-4, the better form of each", *ratios)
    yield ""


def forms(theirs: Theirs, chip: Chip) -> Iterator[str]:
    """Its two forms beside each other, as its authors measured them and as modelled."""
    yield "FlashAttention-4's forms at head dim 128, S = 8192, as its pull request 2280 has them:"
    yield ""
    yield row("mask", "CTAs", "measured", "model", "error")
    yield row("---", "---:", "---:", "---:", "---:")
    for (causal, ctas), measured in BESIDE_EACH_OTHER.items():
        model = theirs[ctas][causal].tflops(causal, 8192, chip)
        off = f"{100 * (model / measured - 1):+.0f} %"
        yield row("causal" if causal else "full", ctas, measured, f"{model:.0f}", off)
    yield ""


def lines(pairs: Pairs, chip: Chip) -> Iterator[str]:
    """What the cells are made of: cycles and instructions of a visit."""
    yield "Cycles of a CTA (a pair), by the line through simulated ones: without and of each visit,"
    yield "128 queries by 128 keys a CTA. Instructions that one warp of a role issues for a visit,"
    yield "full mask, by ptxas of CuTe DSL 4.8.1 for CUDA 13 in both:"
    yield ""
    roles = ("compute", "reduce", "products", "load")
    heads = ("full: rest", "a visit", "causal: rest", "a visit", "worst CTA off")
    busy = ("tensor core busy", "special units busy")
    yield row("kernel", *heads, *roles, *busy)
    yield row("---", *("---:" for _ in range(len(heads) + len(roles) + len(busy))))
    for ours, theirs in pairs.values():
        mine = [(each, each) for each in ours.values()]
        others = [(each[False], each[True]) for each in theirs.values()]
        for full, causal in (*mine, *others):
            name = full.folder.name.replace("_full", "")
            (of_full, _), (of_causal, worst) = full.line(False, chip), causal.line(True, chip)
            both = (of_full.start, of_full.slope, of_causal.start, of_causal.slope)
            numbers = (f"{x:.0f}" for x in both)
            counts = (f"{full.instructions[role]:.0f}" for role in roles)
            result = full.replay("full_2048", chip)
            end = result.end[0]
            shares = (result.busy[0, "tensor"] / end, result.busy[0, "special"] / 4 / end)
            percent = (f"{100 * share:.0f} %" for share in shares)
            yield row(f"`{name}`", *numbers, f"{100 * worst:.1f} %", *counts, *percent)
    yield ""
