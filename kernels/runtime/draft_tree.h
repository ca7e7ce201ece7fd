// DraftTree: the tokens of one verify call and how they hang together.
#pragma once

#include <vector>

#include "common/status.h"
#include "ops/tree_attention.h"

namespace gorgon {

struct DraftTree {
  std::vector<int32_t> tokens;
  /** -1 for the root; parents come before children. */
  std::vector<int32_t> parents;
  std::vector<int32_t> depths;
  /** [N, path_stride] nodes from the root to each node. */
  std::vector<int32_t> paths;
  int64_t path_stride = 0;

  int64_t nodes() const { return static_cast<int64_t>(tokens.size()); }
  /** Of the deepest node. */
  int64_t depth() const { return path_stride - 1; }

  /** Checks shape, order and ids. */
  static Status make(std::vector<int32_t> tokens, std::vector<int32_t> parents, int64_t vocab, DraftTree* out);
  /** Whether these nodes lead from the root down, each the parent of the next. */
  Status check_path(const std::vector<int32_t>& path) const;
};

}  // namespace gorgon
