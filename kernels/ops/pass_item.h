// PassItem: one session's neighbouring rows of a pass, in the backend's memory: what changes from step to step without a new recording.
#pragma once

#include "ops/kv_layout.h"

namespace gorgon {

constexpr int kMaxTreeNodes = 64;

struct PassItem {
  /** Its first row in the pass, and how many. */
  int64_t first;
  int64_t tokens;
  /** Committed rows of the cache, in every layer the pass goes through. */
  int64_t rows;
  /** Of the first token (the root, when they are a tree). */
  int64_t position;
  /** [L, Hkv]. */
  const KvHead* heads;
  /** Null: the tokens follow each other in the text. Otherwise a tree: i32 [tokens], below the root. */
  const int32_t* depths;
  /** i32 [tokens, path_stride]: nodes from the root to each node, depth + 1 of them. */
  const int32_t* paths;
  int64_t path_stride;
  /** Keys per partial state of CUDA's attention: a multiple of 64 that a session keeps, since a row's sums are grouped by it. */
  int64_t split_rows;
};

}  // namespace gorgon
