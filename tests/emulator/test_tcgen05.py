"""Products of the fifth-generation tensor cores, and the memory of their own."""

import numpy as np
import pytest
from tensor_kernels import HEADER
from tensor_operands import instruction_descriptor, run_product


@pytest.mark.parametrize("types", [("f16", "f16"), ("bf16", "bf16"), ("f16", "bf16")])
@pytest.mark.parametrize("swizzle", [0, 32, 64, 128])
@pytest.mark.parametrize("rows_contiguous", [(False, False), (False, True), (True, True)])
def test_operands_lie_as_their_descriptors_say(run_ptx, types, swizzle, rows_contiguous):
    out, expected = run_product(
        run_ptx, types=types, rows_contiguous=rows_contiguous, swizzles=(swizzle, swizzle)
    )
    np.testing.assert_array_equal(out, 2 * expected)


@pytest.mark.parametrize("types", [("e4m3", "e4m3"), ("e5m2", "e4m3"), ("e4m3", "e5m2")])
@pytest.mark.parametrize("exact", [True, False])
def test_eight_bit_elements(run_ptx, types, exact):
    out, expected = run_product(run_ptx, types=types, how={"exact": exact})
    np.testing.assert_array_equal(out, 2 * expected)


@pytest.mark.parametrize("columns", [32, 96, 256])
def test_widths(run_ptx, columns):
    out, expected = run_product(run_ptx, columns=columns, swizzles=(64, 32))
    np.testing.assert_array_equal(out, 2 * expected)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("types", ["bf16", "e4m3"])
def test_a_in_tensor_memory(run_ptx, group, types):
    out, expected = run_product(run_ptx, group=group, types=(types, types), a_in_tensor_memory=True)
    np.testing.assert_array_equal(out, 2 * expected)


@pytest.mark.parametrize("completion", ["earliest", "latest", "random"])
@pytest.mark.parametrize("rows_contiguous", [(False, False), (False, True)])
def test_pair_of_ctas(run_ptx, completion, rows_contiguous):
    out, expected = run_product(
        run_ptx,
        group=2,
        columns=128,
        rows_contiguous=rows_contiguous,
        how={"completion": completion},
    )
    np.testing.assert_array_equal(out, 2 * expected)


def test_negated_and_not_accumulated(run_ptx):
    out, expected = run_product(run_ptx, negate=(1, 0), twice=0)
    np.testing.assert_array_equal(out, -expected)
    out, expected = run_product(run_ptx, negate=(1, 1), twice=2)  # 2: D starts anew
    np.testing.assert_array_equal(out, expected)


def test_lanes_that_are_kept(run_ptx):
    out, expected = run_product(run_ptx, keep=0x80000005)
    expected = 2 * expected
    for lane in (0, 2, 31):
        expected[lane] /= 2
    np.testing.assert_array_equal(out, expected)


def test_product_without_commit_is_a_deadlock(run_ptx, finding):
    with pytest.raises(finding, match="deadlock"):
        run_product(run_ptx, commit="")


def test_reading_before_the_commit_arrives_is_found(run_ptx, finding):
    with pytest.raises(finding, match="race: an asynchronous read of tensor memory"):
        run_product(
            run_ptx,
            commit="mbarrier.arrive.shared.b64 _, [done];",
            how={"completion": "latest"},
        )


def test_shapes_that_do_not_exist(run_ptx, finding):
    with pytest.raises(finding, match="descriptor: M = 192, N = 64 for 1 CTAs"):
        run_product(run_ptx, shape=instruction_descriptor(192, 64, 1, 1))


@pytest.mark.parametrize(("group", "columns"), [(1, 72), (2, 48)])
def test_eight_bit_columns_come_in_sixteens(run_ptx, finding, group, columns):
    """Where they are contiguous: Table 52 of the manual."""
    shape = instruction_descriptor(128 * group, columns, 0, 0, transposed=(0, 1))
    types = {"types": ("e4m3", "e4m3"), "group": group}
    with pytest.raises(finding, match=f"N = {columns} for {group} CTAs"):
        run_product(run_ptx, shape=shape, **types)


