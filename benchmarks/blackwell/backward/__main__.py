"""Write benchmarks/results/blackwell-backward-timing.md: a model of the Blackwell backward's time.

    pip install 'nvidia-cutlass-dsl[cu13]==4.8.1' nvidia-cuda-nvdisasm
    python -m benchmarks.blackwell.backward --nvdisasm NVDISASM --library LIBRARY \\
        --peer-python ENVIRONMENT/bin/python

As for benchmarks.blackwell.timing: ENVIRONMENT has FlashAttention-4, LIBRARY is a build of
csrc/cute_dsl, no GPU is needed, and what is in --folder already is not recorded again.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from benchmarks.blackwell.backward import page
from benchmarks.blackwell.backward.kernels import ROOT, ours, theirs
from benchmarks.timing_model.units import B200

FORMS = {64: (1,), 128: (1, 2)}  # CTAs of both one's forms, by head dim
REMARKS = Path(__file__).with_name("remarks.md")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.blackwell.backward",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    results = ROOT / "benchmarks" / "results" / "blackwell-backward-timing.md"
    parser.add_argument("--nvdisasm", default=shutil.which("nvdisasm"))
    parser.add_argument("--library", required=True, help="libjax_fa4_cute_dsl.so")
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--folder", type=Path, default=Path("build/backward-timing"))
    parser.add_argument("--markdown", type=Path, default=results)
    options = parser.parse_args()
    if not options.nvdisasm:
        parser.error("nvdisasm is not on the path; --nvdisasm says where it is")
    return options


def _pair(options: argparse.Namespace, head_dim: int) -> tuple[page.Ours, page.Theirs]:
    folder: Path = options.folder.resolve()
    tool, library = options.nvdisasm, options.library
    peer = (options.peer_python, library)

    def own(ctas: int) -> Path:
        return folder / f"ours_{head_dim}{'_pair' if ctas == 2 else ''}"

    def place(name: str) -> Path:
        return folder / f"fa4_{head_dim}_{name}"

    forms = FORMS[head_dim]
    return (
        {ctas: ours(own(ctas), tool, head_dim, ctas, library) for ctas in forms},
        {ctas: theirs(place, tool, peer, head_dim, ctas) for ctas in forms},
    )


def main() -> None:
    options = _options()
    pairs = {head_dim: _pair(options, head_dim) for head_dim in FORMS}
    lines = [
        "# The Blackwell backward in the model of time",
        "",
        "Written by `python -m benchmarks.blackwell.backward`. Nothing here ran on a Blackwell",
        "GPU. TFLOP/s in the model of `blackwell-timing.md`, at 1.85 GHz; 32k tokens, hidden",
        "2048, with preprocess and postprocess at memory's pace. FlashAttention-4 is 4.0.0b36.",
        "",
        *page.comparison(pairs, B200),
        *page.forms(pairs[128][1], B200),
        *page.lines(pairs, B200),
        REMARKS.read_text(),
    ]
    options.markdown.write_text("\n".join(lines).rstrip() + "\n")
    print(options.markdown)


if __name__ == "__main__":
    main()
