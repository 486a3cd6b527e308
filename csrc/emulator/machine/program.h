// A kernel made ready to run: every operand resolved to a place in a warp's frame.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "emulator/ptx/ast.h"

namespace jax_fa4::emulator {

struct Warp;
struct Op;

// A byte offset into a warp's frame. A value of a 32-bit type is 32 lanes of 4 bytes, of a 64-bit
// type 32 lanes of 8, of a 128-bit type 32 lanes of 16; a predicate is one word, a bit a lane.
// 8- and 16-bit values live in the low bits of 32-bit lanes.
using Slot = uint32_t;
inline constexpr Slot kNoSlot = 0xffffffffu;

enum class Step : uint8_t {
  kNext,  // on to the following instruction
  kJump,  // the handler has set the lanes' program counters
  kWait,  // cannot complete yet: run the same instruction again after something has changed
  kExit,  // these lanes are done
};

using Handler = Step (*)(Warp& warp, const Op& op);

// One decoded instruction. What the fields hold is the business of its decoder and its handler.
struct Op {
  Handler run = nullptr;
  Slot guard = kNoSlot;
  bool guard_negated = false;
  bool converged = false;  // .aligned: every lane that has not exited must be here together
  uint8_t small = 0;
  Slot d = kNoSlot;
  Slot a = kNoSlot;
  Slot b = kNoSlot;
  Slot c = kNoSlot;
  uint32_t first = 0;  // of `count` slots in Program::slots
  uint32_t count = 0;
  int32_t target = 0;
  int64_t immediate = 0;
  const Instruction* source = nullptr;
};

// The registers that an instruction reads and writes, for the checks: numbers in
// Program::registers, those read first.
struct OpRegisters {
  enum Kind : uint8_t {
    kOrdinary,
    kCopy,        // gives on what it reads, a value or none
    kSelect,      // gives on one of two, by a predicate
    kArithmetic,  // gives a value if it reads values, and touches nothing else
    kExchange,    // gives lanes what other lanes read
    kProduct,     // wgmma.mma_async: the last reads and the writes belong to it until it completes
  };
  uint32_t first = 0;
  uint16_t reads = 0;
  uint16_t writes = 0;
  uint16_t plain_reads = 0;  // of a product: descriptors and the predicate
  Kind kind = kOrdinary;
};

// Values that are the same for a warp's whole life: placed in its frame when it is made.
struct Constant {
  Slot slot;
  uint8_t lane_bytes;
  uint64_t value;
  bool is_shared_address;  // then the CTA's rank is added to it
};

enum class Special : uint8_t {
  kTidX,
  kTidY,
  kTidZ,
  kNtidX,
  kNtidY,
  kNtidZ,
  kCtaidX,
  kCtaidY,
  kCtaidZ,
  kNctaidX,
  kNctaidY,
  kNctaidZ,
  kLaneid,
  kWarpid,
  kClusteridX,
  kClusteridY,
  kClusteridZ,
  kNclusteridX,
  kNclusteridY,
  kNclusteridZ,
  kClusterCtaidX,
  kClusterCtaidY,
  kClusterCtaidZ,
  kClusterNctaidX,
  kClusterNctaidY,
  kClusterNctaidZ,
  kClusterCtarank,
  kClusterNctarank,
};

struct SpecialSlot {
  Slot slot;
  Special special;
};

struct Program {
  Module module;
  const Entry* entry = nullptr;
  std::vector<Op> ops;
  std::vector<Slot> slots;
  std::vector<OpRegisters> op_registers;  // one an op
  std::vector<uint32_t> registers;        // numbers, see OpRegisters
  std::vector<std::string> register_names;
  std::vector<Constant> constants;
  std::vector<SpecialSlot> specials;
  uint32_t frame_bytes = 0;
  uint32_t static_shared_bytes = 0;
  uint32_t local_bytes = 0;
};

// Parses `ptx` and decodes the entry of that name; no name means its only entry. Throws
// SyntaxError.
std::unique_ptr<const Program> Decode(std::string_view ptx, std::string_view entry = {});

}  // namespace jax_fa4::emulator
