// Kernels of random instructions over registers that hold addresses, descriptors and nonsense: most
// of them decode, and reach what only whole kernels would.
#pragma once

#include <string>

#include "fuzz_templates.h"
#include "fuzz_text.h"

namespace fuzz {

class Programs {
 public:
  explicit Programs(Dice* dice) : dice_(*dice) {}

  std::string Next() {
    std::string text = Prologue();
    const uint64_t lines = 2 + dice_.Below(40);
    const uint64_t labels = 1 + dice_.Below(4);
    for (uint64_t i = 0; i < lines; ++i) {
      for (uint64_t label = 0; label < labels; ++label) {
        if (i == label * lines / labels) text += "L" + std::to_string(label) + ":\n";
      }
      if (dice_.OneIn(3)) text += dice_.OneIn(2) ? "@p0 " : "@!p" + Number(4) + " ";
      text += Filled(dice_.Pick(kTemplates), labels) + "\n";
    }
    return text + Epilogue();
  }

 private:
  std::string Number(uint64_t bound) { return std::to_string(dice_.Below(bound)); }

  std::string Immediate() {
    static const char* const kAny[] = {
        "0",   "1",     "-1",         "2",          "3",          "16",        "64",
        "255", "65535", "0x7fffffff", "0x80000000", "0x7f800000", "0xff7fffff"};
    return dice_.OneIn(4) ? std::to_string(dice_.Bits() >> 33) : dice_.Pick(kAny);
  }

  // A descriptor that is right but for a few bits.
  std::string MatrixDescriptor() {
    const uint64_t swizzle = 2 * dice_.Below(4);
    uint64_t bits = dice_.Below(64) | uint64_t{64} << 16 | uint64_t{64} << 32 | uint64_t{1} << 46;
    bits |= swizzle << 61;
    if (dice_.OneIn(3)) bits ^= uint64_t{1} << dice_.Below(64);
    if (dice_.OneIn(8)) bits = dice_.Bits();
    return std::to_string(bits & ~(uint64_t{1} << 63));
  }

  std::string InstructionDescriptor() {
    uint64_t bits = 1 << 4 | dice_.Below(4) << 7 | dice_.Below(2) << 10 | dice_.Below(4) << 15;
    bits |= (1 + dice_.Below(8)) << 17 | uint64_t{dice_.OneIn(3) ? 4u : 8u} << 24;
    if (dice_.OneIn(3)) bits ^= uint64_t{1} << dice_.Below(32);
    return std::to_string(bits & 0x7fffffff);
  }

  // r2 is the pool, r3 the mbarriers, r8 the allocated tensor memory.
  std::string Prologue() {
    std::string text = kHead;
    for (const char* name : {"d4", "d5"}) text += Move("b64", name, MatrixDescriptor());
    text += Move("b32", "r5", InstructionDescriptor());
    text += Move("b32", "r6", Immediate()) + Move("b32", "r7", Number(33));
    text += "setp.eq.u32 p0, r0, " + Number(2) + "; setp.lt.u32 p1, r0, " + Number(129) + ";\n";
    text += "setp.ne.u32 p2, r1, 0; setp.eq.u32 p3, r6, r7;\n";
    if (!dice_.OneIn(4)) text += kFillPool;
    for (int i = 0; i < 4; ++i) {
      text += "@p0 mbarrier.init.shared.b64 [bars+" + std::to_string(8 * i) + "], " +
              std::to_string(1 + dice_.Below(3)) + ";\n";
    }
    if (!dice_.OneIn(8)) {
      text += "fence.mbarrier_init.release.cluster; fence.proxy.async.shared::cta; bar.sync 0;\n";
    }
    group_ = dice_.OneIn(4) ? "2" : "1";
    if (!dice_.OneIn(3)) {
      text += "shr.u32 r9, r0, 5; setp.eq.u32 p3, r9, 0;\n@!p3 bra ALLOCATED;\n";
      text += "tcgen05.alloc.cta_group::" + group_ + ".sync.aligned.shared::cta.b32 [bars+48], " +
              std::to_string(32u << dice_.Below(5)) + ";\nALLOCATED: bar.sync 0;\n";
      text += "ld.shared.b32 r8, [bars+48]; shl.b32 r9, r9, 21; add.s32 r9, r9, r8;\n";
    }
    if (dice_.OneIn(2)) text += "barrier.cluster.arrive; barrier.cluster.wait;\n";
    return text;
  }

  std::string Epilogue() {
    std::string text = dice_.OneIn(2) ? "" : "bar.sync 0;\n";
    if (dice_.OneIn(2)) text += "barrier.cluster.arrive; barrier.cluster.wait;\n";
    return text + "ret;\n}\n";
  }

