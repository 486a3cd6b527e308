"""The verdict that tests/gpu/sanitize.py draws from what compute-sanitizer prints."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_PATH = Path(__file__).resolve().parents[1] / "gpu" / "sanitize.py"
_SPEC = importlib.util.spec_from_file_location("sanitize", _PATH)
assert _SPEC
assert _SPEC.loader
sanitize = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(sanitize)

RAN = "8 problems ran, 0 wrong\n"
CLEAN = RAN + "========= ERROR SUMMARY: 0 errors\n"
RACE_FREE = RAN + "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n"


@pytest.mark.parametrize(
    ("output", "status", "verdict"),
    [
        (CLEAN, 0, sanitize.OK),
        (RACE_FREE, 0, sanitize.OK),
        (RAN + "========= ERROR SUMMARY: 1 error\n", 86, sanitize.FINDINGS),
        (RAN + "========= ERROR SUMMARY: 3 errors\n", 0, sanitize.FINDINGS),
        (
            RAN + "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)\n",
            86,
            sanitize.FINDINGS,
        ),
        (CLEAN.replace("0 wrong", "1 wrong"), 1, sanitize.FINDINGS),
        (CLEAN, 86, sanitize.FINDINGS),
        ("========= ERROR SUMMARY: 0 errors\n", 1, sanitize.NOT_CHECKED),  # the program died early
        (RAN, 0, sanitize.NOT_CHECKED),  # no tool said anything
        ("", -1, sanitize.NOT_CHECKED),
    ],
)
def test_verdicts(output, status, verdict):
    assert sanitize.judge(output, status)[0] == verdict


def test_every_tool_fails_the_command_on_findings():
    for tool in sanitize.TOOLS:
        words = sanitize.command(tool, "compute-sanitizer")
        assert words[words.index("--tool") + 1] == tool
        assert words[words.index("--error-exitcode") + 1] == str(sanitize.FINDINGS_EXIT)
