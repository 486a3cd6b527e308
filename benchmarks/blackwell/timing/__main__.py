"""Write benchmarks/results/blackwell-timing.md: a model of the Blackwell forward's time.

    pip install 'nvidia-cutlass-dsl[cu13]==4.8.1' nvidia-cuda-nvdisasm
    python -m benchmarks.blackwell.timing --nvdisasm NVDISASM --library LIBRARY \\
        --peer-python ENVIRONMENT/bin/python [--picture docs/blackwell_timeline.png]

ENVIRONMENT has FlashAttention-4 (tests/emulator/peers/evidence.py describes it), LIBRARY is a build
of csrc/cute_dsl. No GPU is needed; five minutes. What is in --folder already is not recorded
again.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from benchmarks.blackwell.timing import page
from benchmarks.blackwell.timing.kernels import ROOT, Recorded, record, record_peer
from benchmarks.timing_model.units import B200
from jax_fa4.variants.select_sm100 import COSTS
from jax_fa4.variants.variant import Form

HEAD_DIMS = (64, 128)
REMARKS = Path(__file__).with_name("remarks.md")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.blackwell.timing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    results = ROOT / "benchmarks" / "results" / "blackwell-timing.md"
    parser.add_argument("--nvdisasm", default=shutil.which("nvdisasm"))
    parser.add_argument("--library", required=True, help="libjax_fa4_cute_dsl.so")
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--folder", type=Path, default=Path("build/timing"), help="recordings")
    parser.add_argument("--markdown", type=Path, default=results)
    parser.add_argument("--picture", type=Path, help="timeline of ours, head dim 128")
    options = parser.parse_args()
    if not options.nvdisasm:
        parser.error("nvdisasm is not on the path; --nvdisasm says where it is")
    return options


def _pair(options: argparse.Namespace, head_dim: int) -> page.Pair:
    folder: Path = options.folder.resolve()
    ours = folder / f"ours_{head_dim}"
    if not ours.is_dir():
        record(ours, f"fwd_sm100_bf16_d{head_dim}", options.library)
    theirs = {}
    for causal, mask in ((False, "full"), (True, "causal")):
        place = folder / f"fa4_{head_dim}_{mask}"
        if not place.is_dir():
            record_peer(place, options.peer_python, options.library, head_dim, mask)
        theirs[causal] = Recorded(place, options.nvdisasm, head_dim)
    return Recorded(ours, options.nvdisasm, head_dim), theirs


def _forms(options: argparse.Namespace) -> list[Recorded]:
    """Our other forms that `select_sm100` chooses among, but those that claim tiles (`claims`)."""
    found = []
    for (head_dim, _, form), cost in COSTS.items():
        if head_dim in HEAD_DIMS and form is not Form.USUAL and not cost.claims_tiles:
            place = options.folder.resolve() / f"ours_{head_dim}_{form.value}"
            if not place.is_dir():
                record(place, f"fwd_sm100_bf16_d{head_dim}_{form.value}", options.library)
            rows, ctas = cost.rows, cost.multiprocessors
            found.append(Recorded(place, options.nvdisasm, head_dim, rows, ctas))
    return found


def _two_ctas(options: argparse.Namespace) -> Recorded:
    place = options.folder.resolve() / "fa4_128_full_two_ctas"
    if not place.is_dir():
        record_peer(place, options.peer_python, options.library, 128, "full", ctas=2)
    return Recorded(place, options.nvdisasm, 128, rows=512, ctas=2)


def main() -> None:
    options = _options()
    pairs = [_pair(options, head_dim) for head_dim in HEAD_DIMS]
    full = [each for ours, theirs in pairs for each in (ours, theirs[False])]
    every = [
        (each, causal)
        for ours, theirs in pairs
        for causal, peer in theirs.items()
        for each in (ours, peer)
    ]
    pair = _two_ctas(options)
    forms = _forms(options)
    every += [(each, causal) for each in forms for causal in (False, True)]
    ours, theirs = pairs[-1]
    beside = [theirs[False], pair, ours, *(each for each in forms if each.ctas == 2)]
    every.append((pair, False))
    lines = [
        "# The Blackwell forward in a model of time",
        "",
        "Written by `python -m benchmarks.blackwell.timing`. Nothing here ran on a Blackwell GPU.",
        "",
        *page.counts(full),
        *page.comparison(pairs, B200),
        *page.two_ctas(pair, B200),
        *page.pairs_latencies(beside, B200),
        *page.locked(pair, pairs[-1][1][True], B200),
        REMARKS.read_text(),
        *page.lines(every, B200),
        *page.waits(full, B200),
        *page.assumptions(B200),
    ]
    options.markdown.write_text("\n".join(lines).rstrip() + "\n")
    print(options.markdown)
    if options.picture:
        from benchmarks.blackwell.timing.picture import draw

        draw(ours.replay("full_2048_1", B200), options.picture, "head dim 128, full mask")


if __name__ == "__main__":
    main()
