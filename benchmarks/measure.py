"""Measure cells: all programs compiled, then every contestant checked and timed in turns."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.cells import Cell
from benchmarks.check import Programs, Reference
from benchmarks.peers import Attend
from jax_fa4.testing import timing

# Distinct inputs of one jitted program. Equal calls would be merged by XLA, and one small
# call would time the host's dispatch (about 40 us) instead of the kernel.
DISTINCT_INPUTS = 4

Inputs = tuple[tuple[jax.Array, ...], ...]
Program = Callable[[Inputs], list[tuple[jax.Array, ...]]]


@dataclass(frozen=True)
class Prepared:
    """A cell and each contestant's compiled program, or why it has none."""

    cell: Cell
    programs: dict[str, Program | Exception]


@dataclass(frozen=True, kw_only=True)
class Result:
    """One contestant in one cell. Without a time, `detail` says why."""

    cell: str
    head_dim: int
    head_dim_v: int
    seqlen: int
    mask: str
    pass_: str
    peer: str
    status: str  # ok, wrong (its time counts for nothing), failed
    detail: str = ""
    milliseconds: float | None = None
    spread: float | None = None
    tflops: float | None = None
    percent_of_peak: float | None = None
    errors: dict[str, float] = dataclasses.field(default_factory=dict)
    bounds: dict[str, float] = dataclasses.field(default_factory=dict)


def make_inputs(cell: Cell, seed: int = 0) -> Inputs:
    """DISTINCT_INPUTS of (q, k, v, cotangent), standard normal, bf16."""
    return _drawn((cell.shape, cell.shape, cell.shape_v, cell.shape_v), seed)


@functools.lru_cache(maxsize=4)  # the lengths of a head dim, drawn once for both masks
def _drawn(shapes: tuple[tuple[int, ...], ...], seed: int) -> Inputs:
    @jax.jit
    def draw(key: jax.Array) -> tuple[jax.Array, ...]:
        keys = jax.random.split(key, len(shapes))
        return tuple(
            jax.random.normal(key, shape, jnp.bfloat16)
            for key, shape in zip(keys, shapes, strict=True)
        )

    keys = jax.random.split(jax.random.key(seed), DISTINCT_INPUTS)
    return jax.block_until_ready(tuple(draw(key) for key in keys))


def program(attend: Attend, cell: Cell) -> Any:
    """One jitted call of `attend` (and its gradient) for each input set."""

    @jax.jit  # traced once for all sets
    def one(q: jax.Array, k: jax.Array, v: jax.Array, g: jax.Array) -> tuple[jax.Array, ...]:
        if not cell.backward:
            return (attend(q, k, v, cell.causal),)
        out, vjp = jax.vjp(lambda q, k, v: attend(q, k, v, cell.causal), q, k, v)
        return (out, *vjp(g))

    return jax.jit(lambda inputs: [one(*arrays) for arrays in inputs])


def _compiled(attend: Attend, cell: Cell) -> Program | Exception:
    qk, v = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in (cell.shape, cell.shape_v))
    one = (qk, qk, v, v)
    try:
        compiled: Program = program(attend, cell).lower((one,) * DISTINCT_INPUTS).compile()
    except Exception as error:  # a contestant may raise anything
        return error
    return compiled


def prepare(cells: Sequence[Cell], contestants: Mapping[str, Attend]) -> list[Prepared]:
    """Compile all that the cells need, on all cores, while nothing is timed."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        programs = [
            {name: pool.submit(_compiled, attend, cell) for name, attend in contestants.items()}
            for cell in cells
        ]
        checks = [
            pool.submit(
                Programs.of, cell.shape, cell.shape_v, "bfloat16", cell.causal, cell.backward
            )
            for cell in cells
        ]
        for check in checks:
            check.result()
        prepared = [
            Prepared(cell, {name: future.result() for name, future in futures.items()})
            for cell, futures in zip(cells, programs, strict=True)
        ]
    for one in prepared:  # nobody fails for being traced beside others
        for name, compiled in one.programs.items():
            if isinstance(compiled, Exception):
                one.programs[name] = _compiled(contestants[name], one.cell)
    return prepared


def measure(prepared: Prepared, *, rounds: int, peak_tflops: float) -> list[Result]:
    """A result for each contestant; one that fails or is wrong does not stop the others."""
    cell = prepared.cell
    inputs = make_inputs(cell)
    references = [Reference(inputs[i], causal=cell.causal, backward=cell.backward) for i in (0, -1)]
    results: dict[str, Result] = {}
    calls: dict[str, Callable[[], Any]] = {}
    executions: dict[str, int] = {}
    for name, compiled in prepared.programs.items():
        try:
            if isinstance(compiled, Exception):
                raise compiled
            call = _bind(compiled, inputs)
            results[name] = _checked(cell, name, call, references)
            executions[name] = timing.calibrate(call)
            calls[name] = call
        except Exception as error:  # a contestant may raise anything
            results[name] = _result(cell, name, status="failed", detail=_first_line(error))
    for name, timed in timing.interleaved(calls, executions, rounds=rounds).items():
        seconds = timed.seconds / DISTINCT_INPUTS
        tflops = cell.flops / seconds / 1e12
        results[name] = dataclasses.replace(
            results[name],
            milliseconds=seconds * 1e3,
            spread=timed.spread,
            tflops=tflops,
            percent_of_peak=100.0 * tflops / peak_tflops,
        )
    return list(results.values())


def matmul_peak(size: int, *, rounds: int) -> float:
    """TFLOP/s of a (size, size) x (size, size) bf16 product, by the same method."""

    @jax.jit
    def draw(key: jax.Array) -> jax.Array:
        return jax.random.normal(key, (size, size), jnp.bfloat16)

    keys = jax.random.split(jax.random.key(1), 2 * DISTINCT_INPUTS)
    matrices = [draw(key) for key in keys]
    pairs = tuple(zip(matrices[::2], matrices[1::2], strict=True))
    multiply = jax.jit(lambda pairs: [a @ b for a, b in pairs])
    call = _bind(multiply, pairs)
    timed = timing.interleaved({"matmul": call}, {"matmul": timing.calibrate(call)}, rounds=rounds)
    return 2.0 * size**3 * DISTINCT_INPUTS / timed["matmul"].seconds / 1e12


def _bind(function: Callable[[Any], Any], argument: Any) -> Callable[[], Any]:
    return lambda: function(argument)


def _checked(
    cell: Cell, name: str, call: Callable[[], Any], references: Sequence[Reference]
) -> Result:
    """Run once and compare the first and the last outputs with their references."""
    outputs = call()
    errors: dict[str, float] = {}
    wrong: list[str] = []
    for reference, output in zip(references, (outputs[0], outputs[-1]), strict=True):
        found = reference.errors(output)
        wrong.append(reference.verdict(found))
        # NaN must win: max() would drop it.
        errors = {k: e if not e <= errors.get(k, 0.0) else errors[k] for k, e in found.items()}
    detail = next(filter(None, wrong), "")
    return dataclasses.replace(
        _result(cell, name, status="wrong" if detail else "ok", detail=detail),
        errors=errors,
        bounds=references[0].bounds,
    )


def _result(cell: Cell, name: str, *, status: str, detail: str) -> Result:
    return Result(
        cell=cell.name,
        head_dim=cell.head_dim,
        head_dim_v=cell.head_dim_v,
        seqlen=cell.seqlen,
        mask=cell.mask,
        pass_=cell.pass_,
        peer=name,
        status=status,
        detail=detail,
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0]}"[:300]
