"""PTX of one tcgen05.mma of any form, and where its matrices lie in tensor memory."""

from dataclasses import dataclass

import numpy as np
from matrix_model import FORMATS
from tensor_kernels import (
    BYTES,
    CELLS_FROM_GLOBAL,
    CELLS_TO_GLOBAL,
    COMMITS,
    COPY_WORDS,
    DESCRIPTORS,
    HEADER,
)
from tensor_operands import instruction_descriptor, lay_out

KIND = {"f16": "f16", "bf16": "f16", "tf32": "tf32", "e4m3": "f8f6f4", "e5m2": "f8f6f4"}
TYPE = {"f16": 0, "bf16": 1, "tf32": 2, "e4m3": 0, "e5m2": 1}
SIZE = {"f16": 2, "bf16": 2, "tf32": 4, "e4m3": 1, "e5m2": 1}
A_COLUMN = 256  # where A begins, if it lies in tensor memory

KERNEL = (
    HEADER
    + """
// {form}: c and a_cells are tensor memory before, d after, (CTA, lane, column).
.visible .entry form(
  .param .u64 d, .param .u64 c, .param .u64 a_cells, .param .u64 a, .param .u64 b,
  .param .u64 a_layout, .param .u64 b_layout, .param .u32 descriptor, .param .u64 keep)
.reqntid 128, 1, 1
{{
  .shared .align 1024 .b8 image_a[{bytes}];
  .shared .align 1024 .b8 image_b[{bytes}];
  .shared .align 8 .b8 done[8];
  .shared .align 4 .b8 columns[4];
  .reg .pred p, first, leader;
  .reg .b32 tid, rank, warp, i, at, word, base, row, cell, shape, k<8>, v<8>;
  .reg .b64 from, to, offset, a_desc, b_desc, start;
  mov.u32 tid, %tid.x;
  mov.u32 rank, %cluster_ctarank;
  shr.u32 warp, tid, 5;
  setp.eq.u32 first, warp, 0;
  setp.eq.u32 leader, tid, 0;
  shl.b32 i, tid, 2;
COPY:
  mul.wide.u32 offset, rank, {bytes};
  cvt.u64.u32 from, i;
  add.u64 offset, offset, from;
"""
    + COPY_WORDS
    + """
  @leader mbarrier.init.shared.b64 [done], 1;
  fence.mbarrier_init.release.cluster;
  fence.proxy.async.shared::cta;
  @!first bra ALLOCATED;
  tcgen05.alloc.cta_group::{group}.sync.aligned.shared::cta.b32 [columns], 512;
  tcgen05.relinquish_alloc_permit.cta_group::{group}.sync.aligned;
ALLOCATED:
  tcgen05.fence::before_thread_sync;
  bar.sync 0;
  tcgen05.fence::after_thread_sync;
  ld.shared.b32 base, [columns];
  shl.b32 row, warp, 21;
  add.u32 row, row, base;
  shl.b32 at, rank, 7;
  add.u32 at, at, tid;
  ld.param.u64 from, [a_cells];
  mul.wide.u32 offset, at, 32;
  add.u64 from, from, offset;
  add.u32 cell, row, {a_column};
"""
    + CELLS_FROM_GLOBAL
    + """
  ld.param.u64 from, [c];
  mul.wide.u32 offset, at, {pitch};
  add.u64 from, from, offset;
  ld.param.u64 to, [d];
  add.u64 to, to, offset;
  mov.b32 i, 0;
  mov.b32 cell, row;
BEFORE:
"""
    + CELLS_FROM_GLOBAL
    + """
  add.u64 from, from, 32;
  add.u32 cell, cell, 8;
  add.u32 i, i, 8;
  setp.lt.u32 p, i, {columns};
  @p bra BEFORE;
  tcgen05.wait::st.sync.aligned;
  tcgen05.fence::before_thread_sync;
  barrier.cluster.arrive;
  barrier.cluster.wait;
  tcgen05.fence::after_thread_sync;
  setp.eq.u32 p, rank, 0;
  and.pred p, p, leader;
  @!p bra ISSUED;
"""
    + DESCRIPTORS
    + """
  ld.param.u32 shape, [descriptor];
  ld.param.u64 from, [keep];
  ld.global.v4.b32 {{k0, k1, k2, k3}}, [from];
  ld.global.v4.b32 {{k4, k5, k6, k7}}, [from+16];
  add.u32 at, base, {base_lane};
  tcgen05.mma.cta_group::{group}.kind::{kind} [at], {a}, b_desc, shape{keep}, {enable}{scale};
  {commit}
ISSUED:
  mbarrier.try_wait.parity.shared.b64 p, [done], 0;
  @!p bra ISSUED;
  tcgen05.fence::after_thread_sync;
  mov.b32 i, 0;
  mov.b32 cell, row;
AFTER:
"""
    + CELLS_TO_GLOBAL
    + """
  add.u64 to, to, 32;
  add.u32 cell, cell, 8;
  add.u32 i, i, 8;
  setp.lt.u32 p, i, {columns};
  @p bra AFTER;
  tcgen05.fence::before_thread_sync;
  barrier.cluster.arrive;
  barrier.cluster.wait;
  tcgen05.fence::after_thread_sync;
  @first tcgen05.dealloc.cta_group::{group}.sync.aligned.b32 base, 512;
  ret;
}}
"""
)


