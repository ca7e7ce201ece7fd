// attention_split: how many keys one partial state of tree_attention holds on CUDA. A session picks it once, when its prompt is in the cache,
// and keeps it: a row's sums are grouped by it.
#pragma once

#include <cstdint>

namespace gorgon {

/** Keys in a chunk; splits are whole chunks. */
constexpr int64_t kAttentionChunk = 64;
/** No session has a smaller split. */
constexpr int64_t kLeastSplitRows = 128;

/**
 * The split of a session with `rows` rows after its prompt. Short caches want many blocks at once, long ones few states per query: on an H200, 8 KV
 * heads of 128, one node (64 nodes): 2048 rows take 7.8 (24.8) us in splits of 128, 8.4 (18.4) in splits of 256; 16384 rows 30 (139) in splits of
 * 256, 23 (79) in splits of 512.
 */
static inline int64_t attention_split_rows(int64_t rows) {
  int64_t split = rows <= 1024 ? kLeastSplitRows : 2 * kLeastSplitRows;
  while (split * 32 < rows) split *= 2;
  return split;
}

}  // namespace gorgon
