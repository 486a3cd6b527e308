"""Part three of the demo: a small GPT with jax_fa4 and with Flax's attention, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
from flax import nnx
from rich.console import Console
from rich.text import Text

import jax_fa4
import jax_fa4.flax
from jax_fa4.demo import agreement, device_report, plot, text, training
from jax_fa4.demo.console import heading, progress, verdict
from jax_fa4.demo.model import AttentionFn
from jax_fa4.demo.training import Batch, Recipe, Trainer

OURS, FLAX, REORDERED, CUDNN = "jax_fa4", "Flax default", "Flax reordered", "cuDNN"
PLOT_NAME = "jax_fa4_loss.png"
PROMPT = "The "
SAMPLE_LENGTH = 320


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the user asked for; `steps`, if given, overrides `seconds`."""

    seconds: int
    steps: int | None
    seed: int
    output: Path


def run(console: Console, plan: Plan) -> list[str]:
    """Train, compare, draw and sample. Returns what failed."""
    recipe = training.recipe_for(jax.default_backend())
    corpus = text.load()
    announce(console, recipe, corpus)
    trainers = build_trainers(console, recipe, plan.seed)
    ours, flax, *reordered = trainers
    reasons = check_kernel_calls(console, ours, recipe)
    cudnn = build_cudnn(console, recipe, plan.seed)
    full = [ours, flax, reordered[0], *cudnn]
    held_out = training.held_out_batches(corpus, recipe)
    train(console, full, reordered[1:], corpus, recipe, plan)
    reasons += show_curves(console, full, held_out)
    show_speed(console, ours, cudnn)
    reasons += show_agreement(console, ours, flax, reordered)
    curves = {trainer.name: trainer.losses for trainer in full}
    title = f"Byte-level GPT on {jax.default_backend()}, seed {plan.seed}"
    path = plot.save(plan.output / PLOT_NAME, curves, base=FLAX, title=title)
    console.print(f"\n  The curves are drawn in {path}", markup=False)
    show_sample(console, ours, plan.seed)
    return reasons


def announce(console: Console, recipe: Recipe, corpus: text.Corpus) -> None:
    """Say what will be trained, on what, and along which path."""
    model = recipe.model
    heading(console, "A small GPT on the text of Python's own language reference")
    console.print(
        f"  model            {model.layers} layers of width {model.width}, {model.heads} heads of "
        f"dim {model.head_dim}, context {model.context}, batch {recipe.batch_size}, "
        f"{model.dtype} activations: the sizes for {jax.default_backend()}\n"
        f"  text             {len(corpus.train):,} bytes to learn from, "
        f"{len(corpus.held_out):,} held out\n"
        f"  attention        {device_report.path(model.dtype, head_dim=model.head_dim)}",
        markup=False,
    )


def build_trainers(console: Console, recipe: Recipe, seed: int) -> list[Trainer]:
    """jax_fa4, Flax's default, and Flax's with its sums in other orders, from one seed."""
    attention_fns: list[tuple[str, AttentionFn]] = [
        (OURS, jax_fa4.flax.attention_fn),
        (FLAX, nnx.dot_product_attention),
    ]
    for make_order in agreement.ORDERS:
        order = make_order(recipe.model.context)
        attention_fns.append((REORDERED, agreement.reordered_attention(order)))
    trainers = []
    with progress(console, "compiling", len(attention_fns)) as advance:
        for name, attention_fn in attention_fns:
            trainers.append(Trainer.build(name, attention_fn, recipe, seed))
            advance(name)
    return trainers


def cudnn_attention(
    query: jax.Array, key: jax.Array, value: jax.Array, *, is_causal: bool = False, **_: object
) -> jax.Array:
    """cuDNN's attention, through jax.nn."""
    return jax.nn.dot_product_attention(
        query, key, value, is_causal=is_causal, implementation="cudnn"
    )


def build_cudnn(console: Console, recipe: Recipe, seed: int) -> list[Trainer]:
    """A trainer with cuDNN's attention, to compare speed with, where our kernels run."""
    if not expected_calls(recipe)[training.FORWARD_TARGET]:
        return []
    try:
        return [Trainer.build(CUDNN, cudnn_attention, recipe, seed)]
    except Exception as error:  # cuDNN absent, too old, or not for this GPU: no fault of ours
        words = str(error).strip().splitlines() or [type(error).__name__]
        console.print(f"  cuDNN            does not run here: {words[0]}", markup=False)
        return []


