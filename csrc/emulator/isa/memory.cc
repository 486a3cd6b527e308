// ld and st (PTX ISA, "ld", "st").
#include "emulator/isa/lanes.h"
#include "emulator/isa/local.h"

namespace jax_fa4::emulator {
namespace {

uint64_t LaneAddress(Warp& warp, const Op& op, int lane) {
  const uint64_t base =
      (op.small & 0x0f) == 8 ? warp.Lanes<uint64_t>(op.a)[lane] : warp.Lanes<uint32_t>(op.a)[lane];
  return base + static_cast<uint64_t>(op.immediate);
}

enum class Space { kGlobal, kShared, kLocal, kParameter, kGeneric };

uint8_t* Place(Warp& warp, Space space, uint64_t address, uint32_t size, bool write, int lane) {
  switch (space) {
    case Space::kGlobal:
      if (size == 32 && address % 32 != 0) {
        warp.Report("misaligned", "global memory is accessed by 32 bytes, not aligned to 32", lane);
      }
      return warp.machine->Global(warp, lane, address, size, write);
    case Space::kShared:
      return warp.machine->Shared(warp, lane, address, size, write);
    case Space::kGeneric: {
      const uint64_t window = address & kWindowMask;
      if (window == kSharedWindow) {
        return warp.machine->Shared(warp, lane, address & ~kWindowMask, size, write);
      }
      if (window == kLocalWindow) return Local(warp, lane, address & ~kWindowMask, size, write);
      if (window == kParameterWindow && !write) {
        return Place(warp, Space::kParameter, address & ~kWindowMask, size, write, lane);
      }
      return warp.machine->Global(warp, lane, address, size, write);
    }
    case Space::kLocal:
      return Local(warp, lane, address, size, write);
    case Space::kParameter: {
      const std::vector<uint8_t>& parameters = warp.machine->launch.parameters;
      if (address + size > parameters.size()) {
        warp.Report("out-of-bounds", "a read past the parameters", lane);
      }
      return const_cast<uint8_t*>(parameters.data()) + address;
    }
  }
  return nullptr;
}

constexpr uint8_t kStrong = 0x10;  // in Op::small: relaxed, acquire, release or volatile

// Tells the race detector about the accesses of an instruction's lanes.
template <Space kSpace>
class Watch {
 public:
  Watch(Warp& warp, const Op& op, bool write, uint32_t element_bytes)
      : races_(warp.machine->races.get()), write_(write), strong_((op.small & kStrong) != 0) {
    if (kSpace == Space::kParameter || kSpace == Space::kLocal) races_ = nullptr;
    part_ = element_bytes < 4;
    if (races_ != nullptr && !part_) party_ = races_->Generic(warp, write, 0xf, strong_);
  }
  // Stores of the same bytes are a race of uniform size, which the axioms still govern (8.7.2): in
  // either order memory ends with these bytes. Working kernels rely on it.
  bool AcceptsAgreeing(const Warp& warp) const {
    return races_ != nullptr && warp.machine->options.level == Level::kHardware;
  }
  void Agrees(bool agrees) { agrees_ = agrees; }
  void Lane(Warp& warp, int lane, uint64_t address, uint32_t size) {
    if (races_ == nullptr) return;
    Space space = kSpace;
    if (kSpace == Space::kGeneric) {
      const uint64_t window = address & kWindowMask;
      if (window == kParameterWindow || window == kLocalWindow) return;
      space = window == kSharedWindow ? Space::kShared : Space::kGlobal;
      address &= space == Space::kShared ? ~kWindowMask : ~uint64_t{0};
    }
    if (strong_) races_->Strong(warp, address);
    if (part_) {
      party_ = races_->Generic(warp, write_, RaceDetector::PartOfWord(address, size), strong_);
    }
    party_.agrees = agrees_;
    if (space == Space::kGlobal) {
      races_->VisitGlobal(&party_, lane, address, size);
    } else {
      races_->VisitShared(&party_, lane, warp.machine->CtaOf(warp, lane, address),
                          static_cast<uint32_t>(address & 0xffffff), size);
    }
  }

