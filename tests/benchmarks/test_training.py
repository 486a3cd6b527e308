"""The training benchmark's command, on a model small enough for a CPU."""

import dataclasses

from flax import nnx

from benchmarks import training as benchmark
from jax_fa4.demo import experiment, training
from jax_fa4.demo.model import ModelConfig


def test_a_line_for_each_attention_and_context(monkeypatch, capsys, tmp_path):
    model = ModelConfig(width=16, layers=1, heads=2, context=16, dtype="float32")
    recipe = dataclasses.replace(training.LARGE, model=model, batch_size=4)
    monkeypatch.setattr(training, "LARGE", recipe)
    monkeypatch.setattr(experiment, "cudnn_attention", nnx.dot_product_attention)
    page = tmp_path / "page.md"
    arguments = ["--steps", "8", "--context", "16", "32", "--layers", "1", "--markdown", str(page)]
    assert benchmark.main(arguments) == 0
    written = page.read_text()
    assert capsys.readouterr().out == written
    lines = [line.split(" | ") for line in written.splitlines() if line.startswith("| ")][2:]
    wanted = [("| 16", "4"), ("| 16", "4"), ("| 32", "2"), ("| 32", "2")]
    assert [tuple(line[:2]) for line in lines] == wanted
    assert [line[2] for line in lines] == [experiment.OURS, experiment.CUDNN] * 2
    assert {line[3] for line in lines} == {"none of ours"}
    assert [line[5] for line in lines][1::2] == ["1.00 x"] * 2
    for ours, peer in zip(lines[::2], lines[1::2], strict=True):
        assert abs(float(ours[6]) - float(peer[6])) < 1e-3  # the same first batch