def expected_calls(recipe: Recipe) -> dict[str, int]:
    """Calls of each target in a training step: one for each layer, where kernels run."""
    model = recipe.model
    shape = jax.ShapeDtypeStruct((1, model.context, model.heads, model.head_dim), model.dtype)
    forward = jax_fa4.is_supported(shape, shape, shape) is None
    backward = jax_fa4.backward_workspace_bytes(shape, shape, shape) > 0
    return {
        training.FORWARD_TARGET: model.layers * forward,
        training.BACKWARD_TARGET: model.layers * backward,
    }


def check_kernel_calls(console: Console, trainer: Trainer, recipe: Recipe) -> list[str]:
    """Count the kernels' calls in the compiled step. Returns what is not as expected."""
    reasons = []
    for target, expected in expected_calls(recipe).items():
        found = trainer.kernel_calls(target)
        console.print(f"  compiled step    {found} calls of {target} ({expected} expected)")
        if found != expected:
            reasons.append(f"the training step calls {target} {found} times, not {expected}")
    return reasons


def train(
    console: Console,
    full: Sequence[Trainer],
    short: Sequence[Trainer],
    corpus: text.Corpus,
    recipe: Recipe,
    plan: Plan,
) -> None:
    """All of `full` for as many steps as there is time for, `short` for the first few."""
    batches = training.training_batches(corpus, recipe, plan.seed)
    steps = plan.steps or training.steps_within(plan.seconds, full, next(batches), recipe.max_steps)
    rates = [training.learning_rate(step, steps, recipe.learning_rate) for step in range(steps)]
    amounts = [(trainer, steps) for trainer in full]
    amounts += [(trainer, min(steps, agreement.FIRST_STEPS)) for trainer in short]
    with progress(console, "training", steps) as advance:

        def on_step(step: int) -> None:
            ours, flax = full[0], full[1]
            advance(
                f"loss {ours.losses[step]:.3f} (Flax {flax.losses[step]:.3f}), "
                f"{ours.tokens_per_second:,.0f} tokens/s"
            )

        training.train_together(amounts, batches, rates, on_step)


def show_curves(
    console: Console, trainers: Sequence[Trainer], held_out: Sequence[Batch]
) -> list[str]:
    """A row for each run: losses and speed. Returns the runs that did not learn."""
    row = "  {:16s} {:>10s} {:>10s} {:>10s} {:>10s}"
    console.print()
    labels = ("loss", "first", "last", "held out", "tokens/s")
    console.print(Text(row.format(*labels), style="bold"))
    reasons = []
    for trainer in trainers:
        first, last = trainer.first_loss, trainer.last_loss
        unseen = trainer.evaluate(held_out)
        figures = (f"{first:.4f}", f"{last:.4f}", f"{unseen:.4f}")
        console.print(row.format(trainer.name, *figures, f"{trainer.tokens_per_second:,.0f}"))
        if not (last < first and unseen < first):
            reasons.append(
                f"the loss of {trainer.name} did not fall: {first:.4f} at first, {last:.4f} at "
                f"last, {unseen:.4f} held out"
            )
    return reasons


def show_speed(console: Console, ours: Trainer, peers: Sequence[Trainer]) -> None:
    """Tokens per second beside those of the peers."""
    for peer in peers:
        ratio = ours.tokens_per_second / peer.tokens_per_second
        console.print(f"  {OURS} trains {ratio:.2f} times as many tokens a second as {peer.name}")


def show_agreement(
    console: Console, ours: Trainer, flax: Trainer, reordered: Sequence[Trainer]
) -> list[str]:
    """A row for each rule of `agreement`. Returns the rules that were broken."""
    console.print()
    row = "  {:22s} {:>12s} {:>16s} {:>12s}  "
    console.print(
        Text(row.format("mean |loss - Flax's|", OURS, "Flax reordered", "allowed"), style="bold")
    )
    reasons = []
    curves = [trainer.losses for trainer in reordered]
    for found in agreement.compare(ours.losses, flax.losses, curves):
        figures = (f"{x:.2e}" for x in (found.difference, found.reordered, found.bound))
        console.print(Text(row.format(f"over {found.over}", *figures)) + verdict(found.agrees))
        if not found.agrees:
            reasons.append(
                f"over {found.over} the loss curves of {OURS} and {FLAX} differ by "
                f"{found.difference:.3g} on average, allowed {found.bound:.3g}"
            )
    return reasons


def show_sample(console: Console, trainer: Trainer, seed: int) -> None:
    """What the trained model writes."""
    with console.status("sampling"):
        sample = training.generate(trainer.trained_model(), PROMPT, length=SAMPLE_LENGTH, seed=seed)
    heading(console, f"What the model trained with {trainer.name} writes")
    for line in sample.splitlines():
        console.print(f"  | {line}", markup=False)
