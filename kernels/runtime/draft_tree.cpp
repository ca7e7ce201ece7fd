// Checking a tree, and the paths that follow from its parents.
#include "runtime/draft_tree.h"

#include <algorithm>

namespace gorgon {

Status DraftTree::make(std::vector<int32_t> tokens, std::vector<int32_t> parents, int64_t vocab, DraftTree* out) {
  const int64_t nodes = static_cast<int64_t>(tokens.size());
  if (nodes < 1 || nodes > kMaxTreeNodes) return {StatusCode::kShape, "a tree has 1 to 64 nodes, this one " + std::to_string(nodes)};
  if (parents.size() != tokens.size()) return {StatusCode::kShape, "tokens and parents differ in length"};
  DraftTree tree;
  tree.depths.assign(nodes, 0);
  for (int64_t n = 0; n < nodes; ++n) {
    if (tokens[n] < 0 || tokens[n] >= vocab) {
      return {StatusCode::kArgument, "node " + std::to_string(n) + " has token id " + std::to_string(tokens[n]) + ", out of range"};
    }
    if (n == 0 ? parents[0] != -1 : (parents[n] < 0 || parents[n] >= n)) {
      return {StatusCode::kShape, "node " + std::to_string(n) + " has parent " + std::to_string(parents[n]) + ": parents come before children"};
    }
    if (n > 0) tree.depths[n] = tree.depths[parents[n]] + 1;
  }
  tree.path_stride = *std::max_element(tree.depths.begin(), tree.depths.end()) + 1;
  tree.paths.assign(nodes * tree.path_stride, 0);
  for (int64_t n = 0; n < nodes; ++n) {
    for (int64_t ancestor = n; ancestor >= 0; ancestor = parents[ancestor]) {
      tree.paths[n * tree.path_stride + tree.depths[ancestor]] = static_cast<int32_t>(ancestor);
    }
  }
  tree.tokens = std::move(tokens);
  tree.parents = std::move(parents);
  *out = std::move(tree);
  return {};
}

Status DraftTree::check_path(const std::vector<int32_t>& path) const {
  if (path.empty() || path[0] != 0) return {StatusCode::kShape, "a path starts at node 0"};
  for (size_t i = 1; i < path.size(); ++i) {
    if (path[i] < 0 || path[i] >= nodes() || parents[path[i]] != path[i - 1]) {
      return {StatusCode::kShape, "node " + std::to_string(path[i]) + " does not continue the path"};
    }
  }
  return {};
}

}  // namespace gorgon
