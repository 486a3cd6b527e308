"""Training in lockstep: losses fall, and depend on the seed and the attention alone."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx

import jax_fa4.flax
from jax_fa4.demo import agreement, experiment, text, training
from jax_fa4.demo.console import make_console
from jax_fa4.demo.experiment import expected_calls
from jax_fa4.demo.model import GPT
from jax_fa4.demo.training import Recipe, Trainer

STEPS = 30


REORDERED = ("reversed", "rotated", "shuffled")


def scaled(factor: float):
    """Flax's attention with its softmax scale off by a factor."""

    def attend(query, key, value, **kwargs):
        return nnx.dot_product_attention(query * factor, key, value, **kwargs)

    return attend


def acausal(query, key, value, **kwargs):
    """Flax's attention that sees the future."""
    return nnx.dot_product_attention(query, key, value, **{**kwargs, "is_causal": False})


@pytest.fixture(scope="session")
def trainers(tiny) -> dict[str, Trainer]:
    """A trainer for each attention function, not trained yet. Compiling them is what takes long."""
    attention_fns = {
        "jax_fa4": jax_fa4.flax.attention_fn,
        "Flax": nnx.dot_product_attention,
        "scale 1% off": scaled(1.01),
        "acausal": acausal,
    }
    for name, make_order in zip(REORDERED, agreement.ORDERS, strict=True):
        attention_fns[name] = agreement.reordered_attention(make_order(tiny.model.context))
    return {name: Trainer.build(name, fn, tiny, seed=0) for name, fn in attention_fns.items()}


def trained(trainer: Trainer, recipe: Recipe, seed: int = 0) -> Trainer:
    """A trainer after thirty steps; `trainer` itself stays as it is."""
    copy = dataclasses.replace(trainer, losses=[], seconds=[])
    rates = [training.learning_rate(i, STEPS, recipe.learning_rate) for i in range(STEPS)]
    batches = training.training_batches(text.load(), recipe, seed)
    training.train_together([(copy, STEPS)], batches, rates)
    return copy


@pytest.fixture(scope="session")
def curves(trainers, tiny) -> dict[str, list[float]]:
    """The losses of thirty steps, for each trainer."""
    return {name: trained(trainer, tiny).losses for name, trainer in trainers.items()}


def agrees(curves: dict[str, list[float]], name: str) -> bool:
    reordered = [curves[order] for order in REORDERED]
    return all(found.agrees for found in agreement.compare(curves[name], curves["Flax"], reordered))


def test_the_loss_falls(curves):
    losses = curves["jax_fa4"]
    assert abs(losses[0] - np.log(text.VOCABULARY)) < 0.5
    assert np.mean(losses[-5:]) < losses[0] - 1.5


def test_the_curves_of_one_seed_agree(curves):
    assert agrees(curves, "jax_fa4")


@pytest.mark.parametrize("name", ["scale 1% off", "acausal"])
def test_a_wrong_attention_does_not_agree(curves, name):
    assert not agrees(curves, name)


def test_one_order_of_batches_gives_one_curve_and_another_another(trainers, curves, tiny):
    assert trained(trainers["Flax"], tiny).losses == curves["Flax"]
    assert trained(trainers["Flax"], tiny, seed=1).losses != curves["Flax"]


def test_the_seed_decides_the_parameters(trainers, tiny):
    def parameters(seed: int) -> np.ndarray:
        model = GPT(tiny.model, nnx.dot_product_attention, rngs=nnx.Rngs(seed))
        return np.asarray(model.embed.embedding[...])

    first = trainers["jax_fa4"].model.embed.embedding[...]
    np.testing.assert_array_equal(parameters(0), first)
    assert (parameters(1) != first).any()


def test_evaluating_and_measuring_change_nothing(trainers, tiny):
    trainer = trainers["Flax"]
    before = jax.tree.map(np.array, trainer.state[0])
    batches = training.held_out_batches(text.load(), tiny)
    assert trainer.evaluate(batches) > 0
    assert trainer.measure(batches[0]) > 0
    jax.tree.map(np.testing.assert_array_equal, before, trainer.state[0])
    assert trainer.losses == []


