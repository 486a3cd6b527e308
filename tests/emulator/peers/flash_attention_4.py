"""Run FlashAttention-4's own sm_100a kernels on the emulator, in an environment that has them.

    python flash_attention_4.py LIBRARY CASE

Called by evidence.py, which builds LIBRARY and writes CASE, a JSON object. The package's own
functions run, on tensors on the CPU; what they compile is launched on the emulator. Prints one
line of JSON: for each run its errors against float64 beside those of the plain computation.
"""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import dataclass
from typing import Any

import environment

CASE: dict[str, Any] = json.loads(sys.argv[2])
if CASE.get("one_cta"):
    os.environ["FA_DISABLE_2CTA"] = "1"
if CASE.get("clc"):
    os.environ["FA_CLC"] = "1"
COMPILED = environment.start(sys.argv[1])

import flash_attn.cute.cute_dsl_utils as cute_dsl_utils  # noqa: E402
import flash_attn.cute.interface as interface  # noqa: E402
import flash_attn.cute.utils as utils  # noqa: E402
import torch  # noqa: E402

import jax_fa4.emulator  # noqa: E402
from jax_fa4.emulator import cute_dsl  # noqa: E402

cute_dsl_utils.from_dlpack = utils.from_dlpack = cute_dsl.from_dlpack

DTYPE = torch.bfloat16
CAUSAL: bool = CASE.get("causal", False)
WINDOW: list[int] | None = CASE.get("window")
VARLEN: bool = CASE.get("varlen", False)


@dataclass
class Problem:
    """Tensors as (total, heads, D), packed; `lengths` are of the sequences, queries and keys."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    dout: torch.Tensor
    lengths: list[tuple[int, int]]

    def sequences(self) -> list[tuple[slice, slice]]:
        """Where each sequence's queries and keys are."""
        places, at_q, at_k = [], 0, 0
        for queries, keys in self.lengths:
            places.append((slice(at_q, at_q + queries), slice(at_k, at_k + keys)))
            at_q, at_k = at_q + queries, at_k + keys
        return places


def make_problem(seed: int) -> Problem:
    """Normal numbers."""
    torch.manual_seed(seed)
    lengths = [(q, k) for q, k in CASE["lengths"]]
    heads, kv_heads = CASE["heads"]
    totals = [sum(q for q, _ in lengths), *[sum(k for _, k in lengths)] * 2]
    shapes = [(n, h, CASE["head_dim"]) for n, h in zip(totals, (heads, kv_heads, kv_heads))]  # noqa: B905
    q, k, v, dout = (torch.randn(shape).to(DTYPE) for shape in [*shapes, shapes[0]])
    return Problem(q, k, v, dout, lengths)


def _hidden(queries: int, keys: int) -> torch.Tensor:
    """Which pairs do not attend; masks are aligned at the ends."""
    distance = torch.arange(keys)[None, :] - torch.arange(queries)[:, None] - (keys - queries)
    hidden = torch.zeros(queries, keys, dtype=torch.bool)
    if CAUSAL:
        hidden |= distance > 0
    if WINDOW is not None:
        hidden |= (distance < -WINDOW[0]) | (distance > WINDOW[1])
    return hidden


