// CausalAttentionShape: what all kernels of causal_attention are told, by value.
#pragma once

#include <cstdint>

#include "ops/kv_layout.h"

namespace gorgon {

struct CausalAttentionShape {
  const void* q;
  int64_t q_stride;
  const KvHead* heads;
  void* out;
  /** f32 [stretches][Hq][T - skip][D]: sums of values, where each stretch of keys has a block of its own; null elsewhere. */
  float* parts;
  /** StretchState [stretches][Hq][T - skip] */
  void* part_states;
  int tokens;
  int skip;
  int rows;
  int query_heads;
  /** Query heads of a KV head. */
  int group;
  int head_dim;
  /** Query heads of a block, all of one KV head, and tokens of each. */
  int block_heads;
  int block_tokens;
  /** 2^16 / block_tokens, rounded up: a row of a block times this, over 2^16, is its head. */
  int head_of_row;
  /** Of the first new token. */
  int64_t position;
  int64_t window;
  float scale;
  /** scale times log2 e: weights are powers of two. */
  float scale_log2;
};

}  // namespace gorgon
