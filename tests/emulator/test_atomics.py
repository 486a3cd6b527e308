"""atom and red on cells of their own and on one cell, in global and in shared memory."""

from functools import reduce

import numpy as np
import pytest
import scalar_model as model

KERNEL = """.version 8.6
.target sm_90a
.address_size 64

.shared .align 8 .b8 memory[1024];

// old = cells, cells = cells op values, a cell a thread; then all threads on one cell.
.visible .entry kernel(.param .u64 old, .param .u64 cells, .param .u64 values, .param .u64 one)
{{
  .reg .pred leader;
  .reg .b32 tid, at, a32, b32, c32;
  .reg .b64 offset, to, from, mine, sum, a64, b64, c64;
  mov.u32 tid, %tid.x;
  setp.eq.u32 leader, tid, 0;
  mul.wide.u32 offset, tid, {bytes};
  ld.param.u64 to, [old];
  add.u64 to, to, offset;
  ld.param.u64 mine, [cells];
  add.u64 mine, mine, offset;
  ld.param.u64 from, [values];
  add.u64 from, from, offset;
  ld.param.u64 sum, [one];
  ld.global.b{bits} b{bits}, [from];
  ld.global.b{bits} c{bits}, [mine];
  mov.u32 at, memory;
  mad.lo.u32 at, tid, {bytes}, at;
  st.shared.b{bits} [at], c{bits};
  atom.{space}.{op} a{bits}, {cell}, b{bits}{swap};
  st.global.b{bits} [to], a{bits};
  {copy}
  bar.sync 0;
  {red}
  ret;
}}
"""

OPERATIONS = {
    "add": lambda a, b: a + b,
    "min": min,
    "max": max,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
}
CASES = [
    *[(op, kind) for kind in ("s32", "u32", "u64") for op in ("add", "min", "max")],
    *[(op, "s64") for op in ("min", "max")],
    *[(op, kind) for kind in ("b32", "b64") for op in ("and", "or", "xor", "exch", "cas")],
    ("add", "f32"),
]


def applied(op, kind, cell, value):
    """The cell after the operation, as a bit pattern."""
    if kind == "f32":
        return model.add(cell, value)
    if op == "exch":
        return value
    if op == "cas":
        return cell ^ 0x55 if cell == value else cell
    signed = "s" + kind[1:] if kind[0] == "s" else "u" + kind[1:]
    result = OPERATIONS[op](model.wrap(cell, signed), model.wrap(value, signed))
    return result & (1 << int(kind[1:])) - 1


@pytest.mark.parametrize("space", ["global", "shared"])
@pytest.mark.parametrize(("op", "kind"), CASES)
def test_atomic(run_ptx, op, kind, space):
    bits = int(kind[1:])
    dtype = np.dtype(f"u{bits // 8}")
    rng = np.random.default_rng(7)
    cells = rng.integers(0, 2**bits, 64, dtype)
    values = rng.integers(0, 2**bits, 64, dtype)
    if kind == "f32":
        cells, values = (x.view(np.uint32) for x in rng.normal(size=(2, 64)).astype(np.float32))
    values[::3] = cells[::3]  # cas finds some of them
    old, one = np.zeros_like(cells), cells[:1].copy()
    address = "[mine]" if space == "global" else "[at]"
    order = OPERATIONS.get(op) is not None and kind != "f32"  # no order of threads shows
    text = KERNEL.format(
        bytes=bits // 8,
        bits=bits,
        space=space,
        op=f"{op}.{kind}",
        cell=address,
        swap=f", c{bits}" if op == "cas" else "",
        copy=""
        if space == "global"
        else f"ld.shared.b{bits} a{bits}, [at];\n  st.global.b{bits} [mine], a{bits};",
        red=f"red.global.{op}.{kind} [sum], b{bits};" if order else "",
    )
    if op == "cas":  # what it writes where it finds the value
        text = text.replace(
            f"  atom.{space}", f"  xor.b{bits} c{bits}, c{bits}, 0x55;\n  atom.{space}"
        )
    expected = [applied(op, kind, int(a), int(b)) for a, b in zip(cells, values, strict=True)]
    total = reduce(lambda a, b: applied(op, kind, a, b), values.tolist(), int(one[0]))
    before = cells.copy()
    run_ptx(text, old, cells, values, one, block=(64, 1, 1))
    np.testing.assert_array_equal(old, before)
    np.testing.assert_array_equal(cells, np.array(expected, dtype))
    if order:
        assert int(one[0]) == total


VECTOR = """.version 8.6
.target sm_90a
.address_size 64

// sums += values, {elements} neighbours a thread, twice.
.visible .entry kernel(.param .u64 sums, .param .u64 values)
{{
  .reg .b32 tid;
  .reg .f32 v<4>;
  .reg .b64 offset, to, from;
  mov.u32 tid, %tid.x;
  mul.wide.u32 offset, tid, {bytes};
  ld.param.u64 to, [sums];
  add.u64 to, to, offset;
  ld.param.u64 from, [values];
  add.u64 from, from, offset;
  ld.global.v{elements}.f32 {registers}, [from];
  red.relaxed.gpu.global.add.v{elements}.f32 [to], {registers};
  red.global.add.v{elements}.f32 [to], {registers};
  ret;
}}
"""


@pytest.mark.parametrize("elements", [2, 4])
def test_sum_of_vectors(run_ptx, elements):
    registers = "{" + ", ".join(f"v{i}" for i in range(elements)) + "}"
    text = VECTOR.format(elements=elements, bytes=4 * elements, registers=registers)
    rng = np.random.default_rng(9)
    sums, values = rng.normal(size=(2, 64 * elements)).astype(np.float32)
    expected = (sums + values) + values
    run_ptx(text, sums, values, block=(64, 1, 1))
    np.testing.assert_array_equal(sums, expected)