MEMORY = (
    HEADER
    + """
.visible .entry memory(.param .u64 out)
.reqntid 128, 1, 1
{{
  .shared .align 4 .b8 columns[4];
  .reg .pred p, first;
  .reg .b32 tid, warp, d, lane, v<64>;
  .reg .b64 to, offset;
  mov.u32 tid, %tid.x;
  shr.u32 warp, tid, 5;
  setp.eq.u32 first, warp, 0;
  ld.param.u64 to, [out];
  mul.wide.u32 offset, tid, 64;
  add.u64 to, to, offset;
  @first tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [columns], {count};
  bar.sync 0;
  ld.shared.b32 d, [columns];
  shl.b32 lane, warp, 21;
  add.u32 lane, lane, d;
  {body}
  tcgen05.fence::before_thread_sync;
  bar.sync 0;
  {end}
  ret;
}}
"""
)
DEALLOC = "@first tcgen05.dealloc.cta_group::1.sync.aligned.b32 d, {count};"
SET = "\n".join(f"  mad.lo.u32 v{i}, tid, 100, {i};" for i in range(16))
SIXTEEN = ", ".join(f"v{i}" for i in range(16))
AFTER = ", ".join(f"v{i}" for i in range(16, 32))
STORE = f"{SET}\n  tcgen05.st.sync.aligned.32x32b.x16.b32 [lane+8], {{{SIXTEEN}}};\n"
WAIT = "  tcgen05.wait::st.sync.aligned;\n"
LOAD = f"  tcgen05.ld.sync.aligned.{{shape}} {{{{{AFTER}}}}}, [lane+{{column}}];\n"
OUT = "  tcgen05.wait::ld.sync.aligned;\n" + "\n".join(
    f"  st.global.b32 [to+{4 * (i - 16)}], v{i};" for i in range(16, 32)
)


def run_memory(run, body, *, count=32, end=None, **how):
    out = np.full((128, 16), -1, np.int32)
    text = MEMORY.format(
        body=body, count=count, end=DEALLOC.format(count=32) if end is None else end
    )
    run(text, out, block=(128, 1, 1), **how)
    return out


def load(shape="32x32b.x16.b32", column=8):
    return LOAD.format(shape=shape, column=column)


@pytest.mark.parametrize("completion", ["earliest", "latest", "random"])
def test_what_is_stored_is_loaded(run_ptx, completion):
    out = run_memory(run_ptx, STORE + WAIT + load() + OUT, completion=completion)
    np.testing.assert_array_equal(out, np.arange(128)[:, None] * 100 + np.arange(16))


@pytest.mark.parametrize(
    ("shape", "lane", "column"),
    [
        ("16x64b.x16", lambda t, r: t // 4 + 8 * (t % 2), lambda t, r: t // 2 % 2 + 2 * r),
        ("16x128b.x8", lambda t, r: t // 4 + 8 * (r % 2), lambda t, r: t % 4 + 4 * (r // 2)),
        (
            "16x256b.x4",
            lambda t, r: t // 4 + 8 * (r // 2 % 2),
            lambda t, r: 2 * (t % 4) + r % 2 + 8 * (r // 4),
        ),
    ],
)
def test_shapes_of_sixteen_lanes(run_ptx, shape, lane, column):
    wide = STORE + STORE.replace("lane+8", "lane+24").replace(", 100, ", ", 100, 16+")
    wide = wide.replace("16+0", "16")
    for i in range(1, 16):
        wide = wide.replace(f"16+{i};", f"{16 + i};")
    out = run_memory(
        run_ptx,
        wide + WAIT + load(shape + ".b32") + OUT,
        count=64,
        end=DEALLOC.format(count=64),
    )
    thread, register = np.arange(128)[:, None], np.arange(16)[None]
    row = thread // 32 * 32 + lane(thread % 32, register)
    np.testing.assert_array_equal(out, row * 100 + column(thread % 32, register))


@pytest.mark.parametrize(
    ("body", "end", "message"),
    [
        (load() + OUT, None, r"uninitialised: a read of tensor memory lane \d+, column 8"),
        (STORE + load() + OUT, None, "race: .* read of tensor memory.*missing: a tcgen05.wait::st"),
        (STORE + WAIT + load(column=24), None, "which is not allocated"),
        (STORE + WAIT + load(column=9), None, "uninitialised.*column 24"),
        ("  add.u32 lane, lane, 0x200000;\n" + STORE, None, "reaches lanes"),
        (STORE + WAIT, "", "unfinished: the CTA exits with 32 columns"),
        (STORE + WAIT, DEALLOC.format(count=64), "64 columns of an allocation of 32"),
        (
            STORE + WAIT,
            DEALLOC.format(count=32) + "bar.sync 0;" + load(),
            "tensor-memory: an access to column 8, which is not allocated",
        ),
        (
            "@first tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [columns], 64;",
            None,
            "sizes must not grow",
        ),
        (
            "@first tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;"
            "@first tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [columns], 32;",
            None,
            "after relinquish_alloc_permit",
        ),
    ],
)
def test_misuse_is_found(run_ptx, finding, body, end, message):
    with pytest.raises(finding, match=message):
        run_memory(run_ptx, body, end=end, completion="latest")


def test_allocation_waits_for_columns(run_ptx, finding):
    body = "@first tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [columns], 512;"
    with pytest.raises(finding, match=r"deadlock[^\n]*\n.*waits for 512 columns"):
        run_memory(run_ptx, body, count=512, end="")
