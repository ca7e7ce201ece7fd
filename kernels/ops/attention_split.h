// attention_split_rows: how many keys CUDA's attention sums before it starts a new partial state: chosen when a prompt is done, and kept.
#pragma once

#include <cstdint>

namespace gorgon {

/** A multiple of 64, of a cache of `rows` rows when its prompt is done: enough splits to keep a device busy, few enough to merge. */
static inline int64_t attention_split_rows(int64_t rows) {
  int64_t split = 128;
  while (split * 64 < rows) split *= 2;
  return split;
}

}  // namespace gorgon
