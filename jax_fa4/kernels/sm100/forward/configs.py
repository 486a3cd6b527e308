"""The configurations of the Blackwell forward, by head dim and form."""

from __future__ import annotations

from dataclasses import replace

from jax_fa4.kernels.sm100.forward.config import ForwardConfig
from jax_fa4.variants.variant import DType, Form, ForwardVariant

_HALF_FIRST = ((0, 64), (64, 96), (96, 128))  # `p_parts`, an instruction less

FORWARD_CONFIGS: dict[tuple[int, Form], ForwardConfig] = {
    (64, Form.USUAL): ForwardConfig(
        head_dim=64,
        q_tiles=2,
        outputs=2,
        kv_stages=10,
        output_columns=64,
        polynomial=(5, 11),
        softmax_registers=184,
        correction_registers=80,
        other_registers=64,
    ),
    (128, Form.USUAL): ForwardConfig(
        head_dim=128,
        q_tiles=2,
        outputs=2,
        score_slots=1,
        # Both K, V and what the next step needs; for that, O leaves in halves.
        kv_stages=4,
        output_columns=64,
        p_parts=_HALF_FIRST,
        polynomial=(5, 11),
        softmax_registers=184,
        correction_registers=80,
        other_registers=64,
    ),
    (64, Form.SPLITKEYS): ForwardConfig(
        head_dim=64,
        q_tiles=1,
        outputs=2,
        kv_stages=12,
        output_columns=64,
        polynomial=(5, 11),
        softmax_registers=184,
        correction_registers=80,
        other_registers=64,
    ),
    (96, Form.USUAL): ForwardConfig(
        head_dim=96,
        q_tiles=2,
        outputs=2,
        score_slots=1,
        kv_stages=5,
        output_columns=96,
        p_parts=_HALF_FIRST,
        polynomial=(5, 11),
        softmax_registers=184,
        correction_registers=80,
        other_registers=64,
    ),
    (128, Form.SPLITKEYS): ForwardConfig(
        head_dim=128,
        q_tiles=1,
        outputs=2,
        kv_stages=5,
        output_columns=128,
        polynomial=(5, 11),
        softmax_registers=184,
        correction_registers=80,
        other_registers=64,
    ),
    (192, Form.USUAL): ForwardConfig(
        head_dim=192,
        head_dim_v=128,
        q_tiles=2,
        outputs=2,
        score_slots=1,
        # Of 16 KiB: what two products read at a time, and V of the next block.
        kv_stages=7,
        k_parts=3,
        v_parts=2,
        output_columns=32,
        scaled_columns=16,
        p_parts=_HALF_FIRST,
        polynomial=(5, 11),
        softmax_registers=184,
        correction_registers=64,
        other_registers=80,
    ),
    (128, Form.PAIR): ForwardConfig(
        head_dim=128,
        q_tiles=2,
        outputs=2,
        kv_stages=6,
        output_columns=128,
        polynomial=(5, 11),
        softmax_registers=184,
        correction_registers=80,
        other_registers=64,
        score_slots=1,
        cta_group=2,
    ),
    (256, Form.PAIR): ForwardConfig(
        head_dim=256,
        q_tiles=1,
        outputs=1,
        kv_stages=8,
        k_parts=2,
        v_parts=2,
        output_columns=128,
        polynomial=(),
        softmax_registers=240,
        correction_registers=80,
        other_registers=64,
        cta_group=2,
    ),
    (256, Form.USUAL): ForwardConfig(
        head_dim=256,
        q_tiles=1,
        outputs=1,
        # Halves: with a whole K and a whole V there, none could come before one was multiplied.
        kv_stages=4,
        k_parts=2,
        v_parts=2,
        output_columns=128,
        scaled_columns=16,
        polynomial=(),
        softmax_registers=240,
        correction_registers=64,
        other_registers=64,
    ),
}

# As usual, but that a CTA claims further tiles.
FORWARD_CONFIGS |= {
    (d, Form.DYNAMIC): replace(FORWARD_CONFIGS[d, Form.USUAL], claims_tiles=True)
    for d in (64, 96, 128, 192)
}


# e4m3: its products take half as long, so that exponentials decide, and more of them are for the
# CUDA cores. The largest P of a row must be a power of two: 3 bits of fraction would otherwise cost
# rows that see one key alone up to 1/16 of their output. So the maximum moves with every block that
# has a larger one, and P is at most 2^8, of the 448 that e4m3 ends at; down to 2^-6 it is normal.
_E4M3 = ForwardConfig(
    head_dim=128,
    q_tiles=2,
    outputs=2,
    score_slots=1,
    kv_stages=8,
    output_columns=128,
    polynomial=(1, 5, 9, 13),
    softmax_registers=184,
    correction_registers=80,
    other_registers=64,
    element_bytes=1,
    p_factor=256.0,
    rescale_threshold=0.0,
)
E4M3_CONFIGS: dict[tuple[int, Form], ForwardConfig] = {
    (128, Form.USUAL): _E4M3,
    (64, Form.USUAL): replace(
        _E4M3, head_dim=64, head_dim_v=64, score_slots=2, kv_stages=16, output_columns=64
    ),
}


# With bounds of rows: as (192, 128) has them. The warps that look up blocks of keys in memory would
# spill otherwise, and correction with as many columns in registers as usual.
_BOUNDED = {"correction_registers": 64, "scaled_columns": 16, "other_registers": 80}


def config_of(variant: ForwardVariant) -> ForwardConfig:
    """How the variant's CTAs are built."""
    configs = E4M3_CONFIGS if variant.dtype is DType.E4M3 else FORWARD_CONFIGS
    config = configs[variant.head_dim, variant.form]
    if variant.bounded:
        config = replace(config, bounded=True, softcap=variant.softcap)
        if config.q_tiles > 1:
            config = replace(config, **_BOUNDED)
    return config
