// Takes back the accesses that nobody can race with any more.
#include "emulator/check/races.h"

namespace jax_fa4::emulator {

void RaceDetector::Mark(const ShadowWords& shadow) {
  for (AccessId writer : shadow.writer) accesses_[writer].marked = true;
  for (ReadersId readers : shadow.readers) readers_[readers].marked = true;
}

void RaceDetector::Collect() {
  for (const ShadowWords& shadow : shared_) Mark(shadow);
  for (const ShadowWords& shadow : tensor_) Mark(shadow);
  for (const auto& [page, shadow] : global_) Mark(*shadow);
  readers_.ForAll([this](Readers* readers) {
    if (!readers->marked) return;
    for (AccessId reader : readers->accesses) accesses_[reader].marked = true;
  });
  accesses_.ForAll([](Access* access) { access->marked = access->marked || access->kept; });
  readers_.Sweep();
  accesses_.Sweep();
}

}  // namespace jax_fa4::emulator
