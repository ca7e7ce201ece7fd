// TreePosterior: one tree's requests to the posterior operation, and its answers by node.
#pragma once

#include <optional>
#include <vector>

#include "ops/posterior.h"
#include "runtime/draft_tree.h"

namespace gorgon {

/** Of chosen tokens, under the unwarped distribution: one entry, and `n` best, per row. */
struct Logprobs {
  std::vector<float> chosen;
  std::vector<int32_t> top_ids;
  std::vector<float> top_values;
  /** One row of these, of `n` best each. */
  Logprobs row(int64_t index, int64_t n) const;
};

struct Posterior {
  std::vector<int32_t> chosen;
  /** [N], when typical acceptance asks for them. */
  std::vector<float> token_prob, entropy;
  std::optional<Logprobs> logprobs;
  /** [N] of each node's own token after its parent, with logprobs. */
  std::vector<float> token_logprob;
};

class TreePosterior {
 public:
  /** `prototype` holds what all nodes share: sampling, counts, generated, logprobs. `position` is the root's. The tree must outlive this. */
  TreePosterior(const DraftTree& tree, const PosteriorNode& prototype, int64_t position, bool typical);

  /** Nodes to ask for, which point into this: it must stay where it is until they are answered. */
  void append_requests(const float* logits, int64_t vocab, std::vector<PosteriorNode>* out);
  /** The answers, in the order the requests were appended. */
  Posterior collect(const PosteriorNode* answers);

 private:
  const DraftTree& tree_;
  PosteriorNode prototype_;
  int64_t position_;
  bool typical_;
  /** Nodes, and their tokens, sorted by parent: a node's children are neighbours. */
  std::vector<int32_t> children_, child_tokens_;
  std::vector<int64_t> first_child_;
  std::vector<int32_t> path_tokens_;
  std::vector<float> child_prob_, child_logprob_;
  Logprobs logprobs_;
};

}  // namespace gorgon
