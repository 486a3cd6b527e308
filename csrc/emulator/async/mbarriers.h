// mbarrier objects (PTX ISA, "Parallel Synchronization and Communication Instructions: mbarrier").
#pragma once

#include <cstdint>
#include <string>

#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {

// The object at shared::cluster address `address`; reports one that was never initialised.
Mbarrier& MbarrierAt(Warp& warp, int lane, uint64_t address);

void InitMbarrier(Warp& warp, int lane, uint64_t address, uint32_t count);

// Takes `count` from the pending arrivals; a relaxed arrival orders tcgen05 instructions alone.
void ArriveAt(Warp& warp, int lane, uint64_t address, uint32_t count, bool relaxed);

// Adds to the transaction count of the current phase, or takes what has come from it.
void ExpectTransactions(Warp& warp, int lane, uint64_t address, uint32_t bytes);
void CompleteTransactions(Machine* machine, Cta* cta, uint32_t offset, uint32_t bytes);

// An arrival of the hardware itself, not of a thread: who sees it comes after `known`. Returns what
// is wrong, if something is.
std::string ArriveFromEngine(Machine* machine, Cta* cta, uint32_t offset, const ProxyClocks& known);

// Whether the phase of parity `parity` has completed.
bool PhaseDone(const Mbarrier& barrier, uint32_t parity);

// A wait has seen the end of the last phase. At level kPtx it must be the one after the last that
// the warp saw, or of the other parity: a parity names the current phase or the one before it
// (PTX ISA 9.7.13.15.16).
void ObservePhase(Warp& warp, int lane, uint64_t address, Mbarrier* barrier);

}  // namespace jax_fa4::emulator
