"""Trains one model per attention function, in lockstep: the same start, the same batches."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax  # type: ignore[import-untyped]
from flax import nnx

from jax_fa4.demo import text
from jax_fa4.demo.model import GPT, AttentionFn, ModelConfig

FORWARD_TARGET = "jax_fa4_fwd_v1"
BACKWARD_TARGET = "jax_fa4_bwd_v1"
WARMUP_SHARE = 0.1
HELD_OUT_BATCHES = 16
MEASURED_STEPS = 5
MIN_STEPS = 40

Batch = npt.NDArray[np.int32]
Parameters = nnx.State[Any, Any]
State = tuple[Parameters, optax.OptState]
Step = Callable[[State, jax.Array, jax.Array], tuple[State, jax.Array]]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model with what it takes to train it, for `max_steps` at most."""

    model: ModelConfig
    batch_size: int
    learning_rate: float
    max_steps: int

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.model.context


# float32 on a CPU, which has no fast bfloat16 (measured: 2.4 times slower on two Zen 4 cores).
SMALL = Recipe(
    model=ModelConfig(width=128, layers=2, heads=4, context=128, dtype="float32"),
    batch_size=8,
    learning_rate=4e-3,
    max_steps=1000,
)
# Four hundred steps read the text 18 times; a small text is soon known by heart.
LARGE = Recipe(
    model=ModelConfig(width=512, layers=6, heads=4, context=2048, dtype="bfloat16"),
    batch_size=8,
    learning_rate=1e-3,
    max_steps=400,
)


def recipe_for(platform: str) -> Recipe:
    """The sizes for a JAX platform: a CPU trains the small model, an accelerator the large."""
    return SMALL if platform == "cpu" else LARGE


def make_step(model: GPT, recipe: Recipe) -> tuple[Step, tuple[State, Any, Any]]:
    """(state, batch, learning rate) -> (new state, loss), with the initial state and the shapes.

    AdamW with clipped gradients; its learning rate is an argument, so that one program
    serves every schedule.
    """
    graph, parameters = nnx.split(model, nnx.Param)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(b1=0.9, b2=0.98),
        optax.add_decayed_weights(0.1),
    )

    def loss(parameters: Parameters, batch: jax.Array) -> jax.Array:
        logits = nnx.merge(graph, parameters)(batch[:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:])
        return jnp.mean(losses)

    def step(state: State, batch: jax.Array, rate: jax.Array) -> tuple[State, jax.Array]:
        parameters, moments = state
        value, gradients = jax.value_and_grad(loss)(parameters, batch)
        updates, moments = optimizer.update(gradients, moments, parameters)
        scaled = jax.tree.map(lambda update: -rate * update, updates)
        return (optax.apply_updates(parameters, scaled), moments), value

    state = (parameters, optimizer.init(parameters))
    batch = jax.ShapeDtypeStruct((recipe.batch_size, recipe.model.context + 1), jnp.int32)
    return step, (state, batch, jax.ShapeDtypeStruct((), jnp.float32))


