"""PTX of one warpgroup product of any form, and its operands as a kernel takes them."""

from dataclasses import dataclass

import numpy as np
from matrix_model import FORMATS
from tensor_kernels import BYTES, COPY_WORDS, DESCRIPTORS
from tensor_operands import lay_out

DEPTH = {1: 32, 2: 16, 4: 8}  # by the bytes of an element
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32}
SWIZZLE = {0: 0, 128: 1, 64: 2, 32: 3}

KERNEL = (
    """.version 8.6
.target sm_90a
.address_size 64

// {name}: d = a b + (accumulate ? d : 0); d as each thread holds it, operands as they lie.
.visible .entry kernel(.param .u64 d, .param .u64 a, .param .u64 b,
  .param .u64 a_layout, .param .u64 b_layout, .param .u32 accumulate)
.reqntid 128, 1, 1
{{
  .shared .align 1024 .b8 image_a[{bytes}];
  .shared .align 1024 .b8 image_b[{bytes}];
  .reg .pred p, q;
  .reg .b32 tid, at, i, word, add, d<{count}>, x<4>;
  .reg .b64 from, to, offset, a_desc, b_desc, start;
  mov.u32 tid, %tid.x;
  shl.b32 i, tid, 2;
COPY:
  cvt.u64.u32 offset, i;
"""
    + COPY_WORDS
    + """
  ld.param.u64 from, [a];
  mul.wide.u32 offset, tid, 16;
  add.u64 from, from, offset;
  ld.global.v4.b32 {{x0, x1, x2, x3}}, [from];
  ld.param.u64 to, [d];
  mul.wide.u32 offset, tid, {pitch};
  add.u64 to, to, offset;
  {loads}
"""
    + DESCRIPTORS
    + """
  ld.param.u32 add, [accumulate];
  setp.ne.u32 q, add, 0;
  fence.proxy.async.shared::cta;
  bar.sync 0;
  wgmma.fence.sync.aligned;
  wgmma.mma_async.sync.aligned.m64n{n}k{k}.{d}.{a}.{b}
    {{{values}}}, {operand}, b_desc, q, {scale_a}, {scale_b}{transposes};
  wgmma.commit_group.sync.aligned;
  wgmma.wait_group.sync.aligned 0;
  {stores}
  ret;
}}
"""
)


@dataclass(frozen=True)
class Form:
    """What the opcode and its immediates say."""

    n: int
    d: str = "f32"
    a: str = "bf16"
    b: str = "bf16"
    registers: bool = False
    rows_contiguous: tuple[bool, bool] = (False, False)
    swizzles: tuple[int, int] = (128, 128)
    scales: tuple[int, int] = (1, 1)

    @property
    def element_bytes(self):
        return {"f16": 2, "bf16": 2, "tf32": 4}.get(self.a, 1)

    @property
    def k(self):
        return DEPTH[self.element_bytes]

    @property
    def dtype(self):
        return np.uint16 if self.d == "f16" else np.uint32

    def text(self):
        count = self.n // (2 if self.d == "f32" else 4)
        names = [f"d{i}" for i in range(count)]
        transposes = ""
        if self.element_bytes == 2:
            sides = self.rows_contiguous[1:] if self.registers else self.rows_contiguous
            transposes = "".join(f", {int(side)}" for side in sides)
        return KERNEL.format(
            name=self,
            bytes=BYTES // 2,
            count=count,
            pitch=4 * count,
            n=self.n,
            k=self.k,
            d=self.d,
            a=self.a,
            b=self.b,
            values=", ".join(names),
            operand="{x0, x1, x2, x3}" if self.registers else "a_desc",
            scale_a=self.scales[0],
            scale_b=self.scales[1],
            transposes=transposes,
            loads="\n  ".join(f"ld.global.b32 {x}, [to+{4 * i}];" for i, x in enumerate(names)),
            stores="\n  ".join(f"st.global.b32 [to+{4 * i}], {x};" for i, x in enumerate(names)),
        )

    def fragment(self, matrix):
        """(64, n) of D as the threads hold it, (128, n / 2); or back by `spread`."""
        return matrix[self._places()]

    def spread(self, held):
        matrix = np.zeros((64, self.n), held.dtype)
        matrix[self._places()] = held
        return matrix

    def _places(self):
        thread, v = np.arange(128)[:, None], np.arange(self.n // 2)[None]
        row = thread // 32 * 16 + thread % 32 // 4 + 8 * (v // 2 % 2)
        return row, 2 * (thread % 4) + v % 2 + 8 * (v // 4)

    def a_registers(self, matrix):
        """(64, k) of A as the threads hold it, four registers each."""
        each = 4 // self.element_bytes
        thread, v = np.arange(128)[:, None], np.arange(4 * each)[None]
        register, part = v // each, v % each
        row = thread // 32 * 16 + thread % 32 // 4 + 8 * (register % 2)
        return matrix[row, each * (thread % 4) + part + 4 * each * (register // 2)]

    def operands(self, a, b):
        """Images of A (64, k) and B (n, k), and their descriptors without the address."""
        images = []
        for side, matrix in enumerate((a, b)):
            raw, word = lay_out(
                matrix,
                rows_contiguous=self.rows_contiguous[side],
                swizzle=self.swizzles[side],
            )
            code = SWIZZLE[self.swizzles[side]]
            images.append((raw[: BYTES // 2], int(word) & (1 << 46) - 1 | code << 62))
        if self.registers:
            raw = np.zeros(BYTES // 2, np.uint8)
            held = np.ascontiguousarray(self.a_registers(a)).view(np.uint8).reshape(-1)
            raw[: len(held)] = held
            images[0] = (raw, 0)
        (a_image, a_word), (b_image, b_word) = images
        return a_image, b_image, np.uint64(a_word), np.uint64(b_word)

    def run(self, run, a, b, c, accumulate, **how):
        """D of (64, n) after a run; all are bit patterns, `run` launches the kernel."""
        a_image, b_image, a_word, b_word = self.operands(a, b)
        held = np.ascontiguousarray(self.fragment(c))
        run(
            self.text(),
            held,
            a_image,
            b_image,
            a_word,
            b_word,
            np.uint32(accumulate),
            block=(128, 1, 1),
            **how,
        )
        return self.spread(held)


def formats(form):
    return FORMATS[form.a], FORMATS[form.b]
