"""What the README tells a newcomer to type works."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()


def test_the_first_commands_are_install_and_run_then_install_and_test():
    commands = re.findall(r"^pip install .*$", README, re.MULTILINE)
    assert commands == [
        "pip install '.[demo]' && python -m jax_fa4",
        "pip install '.[test]' && pytest",
    ]


def test_the_example_runs():
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert example is not None
    done = subprocess.run(
        [sys.executable, "-c", example.group(1)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "path" in done.stdout or "kernel" in done.stdout