@dataclass
class Trainer:
    """One model in training: its compiled step, its state, and the loss of every step so far."""

    name: str
    model: GPT
    step: jax.stages.Compiled
    state: State
    tokens_per_step: int
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def build(cls, name: str, attention_fn: AttentionFn, recipe: Recipe, seed: int) -> Trainer:
        """Initialise the model from the seed and compile its training step."""
        model = GPT(recipe.model, attention_fn, rngs=nnx.Rngs(seed))
        step, arguments = make_step(model, recipe)
        compiled = jax.jit(step).lower(*arguments).compile()
        return cls(name, model, compiled, arguments[0], recipe.tokens_per_step)

    def train(self, batch: Batch, rate: float) -> None:
        """Take one step and record its loss and its time."""
        start = time.perf_counter()
        self.state, loss = self.step(self.state, batch, np.float32(rate))
        self.losses.append(float(loss))
        self.seconds.append(time.perf_counter() - start)

    def evaluate(self, batches: Sequence[Batch]) -> float:
        """Mean loss on batches, by steps of size zero: what is compiled already serves."""
        return statistics.fmean(
            float(self.step(self.state, batch, np.float32(0.0))[1]) for batch in batches
        )

    def measure(self, batch: Batch) -> float:
        """Seconds that a step takes, from steps whose results are thrown away."""
        samples = []
        for _ in range(MEASURED_STEPS):
            start = time.perf_counter()
            jax.block_until_ready(self.step(self.state, batch, np.float32(0.0)))
            samples.append(time.perf_counter() - start)
        return statistics.median(samples)

    def kernel_calls(self, target: str) -> int:
        """How often the compiled step calls the kernels behind a custom call's target."""
        return str(self.step.as_text()).count(f'custom_call_target="{target}"')

    @property
    def tokens_per_second(self) -> float:
        return self.tokens_per_step / statistics.median(self.seconds)

    @property
    def first_loss(self) -> float:
        """Before anything was learned."""
        return self.losses[0]

    @property
    def last_loss(self) -> float:
        """Mean over the last twentieth of the steps, which smooths what single batches do."""
        return statistics.fmean(self.losses[-max(1, len(self.losses) // 20) :])

    def trained_model(self) -> GPT:
        """The model with the parameters of now."""
        nnx.update(self.model, self.state[0])
        return self.model


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up to `peak` over a tenth of the steps, then a cosine down to a tenth of it."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))


def training_batches(corpus: text.Corpus, recipe: Recipe, seed: int) -> Iterator[Batch]:
    """The batches that every trainer sees, in order."""
    return text.batches(
        corpus.train, size=recipe.batch_size, length=recipe.model.context, seed=seed
    )


def held_out_batches(corpus: text.Corpus, recipe: Recipe) -> list[Batch]:
    """A fixed sample of the text that no trainer learns from."""
    stream = text.batches(
        corpus.held_out, size=recipe.batch_size, length=recipe.model.context, seed=0
    )
    return [next(stream) for _ in range(HELD_OUT_BATCHES)]


def steps_within(seconds: float, trainers: Sequence[Trainer], batch: Batch, limit: int) -> int:
    """How many steps all trainers can take together in `seconds`, by a measurement."""
    each = sum(trainer.measure(batch) for trainer in trainers)
    return max(MIN_STEPS, min(limit, int(seconds / each)))


def train_together(
    trainers: Sequence[tuple[Trainer, int]],
    batches: Iterator[Batch],
    rates: Sequence[float],
    on_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Train in lockstep, each trainer for its own number of steps; `on_step` hears of each."""
    for step, rate in enumerate(rates):
        batch = next(batches)
        for trainer, steps in trainers:
            if step < steps:
                trainer.train(batch, rate)
        on_step(step)


def generate(model: GPT, prompt: str, *, length: int, seed: int, temperature: float = 0.7) -> str:
    """Continue a prompt by `length` bytes, drawn from the model's distribution.

    The text so far stands at the start of a window of fixed length, so that one program
    serves every byte; what follows it cannot matter to a causal model.
    """
    graph, parameters = nnx.split(model, nnx.Param)
    tokens = text.encode(prompt)
    window = np.zeros((1, len(tokens) + length), np.int32)
    window[0, : len(tokens)] = tokens

    @jax.jit
    def logits_at(parameters: Parameters, window: jax.Array, position: jax.Array) -> jax.Array:
        return nnx.merge(graph, parameters)(window)[0, position]

    generator = np.random.default_rng(seed)
    for position in range(len(tokens), window.shape[1]):
        logits = np.asarray(logits_at(parameters, window, np.int32(position - 1)), np.float64)
        noise = generator.gumbel(size=logits.shape)
        window[0, position] = np.argmax(logits / temperature + noise)
    return text.decode(window[0].astype(np.uint8))
