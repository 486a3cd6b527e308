"""Run a GEMM of CUTLASS's Blackwell tutorial on the emulator.

    python cutlass_tutorial.py LIBRARY CASE

Called by evidence.py. The module's own `host_function` is compiled and called, on tensors on the
CPU. Prints one line of JSON: for each run the product's error against float64 beside that of a
product in float32, rounded to float16.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import environment

CASE: dict[str, Any] = json.loads(sys.argv[2])
COMPILED = environment.start(sys.argv[1])
sys.path.append(CASE["folder"])

import torch  # noqa: E402
from cuda.bindings import driver  # noqa: E402
from cutlass.cute.runtime import from_dlpack  # noqa: E402

import jax_fa4.emulator  # noqa: E402
from jax_fa4.emulator import cute_dsl  # noqa: E402

NAME: str = CASE["name"]
MODULE = importlib.import_module(NAME)
M, N, K = CASE["mnk"]
SCALE = 0.75  # of the tutorial that multiplies by integers of 8 bits


def _compact(x: torch.Tensor) -> Any:
    """As tutorials 0 and 1 hand over their tensors, whose shapes the vectors depend on."""
    tensor = from_dlpack(x, assumed_align=32).mark_layout_dynamic(leading_dim=1)
    return tensor.mark_compact_shape_dynamic(mode=1, divisibility=x.shape[1])


def _dynamic(x: torch.Tensor) -> Any:
    return from_dlpack(x).mark_layout_dynamic()


def _operands() -> tuple[torch.Tensor, torch.Tensor, list[Any], torch.Tensor]:
    """A and B as they are multiplied, the function's tensors, and C."""
    a = torch.randn(M, K).to(torch.float16)
    c = torch.empty(M, N, dtype=torch.float16)
    if NAME == "fp16_gemm_6":
        quantized = torch.randint(-8, 8, (N, K), dtype=torch.int8)
        b = (quantized.float() * SCALE).to(torch.float16)
        room = torch.empty(N, K, dtype=torch.float16)
        return a, b, [_dynamic(a), _compact(quantized), _compact(room), _dynamic(c)], c
    b = torch.randn(N, K).to(torch.float16)
    hand_over = _compact if NAME in ("fp16_gemm_0", "fp16_gemm_1") else _dynamic
    return a, b, [hand_over(x) for x in (a, b, c)], c


def run(seed: int, completion: str) -> dict[str, Any]:
    """Errors, or the finding."""
    torch.manual_seed(seed)
    a, b, tensors, c = _operands()
    stream = driver.CUstream(0)
    after = [SCALE] if NAME == "fp16_gemm_6" else []
    last = [stream] if NAME == "fp16_gemm_6" else []
    clusters = {"fp16_gemm_0": 0, "fp16_gemm_1": 0, "fp16_gemm_2": 0, "fp16_gemm_4": 2}
    constants = [CASE["clusters"]] * clusters.get(NAME, 1)
    if not COMPILED:
        import cutlass.cute as cute

        cute.compile(MODULE.host_function, *tensors, *after, *constants, *last)
    environment.Timed.seconds = 0.0
    try:
        with jax_fa4.emulator.options(
            seed=seed, completion=completion, level="hardware", sm_count=environment.SMS
        ):
            COMPILED[0](*tensors, *after, *last)
    except cute_dsl.EmulatorError as error:
        return {"finding": str(error)}
    exact = a.double() @ b.double().T
    plain = (a.float() @ b.float().T).to(torch.float16)
    errors = [(x.double() - exact).abs().max().item() for x in (c, plain)]
    return {"errors": {"c": errors}, "seconds": environment.Timed.seconds}


def main() -> None:
    runs = [run(seed, completion) for seed, completion in CASE["runs"]]
    environment.report(runs, COMPILED, "nvidia-cutlass-dsl")


if __name__ == "__main__":
    main()
