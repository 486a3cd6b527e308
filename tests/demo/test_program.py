"""`python -m jax_fa4` as users run it, and its verdict."""

import jax
import pytest

import jax_fa4
import jax_fa4.flax
from jax_fa4 import __main__ as command
from jax_fa4.demo import agreement, self_check, training
from jax_fa4.ops import selection


@pytest.fixture
def quick(monkeypatch, tiny):
    """A tiny model, two problems and one reordering in place of the real ones."""
    monkeypatch.setattr(training, "SMALL", tiny)
    monkeypatch.setattr(training, "LARGE", tiny)
    monkeypatch.setattr(self_check, "PROBLEMS", self_check.PROBLEMS[-2:])
    monkeypatch.setattr(self_check, "EMULATED", self_check.EMULATED[:1])
    monkeypatch.setattr(agreement, "ORDERS", agreement.ORDERS[:1])


def last_line(capsys) -> tuple[str, str]:
    """(the last line, everything)."""
    printed = capsys.readouterr().out
    return printed.splitlines()[-1], printed


def test_report_and_self_check_pass(capsys):
    assert command.main(["--no-train"]) == 0
    last, printed = last_line(capsys)
    assert last == "verdict: OK"
    assert f"jax {jax.__version__}" in printed
    emulated = 0 if selection.cuda_devices() else len(self_check.EMULATED)
    assert printed.count("  ok\n") == len(self_check.PROBLEMS) + emulated
    assert printed.count(" emulator ") == emulated
    assert "GPT" not in printed


@pytest.mark.usefixtures("quick")
def test_training_agrees_and_leaves_a_plot(capsys, tmp_path):
    folder = tmp_path / "new"
    assert command.main(["--steps", "30", "--output", str(folder)]) == 0
    last, printed = last_line(capsys)
    assert last == "verdict: OK"
    assert (folder / "jax_fa4_loss.png").read_bytes().startswith(b"\x89PNG")
    assert "training  30/30" in printed
    assert "tokens/s" in printed
    assert "| The " in printed


@pytest.mark.usefixtures("quick")
def test_a_broken_forward_fails_the_verdict(capsys, monkeypatch):
    right = jax_fa4.flash_attention

    def wrong(q, k, v, **kwargs):
        out, lse = right(q * 1.1, k, v, **kwargs)
        return out, lse

    monkeypatch.setattr(jax_fa4, "flash_attention", wrong)
    assert command.main(["--no-train"]) == 1
    last, printed = last_line(capsys)
    assert last == "verdict: FAILED"
    assert "failed: out of [" in printed


@pytest.mark.usefixtures("quick")
def test_a_broken_layer_fails_the_verdict(capsys, monkeypatch, tmp_path):
    right = jax_fa4.flax.attention_fn

    def wrong(query, key, value, **kwargs):
        return right(query * 1.1, key, value, **kwargs)

    monkeypatch.setattr(jax_fa4.flax, "attention_fn", wrong)
    assert command.main(["--steps", "30", "--output", str(tmp_path)]) == 1
    last, printed = last_line(capsys)
    assert last == "verdict: FAILED"
    assert "the loss curves of jax_fa4 and Flax default differ" in printed


def test_missing_extras_are_named_with_the_way_to_install_them(capsys, monkeypatch):
    monkeypatch.setattr(command, "EXTRAS", ("rich", "no_such_module"))
    assert command.main(["--no-train"]) == 2
    message = capsys.readouterr().err
    assert "needs no_such_module" in message
    assert "pip install '.[demo]'" in message


@pytest.mark.parametrize(
    "arguments",
    [
        ["--steps", "9"],
        ["--steps", "many"],
        ["--seconds", "0"],
        ["--seed", "-1"],
        ["--output", __file__],
    ],
    ids=lambda words: words[0] + "=" + words[1].split("/")[-1],
)
def test_bad_options_are_refused_before_any_work(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(arguments)
    assert stop.value.code == 2
    assert arguments[0] in capsys.readouterr().err