  static std::string Move(const std::string& type, const std::string& to, const std::string& what) {
    return "mov." + type + " " + to + ", " + what + ";\n";
  }

  std::string Vector(uint64_t count) {
    std::string text = "{";
    for (uint64_t i = 0; i < count; ++i) text += (i ? ", r" : "r") + Number(12);
    return text + "}";
  }

  std::string Offset(uint64_t bound, uint64_t step) {
    return "+" + std::to_string(step * dice_.Below(bound) + (dice_.OneIn(20) ? 1 : 0));
  }

  std::string Operand(char kind, uint64_t count, uint64_t labels) {
    switch (kind) {
      case 'r':
        return "r" + Number(12);
      case 'd':
        return "d" + Number(8);
      case 'q':
        return "q" + Number(2);
      case 'p':
        return "p" + Number(4);
      case 'h':
        return "h" + Number(2);
      case 'v':
        return Vector(count);
      case 'i':
        return Immediate();
      case 'n':
        return dice_.OneIn(3) ? Number(33) : Number(3);
      case 's':
        return dice_.OneIn(8) ? "r" + Number(12) : "r2" + Offset(128, dice_.OneIn(3) ? 4 : 128);
      case 'b':
        return dice_.OneIn(10) ? "r" + Number(12) : "bars" + Offset(4, 8);
      case 'c':
        return dice_.OneIn(3) ? "r" + Number(12) : "r10" + Offset(4, 8);
      case 'g':
        return "d" + Number(dice_.OneIn(8) ? 8 : 2) + Offset(64, 16);
      case 'm':
        return "[d" + std::to_string(2 + dice_.Below(2)) + ", " + Vector(count) + "]";
      case 't':
        return dice_.OneIn(8) ? "r" + Number(12) : std::string("r8");
      case 'w':
        return dice_.OneIn(8) ? "r" + Number(12) : std::string("r9");
      case 'u':
        return group_;
      case 'a':
        return dice_.OneIn(8) ? "d" + Number(8) : "d" + std::to_string(4 + dice_.Below(2));
      case 'x':
        return dice_.OneIn(8) ? "r" + Number(12) : "r5";
      case 'k':
        return dice_.OneIn(3) ? "r" + Number(12) : std::to_string(16 * dice_.Below(20));
      default:
        return "L" + Number(labels);
    }
  }

  std::string Filled(std::string_view form, uint64_t labels) {
    std::string text;
    for (size_t i = 0; i < form.size(); ++i) {
      if (form[i] != '$') {
        text += form[i];
        continue;
      }
      const char kind = form[++i];
      const bool counted = kind == 'v' || kind == 'm';
      text += Operand(kind, counted ? static_cast<uint64_t>(form[++i] - '0') : 0, labels);
    }
    return text;
  }

  static constexpr const char* kHead = R"(.version 8.7
.target sm_100a
.address_size 64
.visible .entry k(.param .u64 g0, .param .u64 g1, .param .align 64 .b8 m0[128],
  .param .align 64 .b8 m1[128], .param .u64 s1, .param .u32 s0)
{
.shared .align 1024 .b8 pool[16384];
.shared .align 16 .b8 bars[64];
.reg .pred p<4>;
.reg .b16 h<2>;
.reg .b32 r<12>;
.reg .b64 d<8>;
.reg .b128 q<2>;
ld.param.u64 d0, [g0]; ld.param.u64 d1, [g1]; ld.param.u64 d6, [s1]; ld.param.u32 r4, [s0];
mov.b64 d2, m0; cvta.param.u64 d2, d2; mov.b64 d3, m1; cvta.param.u64 d3, d3;
mov.b64 d7, 0; mov.b16 h0, 1; mov.b16 h1, 3; mov.b128 q0, {d6, d7}; mov.b128 q1, {d7, d7};
mov.u32 r0, %tid.x; mov.u32 r1, %cluster_ctarank; mov.u32 r2, pool; mov.u32 r3, bars;
mov.b32 r8, 0; mov.b32 r9, 0; mov.b32 r11, 0; mapa.shared::cluster.u32 r10, r3, 0;
)";
  static constexpr const char* kFillPool = R"(shl.b32 r11, r0, 4;
FILL: add.s32 r10, r11, r2; st.shared.v4.b32 [r10], {r0, r1, r2, r3};
add.s32 r11, r11, 2560; setp.lt.u32 p3, r11, 16384; @p3 bra FILL;
mapa.shared::cluster.u32 r10, r3, r1;
)";

  Dice& dice_;
  std::string group_;  // CTAs that tensor cores work for together
};

}  // namespace fuzz
