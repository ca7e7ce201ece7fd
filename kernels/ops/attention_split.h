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
 * The split of a session with `rows` rows after its prompt. Short caches want many blocks at once, long ones few states per query: 8 KV heads
 * times 32 to 64 splits are as many blocks as an H200 runs at a time.
 */
static inline int64_t attention_split_rows(int64_t rows) {
  int64_t split = rows <= 1024 ? kLeastSplitRows : 2 * kLeastSplitRows;
  while (split * 64 < rows) split *= 2;
  return split;
}

}  // namespace gorgon
