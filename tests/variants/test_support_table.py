"""The README's table of what has a kernel is the catalog's."""

import dataclasses
from pathlib import Path

import pytest

from jax_fa4.variants import CATALOG, Arch, DType, ForwardVariant, parse
from jax_fa4.variants.support_table import BEGIN, END, main, table, with_table

README = Path(__file__).resolve().parents[2] / "README.md"


def cells(catalog):
    """feature -> head dims of Hopper's forward and backward and of Blackwell's."""
    rows = [line.strip("|").split("|") for line in table(catalog).splitlines()[2:]]
    return {feature.strip(): [cell.strip() for cell in row] for feature, *row in rows}


def test_the_readme_has_it_as_it_is():
    text = README.read_text()
    assert with_table(text) == text, "run python -m jax_fa4.variants.support_table README.md"


def test_every_kernel_with_head_dims_of_its_own_shows():
    for variant in CATALOG:
        if not hasattr(variant, "head_dim"):
            continue
        d, d_v = variant.head_dim, variant.head_dim_v
        words = str(d) if d == d_v else f"({d}, {d_v})"
        assert any(words in cell for row in cells([variant]).values() for cell in row)


def test_a_row_is_what_has_a_kernel():
    plain = ForwardVariant(arch=Arch.SM100, dtype=DType.FP16, head_dim=192, head_dim_v=128)
    bounded = dataclasses.replace(plain, bounded=True)
    capped = dataclasses.replace(bounded, softcap=True)
    backward = parse("bwd_sm90_bf16_d64_bounded")
    rows = cells([plain, bounded, capped, backward])
    only_blackwell = ["-", "-", "(192, 128)", "-"]
    assert rows["full, causal and sliding windows, GQA, any lengths"] == only_blackwell
    assert rows["segment ids, sequence lengths, packed sequences"] == ["-", "64", "(192, 128)", "-"]
    assert rows["a soft cap, also with segment ids and lengths"] == only_blackwell
    assert not any("float8" in feature for feature in rows)


def test_it_is_written_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}old\n{END}after\n")
    main([str(page)])
    assert page.read_text() == f"before\n{BEGIN}{table()}{END}after\n"
    with pytest.raises(ValueError, match="no lines"):
        with_table("nothing")
