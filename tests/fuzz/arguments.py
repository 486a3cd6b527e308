"""A problem's arguments by keyword, as each public function names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from tests.fuzz.problem import Problem


def options(asked: Problem, x: Mapping[str, Any]) -> dict[str, Any]:
    """All but q, k, v, bias and mask, implementation, and whether lse is returned."""
    if asked.entry == "dot_product_attention":
        return {
            "scale": asked.scale,
            "is_causal": asked.causal,
            "query_seq_lengths": x.get("query_lengths"),
            "key_value_seq_lengths": x.get("key_lengths"),
            "local_window_size": asked.window,
            "logits_soft_cap": asked.softcap or None,
            "sinks": x.get("sinks"),
            "query_segment_ids": x.get("query_ids"),
            "key_value_segment_ids": x.get("key_ids"),
            "causal_alignment": asked.alignment,
            "deterministic": asked.deterministic,
            **_mods(x),
        }
    found = {
        "softmax_scale": asked.scale,
        "causal": asked.causal,
        "window_size": asked.sides,
        "softcap": asked.softcap,
        "learnable_sink": x.get("sinks"),
        "deterministic": asked.deterministic,
    }
    if asked.entry == "flash_attention_varlen":
        names = ("cu_seqlens_q", "cu_seqlens_k", "seqused_q", "seqused_k")
        found |= {name: x.get(name) for name in names}
    return found


def _mods(x: Mapping[str, Any]) -> dict[str, Any]:
    """The functions that `definition.Inputs` and `problem.visible` describe."""
    found: dict[str, Any] = {}
    if "gain" in x:
        gain, tilt = jnp.asarray(x["gain"]), jnp.asarray(x["tilt"])
        found["score_mod"] = lambda s, b, h, i, j: s * gain[h] + tilt[h] * (j - i) / 64
    if "period" in x:
        period = jnp.asarray(x["period"])
        found["mask_mod"] = lambda b, h, i, j: (i // 3 + j) % period[h] == 0
    return found
