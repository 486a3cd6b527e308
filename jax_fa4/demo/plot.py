"""Draws loss curves into a PNG file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # draws without a window; pyplot asks when it is imported

from matplotlib import pyplot as plt

# Wide below narrow, so that curves which coincide all show.
STYLES = (
    {"lw": 2.5, "color": "C0", "zorder": 2},
    {"lw": 1.0, "color": "C1", "zorder": 3},
    {"lw": 1.0, "color": "0.6", "zorder": 2.5},
)
SMALLEST_SHOWN = 1e-8


def save(path: Path, curves: Mapping[str, Sequence[float]], *, base: str, title: str) -> Path:
    """Draw the loss of each curve by step, and below it how far each is from `base`; the path."""
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(9, 7), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    for (name, losses), style in zip(curves.items(), STYLES, strict=False):
        steps = np.arange(1, len(losses) + 1)
        above.plot(steps, losses, label=name, **style)
        if name != base:
            difference = np.abs(np.subtract(losses, curves[base]))
            below.plot(
                steps, np.maximum(difference, SMALLEST_SHOWN), label=f"{name} - {base}", **style
            )
    above.set(title=title, ylabel="training loss (nats per byte)")
    below.set(xlabel="step", ylabel="|difference| of the loss", yscale="log")
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