@dataclass(frozen=True)
class Form:
    """One product; `m` and `n` are the pair's where `group` is 2."""

    m: int
    n: int
    a: str = "bf16"
    b: str = "bf16"
    d: str = "f32"
    group: int = 1
    a_in_tensor_memory: bool = False
    rows_contiguous: tuple[bool, bool] = (False, False)
    swizzles: tuple[int, int] = (32, 32)
    negate: tuple[int, int] = (0, 0)
    lane: int = 0  # of D and A, 16 for the upper half of each 32
    keeps: bool = False  # disable-output-lane
    enable: int = 1
    scale: int = 0

    @property
    def k(self):
        return 32 // SIZE[self.a]

    @property
    def rows(self):
        """Of a CTA."""
        return self.m // self.group

    @property
    def folded(self):
        return self.rows == 64 and self.group == 2

    @property
    def columns(self):
        """Of tensor memory, for D."""
        return max(self.n // (2 if self.folded else 1), 8)

    def lanes(self):
        """The lane of each row of a CTA, by the manual's layouts A, B, D and F."""
        row = np.arange(self.rows)
        return self.lane + (row % 16 + 32 * (row // 16) if self.m == 64 else row)

    def cells(self, matrix):
        """Index of D's elements (m, n) in (CTA, lane, column)."""
        row, column = np.indices(matrix)
        cta, row = row // self.rows, row % self.rows
        lane = self.lanes()[row]
        if self.folded:
            return cta, lane + 64 * (column >= self.n // 2), column % (self.n // 2)
        return cta, lane, column

    def text(self):
        keep = ", ".join(f"k{i}" for i in range(4 * self.group))
        return KERNEL.format(
            form=self,
            bytes=BYTES // 2,
            group=self.group,
            a_column=A_COLUMN,
            pitch=4 * self.columns,
            columns=self.columns,
            base_lane=self.lane << 16,
            kind=KIND[self.a],
            a=f"[at+{A_COLUMN}]" if self.a_in_tensor_memory else "a_desc",
            keep=f", {{{keep}}}" if self.keeps else "",
            enable=self.enable,
            scale=f", {self.scale}" if self.scale else "",
            commit=COMMITS[self.group],
        )

    def images(self, a, b):
        """Bytes of both operands for every CTA, and the descriptors without the address."""
        words, images = [], []
        for side, matrix in enumerate((a, b)):
            parts = [
                lay_out(
                    part, rows_contiguous=self.rows_contiguous[side], swizzle=self.swizzles[side]
                )
                for part in np.split(matrix, self.group)
            ]
            images.append(np.concatenate([image[: BYTES // 2] for image, _ in parts]))
            words.append(parts[0][1])
        return images, words

    def run(self, run, a, b, c, keep=(0,) * 8, **how):
        """Tensor memory (CTA, lane, column) after a run on operands of bit patterns.

        `c` is tensor memory before. Where A lies there too, it is in no shared memory.
        """
        (a_image, b_image), (a_word, b_word) = self.images(a, b)
        a_cells = np.full((self.group, 128, 8), 0x7FC07FC0, np.uint32)
        if self.a_in_tensor_memory:
            rows = np.ascontiguousarray(a).view(np.uint32).reshape(self.group, self.rows, 8)
            a_cells[:, self.lanes()] = rows
            a_image[:] = 0xFF
        d = np.zeros_like(c)
        run(
            self.text(),
            d,
            c,
            a_cells,
            a_image,
            b_image,
            a_word,
            b_word,
            instruction_descriptor(
                self.m,
                self.n,
                TYPE[self.a],
                TYPE[self.b],
                negate=self.negate,
                transposed=tuple(map(int, self.rows_contiguous)),
            )
            & np.uint32(0xFFFFFFFF if self.d == "f32" else ~(1 << 4) & 0xFFFFFFFF),
            np.array(keep, np.uint32),
            grid=(self.group, 1, 1),
            block=(128, 1, 1),
            cluster=(self.group, 1, 1),
            **how,
        )
        return d


def formats(form):
    return FORMATS[form.a], FORMATS[form.b]
