// From nodes to requests and from answers back to nodes.
#include "runtime/tree_posterior.h"

#include <algorithm>
#include <limits>

namespace gorgon {

Logprobs Logprobs::row(int64_t index, int64_t n) const {
  return {{chosen[index]},
          {top_ids.begin() + index * n, top_ids.begin() + (index + 1) * n},
          {top_values.begin() + index * n, top_values.begin() + (index + 1) * n}};
}

TreePosterior::TreePosterior(const DraftTree& tree, const PosteriorNode& prototype, int64_t position, bool typical)
    : tree_(tree), prototype_(prototype), position_(position), typical_(typical) {
  const int64_t nodes = tree.nodes();
  for (int32_t n = 1; n < nodes; ++n) children_.push_back(n);
  std::stable_sort(children_.begin(), children_.end(), [&](int32_t a, int32_t b) { return tree.parents[a] < tree.parents[b]; });
  first_child_.assign(nodes + 1, 0);
  for (int64_t n = 1; n < nodes; ++n) ++first_child_[tree.parents[n] + 1];
  for (int64_t n = 0; n < nodes; ++n) first_child_[n + 1] += first_child_[n];
  for (const int32_t child : children_) child_tokens_.push_back(tree.tokens[child]);
  path_tokens_.resize(tree.paths.size());
  for (size_t i = 0; i < tree.paths.size(); ++i) path_tokens_[i] = tree.tokens[tree.paths[i]];
  child_prob_.resize(children_.size());
  child_logprob_.resize(children_.size());
  const int64_t tops = std::max<int64_t>(prototype.logprobs, 0);
  logprobs_.top_ids.resize(nodes * tops);
  logprobs_.top_values.resize(nodes * tops);
}

void TreePosterior::append_requests(const float* logits, int64_t vocab, std::vector<PosteriorNode>* out) {
  const int64_t tops = std::max<int64_t>(prototype_.logprobs, 0);
  for (int64_t n = 0; n < tree_.nodes(); ++n) {
    PosteriorNode node = prototype_;
    node.logits = logits + n * vocab;
    node.position = position_ + tree_.depths[n] + 1;
    node.path_tokens = path_tokens_.data() + n * tree_.path_stride;
    node.path_count = tree_.depths[n] + 1;
    node.child_tokens = child_tokens_.data() + first_child_[n];
    node.child_count = first_child_[n + 1] - first_child_[n];
    node.typical = typical_;
    node.child_prob = child_prob_.data() + first_child_[n];
    node.child_logprob = child_logprob_.data() + first_child_[n];
    node.top_ids = logprobs_.top_ids.data() + n * tops;
    node.top_values = logprobs_.top_values.data() + n * tops;
    out->push_back(node);
  }
}

Posterior TreePosterior::collect(const PosteriorNode* answers) {
  const int64_t nodes = tree_.nodes();
  Posterior posterior;
  for (int64_t n = 0; n < nodes; ++n) posterior.chosen.push_back(answers[n].chosen);
  if (typical_) {
    posterior.token_prob.assign(nodes, 1.0f);
    for (int64_t n = 0; n < nodes; ++n) posterior.entropy.push_back(answers[n].entropy);
    for (size_t c = 0; c < children_.size(); ++c) posterior.token_prob[children_[c]] = child_prob_[c];
  }
  if (prototype_.logprobs >= 0) {
    for (int64_t n = 0; n < nodes; ++n) logprobs_.chosen.push_back(answers[n].chosen_logprob);
    posterior.token_logprob.assign(nodes, std::numeric_limits<float>::quiet_NaN());
    for (size_t c = 0; c < children_.size(); ++c) posterior.token_logprob[children_[c]] = child_logprob_[c];
    posterior.logprobs = std::move(logprobs_);
  }
  return posterior;
}

}  // namespace gorgon
