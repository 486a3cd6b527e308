"""The manifest is what CMake's C++ table is generated from."""

from pathlib import Path

from jax_fa4.aot.manifest import Entry, Manifest, read, table, write

TEMPLATE = Path(__file__).resolve().parents[2] / "cmake" / "variant_table.cc.in"


def entry(name):
    return Entry(
        name=name,
        fingerprint="f" * 64,
        init=f"_mlir_jax_fa4_{name}_cuda_init",
        load_to_device=f"_mlir_jax_fa4_{name}_cuda_load_to_device",
        launch=f"_mlir_jax_fa4_{name}__mlir_ciface_kernel",
        kernels={"kernel": {"registers": 168, "stack_bytes": 0}},
    )


MANIFEST = Manifest(
    cutlass_dsl_version="4.8.1",
    fingerprint="0123456789abcdef",
    entries=tuple(
        map(
            entry,
            (
                "fwd_sm90_fp16_d64",
                "fwd_sm100_bf16_d192_v128",
                "bwd_preprocess_sm100_bf16",
                "bwd_sm90_bf16_d64_deterministic",
                "bwd_postprocess_sm90_bf16",
                "fwd_sm90_bf16_d128_bounded_softcap",
                "bwd_sm100_bf16_d192_v128_bounded",
            ),
        )
    ),
)


def test_round_trip(tmp_path):
    write(MANIFEST, tmp_path)
    assert read(tmp_path) == MANIFEST


def test_table_states_each_variant():
    text = table(MANIFEST, TEMPLATE.read_text())
    assert '{"fwd_sm90_fp16_d64", VariantKind::kForward, 9, "fp16", 64, 64, false, _mlir_' in text
    assert (
        '{"bwd_preprocess_sm100_bf16", VariantKind::kBackwardPreprocess, 10, "bf16", 0, 0' in text
    )
    assert "kVariants = {kRows, 7}" in text
    assert (
        '"fwd_sm100_bf16_d192_v128", VariantKind::kForward, 10, "bf16", 192, 128, false, _mlir_'
        in text
    )
    assert (
        '{"fwd_sm90_bf16_d128_bounded_softcap", VariantKind::kForwardBounded, 9, "bf16", 128, 128, '
        "true, _mlir_"
    ) in text
    assert (
        '{"bwd_sm100_bf16_d192_v128_bounded", VariantKind::kBackwardBounded, 10, "bf16", 192, 128, '
        "false, _mlir_"
    ) in text
    main = '{"bwd_sm90_bf16_d64_deterministic", VariantKind::kBackward, 9, "bf16", 64, 64, false, '
    assert main in text
    assert (
        '{"bwd_postprocess_sm90_bf16", VariantKind::kBackwardPostprocess, 9, "bf16", 0, 0' in text
    )
    assert "void _mlir_jax_fa4_fwd_sm90_fp16_d64__mlir_ciface_kernel(void**, int32_t);" in text
    assert "@" not in text


def test_table_of_no_kernels():
    empty = Manifest(cutlass_dsl_version="4.8.1", fingerprint="0", entries=())
    assert "kVariants = {kRows, 0}" in table(empty, TEMPLATE.read_text())
