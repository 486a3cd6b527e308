"""Write benchmarks/results/hopper-timing.md: the timing model beside what an H100 measured.

    pip install 'nvidia-cutlass-dsl[cu13]==4.8.1' nvidia-cuda-nvdisasm
    python -m benchmarks.hopper.timing --nvdisasm NVDISASM --library LIBRARY

LIBRARY is a build of csrc/cute_dsl. No GPU is needed: what was measured is in
results/hopper-cycles.json (`python -m benchmarks.clocks`). Ten minutes; what is in --folder already
is not recorded again.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.cells import HEAD_DIMS
from benchmarks.hopper.timing import page
from benchmarks.hopper.timing.kernels import Forward
from benchmarks.timing_model.units import H100

_ROOT = Path(__file__).resolve().parents[3]
_RESULTS = _ROOT / "benchmarks" / "results"
_REMARKS = Path(__file__).with_name("remarks.md")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.hopper.timing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nvdisasm", default=shutil.which("nvdisasm"))
    parser.add_argument("--library", help="libjax_fa4_cute_dsl.so; default: the installed one")
    parser.add_argument("--folder", type=Path, default=Path("build/timing"), help="recordings")
    parser.add_argument("--measured", type=Path, default=_RESULTS / "hopper-cycles.json")
    parser.add_argument("--markdown", type=Path, default=_RESULTS / "hopper-timing.md")
    options = parser.parse_args()
    if not options.nvdisasm:
        parser.error("nvdisasm is not on the path; --nvdisasm says where it is")
    return options


def _forward(options: argparse.Namespace, head_dim: int) -> Forward:
    place: Path = options.folder.resolve() / f"ours_sm90_{head_dim}"
    if not place.is_dir():
        module = "benchmarks.hopper.timing.record"
        command = [sys.executable, "-m", module, str(place), str(head_dim)]
        subprocess.run([*command, *filter(None, [options.library])], cwd=_ROOT, check=True)
    return Forward(place, options.nvdisasm, head_dim)


def main() -> None:
    options = _options()
    forwards = {head_dim: _forward(options, head_dim) for head_dim in HEAD_DIMS}
    measured = page.read(options.measured)
    lines = [
        "# The Hopper forward in the model of time, beside an H100",
        "",
        "Written by `python -m benchmarks.hopper.timing`; bf16, 16384 tokens, hidden 2048.",
        "Measured by `python -m benchmarks.clocks --seconds 0.4` on an H100 80GB HBM3, driver 580,",
        "2026-11-23, the forward of commit cc9d467; the model at the mean clock of the same calls:",
        "",
        *page.cells(forwards, measured, H100),
        *page.blocks(forwards, measured, H100),
        _REMARKS.read_text(),
        *page.assumptions(H100),
    ]
    options.markdown.write_text("\n".join(lines).rstrip() + "\n")
    print(options.markdown)


if __name__ == "__main__":
    main()