def attention(problem: Problem, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Attention and its gradients as they are written, in float64; what tensor cores multiply, and
    what is stored, is rounded to `dtype`."""

    def rounded(x: torch.Tensor) -> torch.Tensor:
        return x.to(dtype).double()

    parts: dict[str, list[torch.Tensor]] = {n: [] for n in ("out", "lse", "dq", "dk", "dv")}
    scale = CASE["head_dim"] ** -0.5
    groups = problem.q.shape[1] // problem.k.shape[1]
    for rows, columns in problem.sequences():
        q, dout = (x[rows].double() for x in (problem.q, problem.dout))
        k, v = (x[columns].double().repeat_interleave(groups, 1) for x in (problem.k, problem.v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        scores = scores.masked_fill(_hidden(len(q), len(k)), -math.inf)
        p = scores.softmax(-1)
        out = rounded(torch.einsum("hqk,khd->qhd", rounded(p), v))
        delta = (out * dout).sum(-1).T[..., None]
        ds = rounded(p * (torch.einsum("qhd,khd->hqk", dout, v) - delta))
        dk = torch.einsum("hqk,qhd->khd", ds, q) * scale
        dv = torch.einsum("hqk,qhd->khd", rounded(p), dout)
        parts["out"].append(out)
        parts["lse"].append(scores.logsumexp(-1))
        parts["dq"].append(rounded(torch.einsum("hqk,khd->qhd", ds, k) * scale))
        parts["dk"].append(rounded(dk.unflatten(1, (-1, groups)).sum(2)))
        parts["dv"].append(rounded(dv.unflatten(1, (-1, groups)).sum(2)))
    return {n: torch.cat(x, 1 if n == "lse" else 0) for n, x in parts.items()}


def _keywords(problem: Problem) -> dict[str, Any]:
    left, right = WINDOW if WINDOW is not None else (None, None)
    keywords: dict[str, Any] = {
        "causal": CAUSAL,
        "window_size_left": left,
        "window_size_right": right,
    }
    if VARLEN:
        for name, which in (("q", 0), ("k", 1)):
            lengths = torch.tensor([0, *(pair[which] for pair in problem.lengths)])
            keywords[f"cu_seqlens_{name}"] = lengths.cumsum(0).to(torch.int32)
            keywords[f"max_seqlen_{name}"] = int(lengths.max())
    return keywords


def _batched(x: torch.Tensor) -> torch.Tensor:
    """As (batch, S, heads, D), for sequences of one length."""
    return x if VARLEN else x.unflatten(0, (len(CASE["lengths"]), -1))


def _packed(x: torch.Tensor) -> torch.Tensor:
    return x if VARLEN else x.flatten(0, 1)


def forward(problem: Problem) -> dict[str, torch.Tensor]:
    """out and lse by the package's forward."""
    inputs = [_batched(x) for x in (problem.q, problem.k, problem.v)]
    out, lse, *_ = interface._flash_attn_fwd(*inputs, return_lse=True, **_keywords(problem))
    return {"out": _packed(out), "lse": lse if VARLEN else lse.transpose(0, 1).flatten(1)}


def backward(problem: Problem) -> dict[str, torch.Tensor]:
    """The gradients by the package's backward, from an output and an lse that are right."""
    right = attention(problem, torch.float64)
    out = _batched(right["out"].to(DTYPE))
    lse = right["lse"].float()
    if not VARLEN:
        lse = lse.unflatten(1, (len(CASE["lengths"]), -1)).transpose(0, 1).contiguous()
    inputs = [_batched(x) for x in (problem.q, problem.k, problem.v)]
    gradients = interface._flash_attn_bwd(
        *inputs,
        out,
        _batched(problem.dout),
        lse,
        deterministic=CASE.get("deterministic", False),
        **_keywords(problem),
    )
    return {name: _packed(x) for name, x in zip(("dq", "dk", "dv"), gradients, strict=True)}


def run(seed: int, completion: str) -> dict[str, Any]:
    """Errors, or the finding."""
    problem = make_problem(seed)
    environment.Timed.seconds = 0.0
    try:
        with jax_fa4.emulator.options(
            seed=seed, completion=completion, level="hardware", sm_count=environment.SMS
        ):
            found = (backward if CASE["pass"] == "backward" else forward)(problem)
    except cute_dsl.EmulatorError as error:
        return {"finding": str(error)}
    exact, plain = attention(problem, torch.float64), attention(problem, DTYPE)

    def off(x: torch.Tensor, name: str) -> float:
        return (x.double() - exact[name]).abs().max().item()

    return {
        "errors": {name: [off(x, name), off(plain[name], name)] for name, x in found.items()},
        "seconds": environment.Timed.seconds,
    }


def main() -> None:
    runs = [run(seed, completion) for seed, completion in CASE["runs"]]
    environment.report(runs, COMPILED, "flash-attn-4", "nvidia-cutlass-dsl")


if __name__ == "__main__":
    main()