def test_steps_fill_the_time_within_their_limits():
    trainers = [
        SimpleNamespace(measure=lambda batch: 0.25),
        SimpleNamespace(measure=lambda b: 0.75),
    ]
    assert training.steps_within(100, trainers, None, limit=1000) == 100
    assert training.steps_within(100, trainers, None, limit=70) == 70
    assert training.steps_within(1, trainers, None, limit=1000) == training.MIN_STEPS


def test_the_learning_rate_warms_up_and_decays():
    rates = [training.learning_rate(i, 100, 1.0) for i in range(100)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)


@pytest.mark.usefixtures("hopper")
def test_a_gpu_trains_through_one_kernel_call_a_layer():
    config = dataclasses.replace(training.LARGE.model, layers=2)
    recipe = dataclasses.replace(training.LARGE, model=config)
    model = GPT(config, jax_fa4.flax.attention_fn, rngs=nnx.Rngs(0))
    step, arguments = training.make_step(model, recipe)
    lowered = jax.jit(step).trace(*arguments).lower(lowering_platforms=("cuda",))
    for target in (training.FORWARD_TARGET, training.BACKWARD_TARGET):
        assert lowered.as_text().count(f"@{target}(") == 2
        assert expected_calls(recipe)[target] == 2


def test_kernel_calls_are_counted_in_the_compiled_text():
    line = '%a = (bf16[1], f32[1]) custom-call(%q), custom_call_target="jax_fa4_fwd_v1"\n'
    other = '%b = f32[1] custom-call(%q), custom_call_target="jax_fa4_bwd_preprocess_v1"\n'
    step = SimpleNamespace(as_text=lambda: line + other + line)
    trainer = Trainer("test", None, step, None, 1)
    assert trainer.kernel_calls(training.FORWARD_TARGET) == 2
    assert trainer.kernel_calls(training.BACKWARD_TARGET) == 0


def test_too_few_kernel_calls_fail_the_verdict(capsys, monkeypatch):
    """Of either kernel: a gradient on the portable path would be slow, and right."""
    expected = {training.FORWARD_TARGET: 2, training.BACKWARD_TARGET: 2}
    monkeypatch.setattr(experiment, "expected_calls", lambda recipe: expected)
    line = f'custom_call_target="{training.FORWARD_TARGET}"\n'
    trainer = Trainer("test", None, SimpleNamespace(as_text=lambda: 2 * line), None, 1)
    (reason,) = experiment.check_kernel_calls(make_console(), trainer, None)
    assert reason == f"the training step calls {training.BACKWARD_TARGET} 0 times, not 2"
    assert f"2 calls of {training.FORWARD_TARGET} (2 expected)" in capsys.readouterr().out


def test_cudnn_is_compared_where_our_kernels_run(capsys, monkeypatch, tiny):
    assert experiment.build_cudnn(make_console(), tiny, seed=0) == []
    monkeypatch.setattr(experiment, "expected_calls", lambda recipe: {training.FORWARD_TARGET: 1})
    assert experiment.build_cudnn(make_console(), tiny, seed=0) == []
    assert "cuDNN            does not run here: " in capsys.readouterr().out
    ours, peer = (SimpleNamespace(name=n, tokens_per_second=s) for n, s in (("a", 3), ("b", 2)))
    experiment.show_speed(make_console(), ours, [peer])
    assert "1.50 times as many tokens a second as b" in capsys.readouterr().out


def test_a_sample_continues_the_prompt_and_follows_the_seed(trainers):
    model = trainers["Flax"].model
    sample = training.generate(model, "def f(", length=20, seed=0)
    assert sample.startswith("def f(")
    assert sample == training.generate(model, "def f(", length=20, seed=0)
    assert sample != training.generate(model, "def f(", length=20, seed=1)
