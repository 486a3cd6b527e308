"""What evidence.py runs: FlashAttention-4's forms, and the GEMMs of CUTLASS's tutorial."""

from __future__ import annotations

from typing import Any

RUNS = ((0, "random"), (1, "latest"), (2, "earliest"), (3, "random"))

FORWARD = (
    {"head_dim": 64, "causal": True, "lengths": ((256, 256),), "heads": (1, 1)},
    {"head_dim": 64, "lengths": ((512, 512),), "heads": (2, 2)},
    {"head_dim": 64, "window": (100, 50), "lengths": ((384, 384),), "heads": (2, 1)},
    {
        "head_dim": 64,
        "varlen": True,
        "lengths": ((100, 100), (257, 257), (31, 31)),
        "heads": (2, 1),
    },
    {"head_dim": 128, "causal": True, "lengths": ((512, 512),), "heads": (1, 1)},
    {"head_dim": 128, "lengths": ((512, 512),), "heads": (1, 1)},
    {"head_dim": 128, "lengths": ((1024, 1024),), "heads": (2, 1)},
    {"head_dim": 128, "window": (100, 0), "lengths": ((384, 384),), "heads": (1, 1)},
    {
        "head_dim": 128,
        "causal": True,
        "varlen": True,
        "lengths": ((100, 150), (257, 257), (31, 64)),
        "heads": (1, 1),
    },
    {"head_dim": 128, "causal": True, "clc": True, "lengths": ((384, 384),) * 2, "heads": (2, 1)},
)

BACKWARD = (
    {"head_dim": 64, "lengths": ((256, 256),), "heads": (1, 1)},
    {"head_dim": 64, "causal": True, "lengths": ((384, 384),), "heads": (2, 1)},
    {"head_dim": 64, "causal": True, "deterministic": True}
    | {"lengths": ((384, 384),), "heads": (1, 1)},
    {"head_dim": 64, "varlen": True, "lengths": ((100, 100), (257, 257)), "heads": (1, 1)},
    {"head_dim": 128, "lengths": ((256, 256),), "heads": (1, 1)},
    {"head_dim": 128, "lengths": ((256, 256),), "heads": (2, 1)},
    {"head_dim": 128, "causal": True, "lengths": ((384, 384),), "heads": (1, 1)},
    {"head_dim": 128, "window": (100, 50), "lengths": ((384, 384),), "heads": (1, 1)},
    {"head_dim": 128, "deterministic": True, "lengths": ((256, 256),), "heads": (2, 1)},
    {"head_dim": 128, "one_cta": True, "lengths": ((256, 256),), "heads": (1, 1)},
    {"head_dim": 128, "one_cta": True, "causal": True, "lengths": ((256, 256),), "heads": (2, 1)},
)

FLASH_ATTENTION_4: tuple[dict[str, Any], ...] = (
    *({"pass": "forward", **case} for case in FORWARD),
    *({"pass": "backward", **case} for case in BACKWARD),
)

# M, N, K: several tiles of 256 x 256 (tutorial 0: 128 x 256; 5: 256 x 64), four of K.
TUTORIAL: tuple[dict[str, Any], ...] = tuple(
    {"name": f"fp16_gemm_{number}", "mnk": (512, 1024, 256), "clusters": 2}
    for number in ("0", "1", "2", "3", "3_1", "4", "5", "6")
)


def mask_of(case: dict[str, Any]) -> str:
    """ "window 100, 50, varlen", say."""
    words = ["causal" if case.get("causal") else "full"]
    if "window" in case:
        words = ["window {}, {}".format(*case["window"])]
    named = {"varlen": "varlen", "deterministic": "deterministic", "clc": "CLC"}
    return ", ".join([*words, *(text for name, text in named.items() if case.get(name))])


def lengths_of(case: dict[str, Any]) -> str:
    """ "256" or "100x150 257 31x64", queries x keys of each sequence."""
    return " ".join(str(q) if q == k else f"{q}x{k}" for q, k in case["lengths"])
