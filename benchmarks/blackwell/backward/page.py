"""The page's sections as markdown."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.blackwell.backward.kernels import Backward
from benchmarks.blackwell.timing.cells import LENGTHS
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

Theirs = dict[int, dict[bool, Backward]]  # by CTAs and mask


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _model(kernel: Backward, causal: bool, chip: Chip) -> list[float]:
    return [kernel.tflops(causal, length, chip) for length in LENGTHS]


def comparison(pairs: dict[int, tuple[Backward, Theirs]], chip: Chip) -> Iterator[str]:
    """TFLOP/s of both in the model, and the published ones of theirs."""
    yield from (HEAD, RULE)
    for head_dim, (ours, theirs) in pairs.items():
        for causal in (False, True):
            where = (head_dim, "causal" if causal else "full")
            mine = _model(ours, causal, chip)
            if head_dim == 128:
                yield _row(*where, "FlashAttention-4, published", *PUBLISHED[causal])
            for ctas, kernels in theirs.items():
                form = f"{'one CTA' if ctas == 1 else 'two CTAs'}"
                model = _model(kernels[causal], causal, chip)
                yield _row(*where, f"FlashAttention-4, {form}, model", *(f"{x:.0f}" for x in model))
                if head_dim == 128:
                    pair = zip(model, PUBLISHED[causal], strict=True)
                    off = (f"{100 * (a / b - 1):+.0f} %" for a, b in pair)
                    yield _row(*where, f"the model's error, {form}", *off)
                ratios = (f"**{a / b:.2f} x**" for a, b in zip(mine, model, strict=True))
                yield _row(*where, f"ours / FlashAttention-4, {form}", *ratios)
            yield _row(*where, "ours, model", *(f"{x:.0f}" for x in mine))
    yield ""


def forms(theirs: Theirs, chip: Chip) -> Iterator[str]:
    """Its two forms beside each other, as its authors measured them and as modelled."""
    yield "FlashAttention-4's forms at head dim 128, S = 8192, as its pull request 2280 has them:"
    yield ""
    yield _row("mask", "CTAs", "measured", "model", "error")
    yield _row("---", "---:", "---:", "---:", "---:")
    for (causal, ctas), measured in BESIDE_EACH_OTHER.items():
        model = theirs[ctas][causal].tflops(causal, 8192, chip)
        off = f"{100 * (model / measured - 1):+.0f} %"
        yield _row("causal" if causal else "full", ctas, measured, f"{model:.0f}", off)
    yield ""


def lines(pairs: dict[int, tuple[Backward, Theirs]], chip: Chip) -> Iterator[str]:
    """What the cells are made of: cycles and instructions of a visit."""
    yield "Cycles of a CTA (a pair), by the line through simulated ones: without and of each visit,"
    yield "128 queries by 128 keys a CTA. Instructions that one warp of a role issues for a visit,"
    yield "full mask, by ptxas of CuTe DSL 4.8.1 for CUDA 13 in both:"
    yield ""
    roles = ("compute", "reduce", "products", "load")
    heads = ("full: rest", "a visit", "causal: rest", "a visit", "worst CTA off")
    busy = ("tensor core busy", "special units busy")
    yield _row("kernel", *heads, *roles, *busy)
    yield _row("---", *("---:" for _ in range(len(heads) + len(roles) + len(busy))))
    for ours, theirs in pairs.values():
        for full, causal in (
            (ours, ours),
            *((each[False], each[True]) for each in theirs.values()),
        ):
            name = full.folder.name.replace("_full", "")
            (of_full, _), (of_causal, worst) = full.line(False, chip), causal.line(True, chip)
            both = (of_full.start, of_full.slope, of_causal.start, of_causal.slope)
            numbers = (f"{x:.0f}" for x in both)
            counts = (f"{full.instructions[role]:.0f}" for role in roles)
            result = full.replay("full_2048", chip)
            end = result.end[0]
            shares = (result.busy[0, "tensor"] / end, result.busy[0, "special"] / 4 / end)
            percent = (f"{100 * share:.0f} %" for share in shares)
            yield _row(f"`{name}`", *numbers, f"{100 * worst:.1f} %", *counts, *percent)
    yield ""
