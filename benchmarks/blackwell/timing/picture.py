"""A timeline of some blocks of one pair of tiles: roles by time, as the model has them."""

from __future__ import annotations

from pathlib import Path

from benchmarks.timing_model.spans import Result

_WARPS = {0: "softmax 0", 4: "softmax 1", 8: "correction", 12: "product warp", 14: "load warp"}
_CYCLES = 8000  # that the picture shows, from the middle of the CTA's time


def draw(result: Result, path: Path, title: str) -> None:
    """CTA 0; PNG or SVG by the name's ending. Needs matplotlib."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    begin = result.end[0] / 2 - _CYCLES / 2
    rows = ["tensor core", *_WARPS.values()]
    figure, axes = pyplot.subplots(figsize=(11, 3.2), layout="constrained")
    for row, name in enumerate(rows[1:], 1):
        axes.broken_barh([(0, _CYCLES)], (row - 0.3, 0.6), facecolors="#7fb3d5", linewidth=0)
        warp = next(index for index, role in _WARPS.items() if role == name)
        idle = [s for s in result.spans if s.cta == 0 and s.warp == warp and s.line]
        spans = [(s.begin - begin, s.end - s.begin) for s in idle]
        axes.broken_barh(spans, (row - 0.3, 0.6), facecolors="#eeeeee", linewidth=0)
    kinds = {"True": ("S = Q K^T", "#58a55c"), "False": ("O += P V", "#c0392b")}
    for ending, (name, color) in kinds.items():
        products = [
            s
            for s in result.spans
            if s.cta == 0 and s.what.startswith("product") and s.what.endswith(ending)
        ]
        bars = [(s.begin - begin, s.end - s.begin) for s in products]
        axes.broken_barh(bars, (-0.3, 0.6), facecolors=color, linewidth=0, label=name)
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlim(0, _CYCLES)
    axes.set_xlabel("cycles in the model; blue: the warp runs, grey: it waits for another")
    axes.set_title(title)
    axes.legend(loc="upper right", bbox_to_anchor=(1, -0.12), ncols=2, frameon=False)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
