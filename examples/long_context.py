r"""Train on sequences that no device holds whole: a transformer over a (data, context) mesh.

    python examples/long_context.py                       # 8 fake CPU devices, seconds
    python examples/long_context.py --length 262144 --batch 1 --data 1 --width 1024 --heads 8 \
        --dtype bfloat16                                  # on the GPUs that there are

The task needs the whole context. Somewhere in each sequence of filler stands one special token,
and every position after it must say which one it was; most of them are on other devices.

What is particular to context parallelism is marked (1) to (4) below; all else is plain JAX that
XLA shards by itself. On several hosts, call jax.distributed.initialize() first.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("PJRT_NPROC", "32")  # threads in which fake devices wait for each other

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jax_fa4

SPECIAL, VOCABULARY = 8, 32  # tokens 0 .. 7 are special, 8 .. 31 are filler
LAYOUT = "zigzag"
ROWS = PartitionSpec("data", "context")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    result.add_argument("--length", type=int, default=256)
    result.add_argument("--batch", type=int, default=32)
    result.add_argument("--width", type=int, default=32)
    result.add_argument("--heads", type=int, default=1)
    result.add_argument("--layers", type=int, default=2)
    result.add_argument("--steps", type=int, default=80)
    result.add_argument("--data", type=int, default=2, help="devices over the batch; others: rows")
    result.add_argument("--dtype", default="float32", help="bfloat16 for the kernels")
    return result


def batches(options: argparse.Namespace, mesh: Mesh):
    """(tokens, labels, positions) on the mesh, without end; label -1 asks for nothing."""
    generator = np.random.default_rng(0)
    shards = mesh.shape["context"]
    shape = options.batch, options.length
    while True:
        tokens = generator.integers(SPECIAL, VOCABULARY, shape)
        place = generator.integers(0, options.length // 4, (options.batch, 1))
        answer = generator.integers(0, SPECIAL, (options.batch, 1))
        columns = np.broadcast_to(np.arange(options.length), shape)
        tokens = np.where(columns == place, answer, tokens)
        labels = np.where(columns > place, answer, -1)
        # (1) Rows go into the layout once, with all that belongs to them.
        laid = [jax_fa4.to_layout(x, LAYOUT, shards) for x in (tokens, labels, columns)]
        yield jax.device_put(laid, NamedSharding(mesh, ROWS))


def parameters(options: argparse.Namespace) -> dict:
    """Weights of the model, by name; those of the layers stacked."""
    width, layers = options.width, options.layers
    shapes = {
        "embed": (VOCABULARY, width),
        "qkv": (layers, width, 3 * width),
        "out": (layers, width, width),
        "up": (layers, width, 4 * width),
        "down": (layers, 4 * width, width),
    }
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return {
        name: jax.random.normal(key, shape) * shape[-2] ** -0.5
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def norm(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt((x.astype(jnp.float32) ** 2).mean(-1, keepdims=True) + 1e-6).astype(
        x.dtype
    )


def rotary(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Rotary embedding; the positions are the sequence's, not those of the rows as they lie."""
    half = x.shape[-1] // 2
    frequencies = 10_000.0 ** (-jnp.arange(half) / half)
    angles = positions[:, :, None, None] * frequencies[None, None, None, :]
    cos, sin = jnp.cos(angles).astype(x.dtype), jnp.sin(angles).astype(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


def forward(weights: dict, tokens: jax.Array, positions: jax.Array, *, options, mesh) -> jax.Array:
    """Logits (B, S, SPECIAL) of every position, float32."""
    dtype = jnp.dtype(options.dtype)
    heads = (*tokens.shape, options.heads, options.width // options.heads)
    # --8<-- [start:attention]
    # (2) Attention over the whole sequence, each device with its rows.
    attention = functools.partial(
        jax_fa4.context_parallel_attention, mesh=mesh, spec=ROWS, layout=LAYOUT, causal=True
    )

    def layer(x: jax.Array, w: dict) -> tuple[jax.Array, None]:
        w = {name: array.astype(dtype) for name, array in w.items()}
        q, k, v = (a.reshape(heads) for a in jnp.split(norm(x) @ w["qkv"], 3, -1))
        out = attention(rotary(q, positions), rotary(k, positions), v)
        x = x + out.reshape(x.shape) @ w["out"]
        return x + jax.nn.gelu(norm(x) @ w["up"]) @ w["down"], None

    # --8<-- [end:attention]
    # (3) Keep the ring's out and lse, compute the rest again: the ring then runs forward once.
    saved = jax.checkpoint_policies.save_only_these_names(*jax_fa4.CHECKPOINT_NAMES)
    x = weights["embed"].astype(dtype)[tokens]
    layers = {name: weights[name] for name in ("qkv", "out", "up", "down")}
    x, _ = jax.lax.scan(jax.checkpoint(layer, policy=saved), x, layers)
    return (norm(x) @ weights["embed"].astype(dtype).T)[..., :SPECIAL].astype(jnp.float32)


def loss(weights: dict, batch, *, options, mesh) -> jax.Array:
    """Mean cross entropy where there is a label: a sum over rows, in whatever order they lie."""
    tokens, labels, positions = batch
    logits = forward(weights, tokens, positions, options=options, mesh=mesh)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None].clip(0), -1)[..., 0]
    asked = labels >= 0
    return -(chosen * asked).sum() / asked.sum()


def adam(weights, gradient, moments, step, rate=3e-3):
    """One step of Adam."""
    first, second = moments
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
    second = jax.tree.map(lambda m, g: 0.99 * m + 0.01 * g**2, second, gradient)

    def move(w, m, s):
        return w - rate * (m / (1 - 0.9**step)) / (jnp.sqrt(s / (1 - 0.99**step)) + 1e-8)

    return jax.tree.map(move, weights, first, second), (first, second)


def main(argv: list[str] | None = None) -> list[float]:
    """Train; the losses."""
    options = parser().parse_args(argv)
    devices = jax.device_count()
    # (4) One mesh over all devices, of all hosts.
    shape = options.data, devices // options.data
    mesh = jax.make_mesh(shape, ("data", "context"), axis_types=(AxisType.Auto,) * 2)
    print(f"{devices} devices as {dict(mesh.shape)}; {options.length // shape[1]} rows a device")

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def train(weights, moments, batch, step):
        value, gradient = jax.value_and_grad(loss)(weights, batch, options=options, mesh=mesh)
        return *adam(weights, gradient, moments, step), value

    weights = jax.device_put(parameters(options), NamedSharding(mesh, PartitionSpec()))
    zeros = jax.tree.map(jnp.zeros_like, weights)
    moments = zeros, jax.tree.map(jnp.zeros_like, weights)
    losses: list[float] = []
    start = time.perf_counter()
    for step, batch in zip(range(1, options.steps + 1), batches(options, mesh), strict=False):
        weights, moments, value = train(weights, moments, batch, jnp.float32(step))
        losses.append(float(value))
        if step % 10 == 0 or step == 1:
            seconds = time.perf_counter() - start
            print(f"step {step:4}  loss {losses[-1]:.3f}  {seconds:5.1f} s", flush=True)
    return losses


if __name__ == "__main__":
    losses = main()
    sys.exit(0 if losses[-1] < losses[0] else "the loss did not fall")
