// Shadow of memory: who wrote each word last, and who has read it since.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "emulator/check/clock.h"

namespace jax_fa4::emulator {

using AccessId = uint32_t;   // 0: none
using ReadersId = uint32_t;  // 0: nobody

inline constexpr uint32_t kUnfinished = 0xffffffffu;  // no clock reaches it

// The memory that a shadow is of. Tensor memory has a word for each quadrant of 32 lanes and
// column.
enum class ShadowSpace : uint8_t { kShared, kGlobal, kTensor };

// One party of a possible race. The accesses of one instruction share one of these.
struct Access {
  uint64_t cta = 0;
  uint32_t cluster = 0;  // serial number of the cluster in the run
  EntityId entity = 0;
  uint32_t time = 0;
  int32_t pc = 0;
  int16_t warp = 0;
  uint8_t bytes = 0xf;  // of the word, a bit each; of a quadrant, a bit for 8 lanes
  bool write = false;
  bool async = false;   // through the async proxy
  bool atomic = false;  // atomics do not race with each other
  bool kept = false;    // somebody holds the id
  bool marked = false;
  uint32_t lanes = 0;  // that executed it, where it is no access to tensor memory
  // Of tcgen05.mma: the products that take effect in order share a pipeline (PTX ISA 9.7.16.6.2).
  uint32_t pipeline = 0;  // 0: none
  EntityId issuer = 0;    // the warp, and its time then
  uint32_t issued = 0;
};

// Readers of a word since its last write: the latest access of each entity.
struct Readers {
  std::vector<AccessId> accesses;
  bool marked = false;
};

struct ShadowWords {
  std::vector<AccessId> writer;
  std::vector<ReadersId> readers;

  explicit ShadowWords(size_t words = 0) : writer(words, 0), readers(words, 0) {}
};

// Records that are handed out by number; those that no word names are taken back.
template <typename Record>
class Pool {
 public:
  Pool() : records_(1) {}

  Record& operator[](uint32_t id) { return records_[id]; }
  const Record& operator[](uint32_t id) const { return records_[id]; }
  bool Full() const { return free_.empty() && records_.size() >= limit_; }
  uint32_t Add(Record record) {
    if (free_.empty()) {
      records_.push_back(std::move(record));
      return static_cast<uint32_t>(records_.size() - 1);
    }
    const uint32_t id = free_.back();
    free_.pop_back();
    records_[id] = std::move(record);
    return id;
  }
  template <typename Body>
  void ForAll(Body body) {
    for (Record& record : records_) body(&record);
  }
  // Takes back what is not marked, and forgets the marks.
  void Sweep() {
    free_.clear();
    for (uint32_t id = 1; id < records_.size(); ++id) {
      if (!records_[id].marked) free_.push_back(id);
      records_[id].marked = false;
    }
    if (free_.size() * 2 < records_.size()) limit_ = records_.size() * 2;
  }

 private:
  std::vector<Record> records_;
  std::vector<uint32_t> free_;
  size_t limit_ = size_t{1} << 16;
};

}  // namespace jax_fa4::emulator
