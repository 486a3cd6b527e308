"""The documentation site builds strictly, has every public function, and needs no network."""

import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import jax_fa4

CHECKOUT = Path(__file__).resolve().parents[2]
DOCS = CHECKOUT / "docs"


@pytest.fixture(scope="module")
def hook():
    spec = importlib.util.spec_from_file_location("hook", DOCS / "readme_sections.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_site_builds_strictly(tmp_path):
    for name in ("material", "mkdocstrings"):
        pytest.importorskip(name, reason="NOT TESTED HERE, needs pip install 'jax_fa4[docs]'")
    nobody = "http://127.0.0.1:9"  # whoever asks the network is refused
    environment = os.environ | {
        "NO_MKDOCS_2_WARNING": "1",
        **{name: nobody for name in ("http_proxy", "https_proxy", "ALL_PROXY")},
    }
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    api = (tmp_path / "api" / "index.html").read_text()
    assert "online softmax" in api, "docstrings are there"
    assert "causal_self_attention" in (tmp_path / "recipes" / "index.html").read_text()
    assert "README:" not in (tmp_path / "semantics" / "index.html").read_text()


def test_the_api_page_has_every_public_name():
    page = (DOCS / "api.md").read_text()
    public = {
        name
        for name, value in vars(jax_fa4).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public
    assert {n for n in public if f"::: jax_fa4.{n}\n" not in page and f"`{n}`" not in page} == set()


def test_a_section_that_the_readme_lacks_is_an_error(hook):
    with pytest.raises(ValueError, match="no section 'No such'"):
        hook.on_page_markdown("<!-- README: No such -->")


def test_links_to_the_repository_become_names(hook):
    text = "[a](b/c.py) [b.md](b.md) ![d](docs/d.png) [e](https://e)"
    wanted = "a (`b/c.py`) b.md ![d](d.png) [e](https://e)"
    assert hook._LINK.sub(hook._link, text) == wanted
