"""Write benchmarks/results/blackwell-static.md: what the kernels execute, and what whole runs do.

    pip install nvidia-cutlass-dsl==4.8.1 nvidia-cuda-nvdisasm
    python -m benchmarks.blackwell --nvdisasm NVDISASM --peer-python ENVIRONMENT/bin/python

ENVIRONMENT is one that `tests/emulator/peers/evidence.py` describes; without it the page has our
kernels alone. NVDISASM is the program of the second package (site-packages/nvidia/cu13/bin).
jax_fa4 has to be built, for its emulator. No GPU is needed; a minute or two.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.blackwell import kernels, report, runs
from jax_fa4.variants import CATALOG, Arch, ForwardVariant, parse

RESULTS = kernels.ROOT / "benchmarks" / "results"
REMARKS = Path(__file__).with_name("remarks.md")


def _shared_memory(names: list[str]) -> dict[str, int]:
    from jax_fa4.kernels.sm100.forward.configs import config_of

    return {name: config_of(parse(name)).smem_bytes for name in names}  # type: ignore[arg-type]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blackwell", description=__doc__)
    parser.add_argument("--nvdisasm", default=shutil.which("nvdisasm"))
    parser.add_argument("--peer-python", help="python of an environment with flash-attn-4")
    parser.add_argument("--markdown", type=Path, default=RESULTS / "blackwell-static.md")
    parser.add_argument("--keep", type=Path, help="folder for cubins and PTX (default: temporary)")
    options = parser.parse_args(arguments)
    if not options.nvdisasm:
        parser.error("nvdisasm is not on the path; --nvdisasm says where it is")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    names = [
        variant.name
        for variant in CATALOG
        if isinstance(variant, ForwardVariant)
        and variant.arch is Arch.SM100
        and variant.dtype.value == "bf16"
    ]
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        variants = {n: kernels.ours(n, folder / n, options.nvdisasm) for n in names}
        pairs = []
        for case in kernels.PEERS if options.peer_python else ():
            place = folder / case.name.replace(" ", "-").replace(",", "")
            theirs = kernels.peer(case, place, options.nvdisasm, options.peer_python)
            pairs.append((case, variants[case.ours], theirs))
    smem, remarks = _shared_memory(names), REMARKS.read_text()
    text = report.page(pairs, list(variants.values()), smem, remarks, runs.section())
    options.markdown.write_text(text)
    print(options.markdown)


if __name__ == "__main__":
    main()