 private:
  RaceDetector* races_;
  Party party_;
  bool part_ = false;
  bool agrees_ = false;
  bool write_;
  bool strong_;
};

// op.target = bytes of an element in memory; negative: sign-extended.
template <Space kSpace>
Step Load(Warp& warp, const Op& op) {
  const Slot* slots = warp.machine->program.slots.data() + op.first;
  const bool is_signed = op.target < 0;
  const uint32_t bytes = static_cast<uint32_t>(is_signed ? -op.target : op.target);
  const uint32_t lane_bytes = bytes < 4 ? 4 : bytes;
  Watch<kSpace> watch(warp, op, false, bytes);
  ForLanes(warp.exec, [&](int lane) {
    const uint64_t address = LaneAddress(warp, op, lane);
    // A race says more than a read of what is not there yet.
    if (kSpace == Space::kShared) watch.Lane(warp, lane, address, bytes * op.count);
    const uint8_t* from = Place(warp, kSpace, address, bytes * op.count, false, lane);
    if (kSpace != Space::kShared) watch.Lane(warp, lane, address, bytes * op.count);
    for (uint32_t i = 0; i < op.count; ++i) {
      uint8_t* d = warp.Lanes<uint8_t>(slots[i]) + lane * lane_bytes;
      const bool negative = is_signed && bytes < 4 && (from[(i + 1) * bytes - 1] & 0x80) != 0;
      std::memset(d, negative ? 0xff : 0, lane_bytes);
      std::memcpy(d, from + i * bytes, bytes);
    }
  });
  return Step::kNext;
}

template <Space kSpace>
Step Store(Warp& warp, const Op& op) {
  const Slot* slots = warp.machine->program.slots.data() + op.first;
  const uint32_t bytes = static_cast<uint32_t>(op.target);
  const uint32_t lane_bytes = bytes < 4 ? 4 : bytes;
  Watch<kSpace> watch(warp, op, true, bytes);
  const bool accepts_agreeing = watch.AcceptsAgreeing(warp);
  ForLanes(warp.exec, [&](int lane) {
    const uint64_t address = LaneAddress(warp, op, lane);
    uint8_t* to = Place(warp, kSpace, address, bytes * op.count, true, lane);
    if (accepts_agreeing) {
      bool agrees = true;
      for (uint32_t i = 0; i < op.count; ++i) {
        const uint8_t* from = warp.Lanes<uint8_t>(slots[i]) + lane * lane_bytes;
        agrees = agrees && std::memcmp(to + i * bytes, from, bytes) == 0;
      }
      watch.Agrees(agrees);
    }
    watch.Lane(warp, lane, address, bytes * op.count);
    for (uint32_t i = 0; i < op.count; ++i) {
      std::memcpy(to + i * bytes, warp.Lanes<uint8_t>(slots[i]) + lane * lane_bytes, bytes);
    }
  });
  return Step::kNext;
}

// Memory here is sequentially consistent: an order or a scope changes nothing. Older compilers
// write the space first. Returns the space, empty for generic addresses.
std::string_view Qualifiers(bool loads, Modifiers* modifiers, bool* strong) {
  std::string_view space;
  const auto take_space = [&] {
    for (const char* name :
         {"global", "shared", "shared::cta", "shared::cluster", "local", "param"}) {
      if (space.empty() && modifiers->Take(name)) space = name;
    }
  };
  take_space();
  const bool ordered = modifiers->Take("relaxed") || modifiers->Take(loads ? "acquire" : "release");
  if (ordered) {
    modifiers->OneOf({"cta", "cluster", "gpu", "sys"});
  }
  *strong = ordered || (!modifiers->Take("weak") && modifiers->Take("volatile"));
  take_space();
  return space;
}

void DecodeAccess(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  const bool loads = instruction.opcode[0] == "ld";
  bool strong = false;
  const std::string_view space = Qualifiers(loads, &modifiers, &strong);
  modifiers.Take("nc");  // read-only data: an ordinary load
  if (modifiers.Peek().rfind("L1::", 0) == 0) modifiers.Next();
  if (modifiers.Peek().rfind("L2::", 0) == 0) modifiers.Next();
  size_t elements = 1;
  if (modifiers.Take("v2")) elements = 2;
  if (modifiers.Take("v4")) elements = 4;
  if (space == "global" && modifiers.Take("v8")) elements = 8;
  const std::string_view type = modifiers.Next();
  modifiers.Done();
  const int bytes = MemoryBytes(type);
  if (bytes == 0) decoder.Fail(instruction, "unknown type '." + std::string(type) + "'");
  decoder.ExpectOperands(instruction, 2);
  const Operand& value = instruction.operands[loads ? 0 : 1];
  const Operand& address = instruction.operands[loads ? 1 : 0];
  if (decoder.Elements(value, LaneBytes(type), loads, op) != elements) {
    decoder.Fail(value, "not as many registers as the vector has elements");
  }
  if (elements == 8 && bytes != 4) decoder.Fail(instruction, "eight elements are of 32 bits");
  if (bytes * elements > 32) decoder.Fail(instruction, "more than 32 bytes at once");
  decoder.Address(address, space == "global" || space.empty() ? 8 : 0, op);
  if (strong) op->small |= kStrong;
  op->target = type[0] == 's' ? -bytes : bytes;
  if (loads) {
    op->run = space == "global"  ? Handler(Load<Space::kGlobal>)
              : space == "param" ? Handler(Load<Space::kParameter>)
              : space == "local" ? Handler(Load<Space::kLocal>)
              : space.empty()    ? Handler(Load<Space::kGeneric>)
                                 : Handler(Load<Space::kShared>);
  } else {
    if (space == "param") decoder.Fail(instruction, "parameters cannot be written");
    op->target = bytes;
    op->run = space == "global"  ? Handler(Store<Space::kGlobal>)
              : space == "local" ? Handler(Store<Space::kLocal>)
              : space.empty()    ? Handler(Store<Space::kGeneric>)
                                 : Handler(Store<Space::kShared>);
  }
}

}  // namespace

void RegisterMemory(InstructionTable* table) {
  (*table)["ld"] = DecodeAccess;
  (*table)["st"] = DecodeAccess;
}

}  // namespace jax_fa4::emulator
