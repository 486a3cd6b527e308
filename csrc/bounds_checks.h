// What bounded calls have beside the others' arrays: what each row of queries may see, a soft cap.
//   row_bounds (B, Sq, 2) int32: first and last key of a row, inclusive; query_ids (B, Sq) and
//   key_ids (B, Sk) int32: a row sees keys of its own id alone
//   query_groups (B, ceil(Sq / 64), 4) int32, of each 64 rows: least first key, greatest last key
//   of rows that see any; greatest first key, least last key between which all rows see all
//   key_groups (B, ceil(Sk / 64), 2) int32, of each 64 keys: first and last row that sees any
// Shapes are checked here, and no values: jax_fa4/ops/bound_tables.py makes them.
#pragma once

#include <string_view>
#include <vector>

#include "attention_checks.h"
#include "checks.h"

namespace jax_fa4 {

struct BoundsBuffers {
  Named row_bounds, query_ids, key_ids, query_groups;

  std::vector<Named> All() const { return {row_bounds, query_ids, key_ids, query_groups}; }
};

ffi::Error CheckBounds(std::string_view operation, const BoundsBuffers& bounds,
                       const AttentionShape& shape);
ffi::Error CheckKeyGroups(std::string_view operation, const Named& key_groups,
                          const AttentionShape& shape);

// The scalars of bounded calls: bounds say what a band would.
ffi::Error ReadBoundedScalars(std::string_view operation, const ffi::Dictionary& attributes,
                              AttentionScalars* scalars, float* softcap);
AttentionScalars BoundedScalars(float softmax_scale);

// Finite and at least 0; each of the variants caps scores if, and only if, it is greater.
ffi::Error CheckSoftcap(std::string_view operation, float softcap,
                        const std::vector<const Variant*>& variants);

template <typename Arguments>
void FillBounds(const BoundsBuffers& bounds, float softcap, Arguments* arguments) {
  arguments->row_bounds = bounds.row_bounds.buffer.untyped_data();
  arguments->query_ids = bounds.query_ids.buffer.untyped_data();
  arguments->key_ids = bounds.key_ids.buffer.untyped_data();
  arguments->query_groups = bounds.query_groups.buffer.untyped_data();
  arguments->softcap = softcap;
}

}  // namespace jax_fa4
