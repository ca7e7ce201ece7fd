// kv_append: stores the K and V of T new tokens behind the rows of one layer.
//
//   k, v       f32           [T, Hkv, D]  each with its own stride from token to token, head h at h * D; k is rotated
//   cache      f32|f16|bf16  [Hkv]        rows R..R+T-1 are written (rounded), with zeros behind D, and zeros up to the end of the last group of rows
//   positions  i32           [Hkv][rows]  of each row; written when not null: position, position + 1, … (or + depth of the node)
//
// Limits      T >= 1; the cache has room for whole groups of rows (kv_layout.h).
// Errors      none.
// See         test/oracle/kv.ts
#pragma once

#include "common/context.h"
#include "ops/kv_layout.h"

namespace gorgon {

struct KvAppendArgs {
  const float* k;
  int64_t k_stride;
  const float* v;
  int64_t v_stride;
  int64_t tokens;
  const KvHead* heads;
  int64_t kv_heads;
  int64_t head_dim;
  DType dtype;
  int64_t rows;
  int64_t position;
  /** i32 [T] depth of each token below `position`; null: they follow each other. */
  const int32_t* depths;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status kv_append_cpu(const KvAppendArgs& args, CpuContext& context);
}
#endif

}  // namespace gorgon
