"""A variant is recompiled when, and only when, something that decides its code changed."""

import dataclasses
import re
import shutil
import typing

import pytest

from jax_fa4.aot import fingerprint as fingerprints
from jax_fa4.aot import signatures
from jax_fa4.aot.arguments import Kind
from jax_fa4.aot.fingerprint import PACKAGE_ROOT, fingerprint, sources
from jax_fa4.variants import Arch, BackwardPreprocessVariant, DType, ForwardVariant, Variant

FORWARD = ForwardVariant(arch=Arch.SM90, dtype=DType.BF16, head_dim=128)
PREPROCESS = BackwardPreprocessVariant(arch=Arch.SM90, dtype=DType.BF16)

FORWARD_KERNEL = "kernels/sm90/forward/kernel.py"
PREPROCESS_KERNEL = "kernels/common/backward_preprocess.py"


@pytest.fixture(autouse=True)
def dsl(monkeypatch):
    """The compiler is not installed where tests run."""
    monkeypatch.setattr(fingerprints, "dsl_version", lambda: "4.8.1")


@pytest.fixture
def root(tmp_path):
    """A package with the real build rooms and small kernels that import each other."""
    for room in ("aot", "variants"):
        shutil.copytree(PACKAGE_ROOT / room, tmp_path / room)
    files = {
        "kernels/__init__.py": "",
        "kernels/common/__init__.py": "",
        PREPROCESS_KERNEL: "import cutlass\nfrom jax_fa4.kernels.toolkit.copies import load\n",
        "kernels/sm90/__init__.py": "",
        "kernels/sm90/forward/__init__.py": "",
        FORWARD_KERNEL: "from jax_fa4.kernels.toolkit import softmax\nfrom . import consumer\n",
        "kernels/sm90/forward/consumer.py": "def run():\n    from .epilogue import store\n",
        "kernels/sm90/forward/epilogue.py": "import jax_fa4.kernels.toolkit.copies\n",
        "kernels/toolkit/__init__.py": "",
        "kernels/toolkit/softmax.py": "",
        "kernels/toolkit/copies.py": "",
        "kernels/toolkit/unused.py": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def changed_by(root, name):
    """Which of the two variants a change of the file recompiles."""
    before = {v: fingerprint(v, root) for v in (FORWARD, PREPROCESS)}
    with (root / name).open("a") as file:
        file.write("\n# changed\n")
    return {v for v, key in before.items() if fingerprint(v, root) != key}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (FORWARD_KERNEL, {FORWARD}),
        (PREPROCESS_KERNEL, {PREPROCESS}),
        ("kernels/sm90/forward/consumer.py", {FORWARD}),  # from . import consumer
        ("kernels/sm90/forward/epilogue.py", {FORWARD}),  # relative, inside a function
        ("kernels/toolkit/softmax.py", {FORWARD}),  # from package import module
        ("kernels/toolkit/copies.py", {FORWARD, PREPROCESS}),  # shared
        ("kernels/toolkit/__init__.py", {FORWARD, PREPROCESS}),  # runs on import
        ("kernels/sm90/__init__.py", {FORWARD}),
        ("kernels/toolkit/unused.py", set()),
        ("aot/compile.py", {FORWARD, PREPROCESS}),
        ("aot/arguments.py", {FORWARD, PREPROCESS}),
        ("variants/words.py", {FORWARD, PREPROCESS}),
        ("aot/signatures.py", set()),  # what it says of the variant is hashed instead,
        ("variants/variant.py", set()),  # and so are the fields that the variant sets
        ("aot/kernel_classes.py", set()),
        ("variants/catalog.py", set()),
        ("aot/build.py", set()),
    ],
)
def test_a_change_recompiles_what_depends_on_it(root, name, expected):
    assert changed_by(root, name) == expected


def test_the_compiler_is_part_of_the_fingerprint(root, monkeypatch):
    before = fingerprint(FORWARD, root)
    monkeypatch.setattr(fingerprints, "dsl_version", lambda: "4.8.2")
    assert fingerprint(FORWARD, root) != before


def test_the_host_processor_is_part_of_the_fingerprint(root):
    assert fingerprint(FORWARD, root) == fingerprint(FORWARD, root, "x86_64")
    assert fingerprint(FORWARD, root, "aarch64") != fingerprint(FORWARD, root)


def test_the_kernel_class_is_part_of_the_fingerprint(root, monkeypatch):
    before = fingerprint(FORWARD, root)
    path = "jax_fa4.kernels.sm90.forward.kernel:Other"
    monkeypatch.setattr(fingerprints, "kernel_class_path", lambda variant: path)
    assert fingerprint(FORWARD, root) != before


def test_the_arguments_are_part_of_the_fingerprint(root, monkeypatch):
    before = {v: fingerprint(v, root) for v in (FORWARD, PREPROCESS)}
    argument = dataclasses.replace(signatures.FORWARD[0], kind=Kind.FLOATS)
    monkeypatch.setattr(signatures, "FORWARD", (argument, *signatures.FORWARD[1:]))
    assert fingerprint(FORWARD, root) != before[FORWARD]
    assert fingerprint(PREPROCESS, root) == before[PREPROCESS]


def test_a_new_field_changes_the_variants_that_set_it(root):
    """All with the name of a variant that exists; a name is one fact among others."""
    before = fingerprint(FORWARD, root)
    for default, same in ((False, True), (True, False)):

        @dataclasses.dataclass(frozen=True, kw_only=True)
        class ForwardVariantOfTomorrow(ForwardVariant):
            name = FORWARD.name
            sparse: bool = default

        ForwardVariantOfTomorrow.__name__ = "ForwardVariant"
        fields = {"arch": FORWARD.arch, "dtype": FORWARD.dtype, "head_dim": FORWARD.head_dim}
        tomorrow = ForwardVariantOfTomorrow(**fields, sparse=False)
        assert (fingerprint(tomorrow, root) == before) == same


def test_kernels_read_fields_of_their_variant_alone():
    """Code of variant.py would be none of what a fingerprint covers."""
    fields = {field.name for kind in typing.get_args(Variant) for field in dataclasses.fields(kind)}
    kernels = (PACKAGE_ROOT / "kernels").rglob("*.py")
    read = {name for path in kernels for name in re.findall(r"variant\.(\w+)", path.read_text())}
    assert "head_dim" in read
    assert read - {"variant"} <= fields | {"HALF"}


def test_variants_of_one_kernel_differ(root):
    other = ForwardVariant(arch=Arch.SM90, dtype=DType.FP16, head_dim=128)
    assert fingerprint(FORWARD, root) != fingerprint(other, root)


def test_a_missing_kernel_is_named(root):
    (root / FORWARD_KERNEL).unlink()
    with pytest.raises(FileNotFoundError, match=r"fwd_sm90_bf16_d128.*sm90\.forward\.kernel"):
        fingerprint(FORWARD, root)


def test_the_real_kernels_are_followed():
    names = {str(path.relative_to(PACKAGE_ROOT)) for path in sources(PREPROCESS)}
    assert PREPROCESS_KERNEL in names
    assert "aot/build.py" not in names
