"""Tokens per second of a small GPT in training, with our attention and with cuDNN's.

    python -m benchmarks.training --context 2048 8192 --markdown results.md

The model is that of `python -m jax_fa4` on a GPU (forward, backward and AdamW in one program),
with the context asked for and as many tokens a batch. Both are trained in lockstep, step by step
in turn, on the same batches from the same parameters; a step's time is from its call to its loss
on the host. The figure is the median after the first few steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax_fa4.flax
from benchmarks import environment
from jax_fa4.demo import experiment, text, training
from jax_fa4.demo.training import Recipe, Trainer

WARM_UP_STEPS = 5
HEADER = (
    "| context | batch | attention | calls a step | tokens/s | of cuDNN | first loss | last |\n"
    "| ---: | ---: | --- | --- | ---: | ---: | ---: | ---: |\n"
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    result.add_argument("--steps", type=int, default=60)
    result.add_argument("--context", type=int, nargs="+", default=[training.LARGE.model.context])
    result.add_argument("--layers", type=int, default=training.LARGE.model.layers)
    result.add_argument("--seed", type=int, default=0)
    result.add_argument("--markdown", type=Path)
    return result


def recipe_of(context: int, layers: int) -> Recipe:
    """The demo's recipe for a GPU with another context, and as many tokens a batch."""
    large = training.LARGE
    model = dataclasses.replace(large.model, context=context, layers=layers)
    batch_size = max(1, large.tokens_per_step // context)
    return dataclasses.replace(large, model=model, batch_size=batch_size)


def speed(trainer: Trainer) -> float:
    """Median tokens per second after the first steps."""
    return trainer.tokens_per_step / statistics.median(trainer.seconds[WARM_UP_STEPS:])


def measure(recipe: Recipe, steps: int, seed: int) -> list[Trainer]:
    """Both trainers after their steps, ours first."""
    attention_fns = (
        (experiment.OURS, jax_fa4.flax.attention_fn),
        (experiment.CUDNN, experiment.cudnn_attention),
    )
    trainers = [Trainer.build(name, fn, recipe, seed) for name, fn in attention_fns]
    rates = [training.learning_rate(i, steps, recipe.learning_rate) for i in range(steps)]
    batches = training.training_batches(text.load(), recipe, seed)
    training.train_together([(trainer, steps) for trainer in trainers], batches, rates)
    return trainers


def rows(recipe: Recipe, trainers: Sequence[Trainer]) -> str:
    """Lines of the table for one context."""
    peer = speed(trainers[-1])
    lines = ""
    for trainer in trainers:
        calls = [
            f"{trainer.kernel_calls(target)} x {target}"
            for target in (training.FORWARD_TARGET, training.BACKWARD_TARGET)
            if trainer.kernel_calls(target)
        ]
        cells: list[Any] = [recipe.model.context, recipe.batch_size, trainer.name]
        cells += [", ".join(calls) or "none of ours", f"{speed(trainer):,.0f}"]
        cells += [f"{speed(trainer) / peer:.2f} x", f"{trainer.first_loss:.3f}"]
        cells += [f"{trainer.last_loss:.3f}"]
        lines += f"| {' | '.join(map(str, cells))} |\n"
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    found = environment.describe()
    model = training.LARGE.model
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    page = (
        f"# A small GPT in training on {found['gpu']}\n\n"
        f"Written by `python -m benchmarks.training --steps {arguments.steps} --context "
        f"{' '.join(map(str, arguments.context))} --layers {arguments.layers}`.\n"
        f"{arguments.layers} layers of width {model.width}, {model.heads} heads of dim "
        f"{model.head_dim}, {model.dtype} activations, causal; "
        f"driver {found['driver']}, {packages}.\n\n" + HEADER
    )
    print(page, end="", flush=True)
    for context in arguments.context:
        recipe = recipe_of(context, arguments.layers)
        lines = rows(recipe, measure(recipe, arguments.steps, arguments.seed))
        print(lines, end="", flush=True)
        page += lines
        if arguments.markdown:
            arguments.markdown.write_text(page)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
