"""PTX of one tcgen05.ld or .st of any shape, and which cells its registers are."""

from dataclasses import dataclass

import numpy as np
from tensor_kernels import CELLS_FROM_GLOBAL, CELLS_TO_GLOBAL, HEADER

KERNEL = (
    HEADER
    + """
// {shape}: fills tensor memory, (128, columns), from `before`; loads to, or stores from, every
// thread's registers; writes out all cells.
.visible .entry shape(.param .u64 after, .param .u64 before, .param .u64 registers)
.reqntid 128, 1, 1
{{
  .shared .align 4 .b8 columns[4];
  .reg .pred p, first;
  .reg .b32 tid, warp, base, row, cell, i, v<8>, x<{count}>;
  .reg .b64 from, to, mine, offset;
  mov.u32 tid, %tid.x;
  shr.u32 warp, tid, 5;
  setp.eq.u32 first, warp, 0;
  @first tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [columns], 512;
  bar.sync 0;
  ld.shared.b32 base, [columns];
  shl.b32 row, warp, 21;
  add.u32 row, row, base;
  mul.wide.u32 offset, tid, {pitch};
  ld.param.u64 from, [before];
  add.u64 from, from, offset;
  ld.param.u64 to, [after];
  add.u64 to, to, offset;
  ld.param.u64 mine, [registers];
  mul.wide.u32 offset, tid, {mine};
  add.u64 mine, mine, offset;
  mov.b32 i, 0;
  mov.b32 cell, row;
FILL:
"""
    + CELLS_FROM_GLOBAL
    + """
  add.u64 from, from, 32;
  add.u32 cell, cell, 8;
  add.u32 i, i, 8;
  setp.lt.u32 p, i, {columns};
  @p bra FILL;
  tcgen05.wait::st.sync.aligned;
  add.u32 cell, row, {address};
  {body}
  mov.b32 i, 0;
  mov.b32 cell, row;
DUMP:
"""
    + CELLS_TO_GLOBAL
    + """
  add.u64 to, to, 32;
  add.u32 cell, cell, 8;
  add.u32 i, i, 8;
  setp.lt.u32 p, i, {columns};
  @p bra DUMP;
  tcgen05.fence::before_thread_sync;
  bar.sync 0;
  tcgen05.fence::after_thread_sync;
  @first tcgen05.dealloc.cta_group::1.sync.aligned.b32 base, 512;
  ret;
}}
"""
)

# What a register of a thread is, by its number: (lane, column), columns of 32 bits.
PLACES = {
    "32x32b": lambda t, r: (t, r),
    "16x64b": lambda t, r: (t // 4 + 8 * (t % 2), t // 2 % 2 + 2 * r),
    "16x128b": lambda t, r: (t // 4 + 8 * (r % 2), t % 4 + 4 * (r // 2)),
    "16x256b": lambda t, r: (t // 4 + 8 * (r // 2 % 2), 2 * (t % 4) + r % 2 + 8 * (r // 4)),
    "16x32bx2": lambda t, r: (t % 16, r),
}


@dataclass(frozen=True)
class Shape:
    name: str
    repeat: int
    packed: bool = False  # .pack::16b or .unpack::16b
    lane: int = 0  # 16 for the upper lanes of 16
    split: int = 0  # of 16x32bx2
    column: int = 3

    @property
    def registers(self):
        return self.repeat * {"16x128b": 2, "16x256b": 4}.get(self.name, 1)

    @property
    def columns(self):
        """Enough of them, a multiple of 8."""
        each = 1 if "32b" in self.name else 2
        return (self.column + self.registers * each * (1 + self.packed) + self.split + 7) // 8 * 8

    def cells(self):
        """(lane, first column) of every register, (128, registers)."""
        thread, register = np.arange(128)[:, None], np.arange(self.registers)[None]
        lane, column = PLACES[self.name](thread % 32, register)
        column = column * (1 + self.packed) + self.column
        if self.split:
            column = column + self.split * (thread % 32 >= 16)
        lane = lane + thread // 32 * 32 + self.lane
        return np.broadcast_arrays(lane, column)

    def text(self, loads):
        names = [f"x{i}" for i in range(self.registers)]
        vector = "{" + ", ".join(names) + "}"
        split = f", {self.split}" if self.name == "16x32bx2" else ""
        packed = (".pack::16b" if loads else ".unpack::16b") if self.packed else ""
        what = f"sync.aligned.{self.name}.x{self.repeat}{packed}.b32"
        if loads:
            body = [f"tcgen05.ld.{what} {vector}, [cell]{split};", "tcgen05.wait::ld.sync.aligned;"]
            body += [f"st.global.b32 [mine+{4 * i}], {x};" for i, x in enumerate(names)]
        else:
            body = [f"ld.global.b32 {x}, [mine+{4 * i}];" for i, x in enumerate(names)]
            body += [
                f"tcgen05.st.{what} [cell]{split}, {vector};",
                "tcgen05.wait::st.sync.aligned;",
            ]
        return KERNEL.format(
            shape=self,
            count=self.registers,
            pitch=4 * self.columns,
            mine=4 * self.registers,
            columns=self.columns,
            address=(self.lane << 16) + self.column,
            body="\n  ".join(body),
        )
