// Session: one generation: its cache, its position, and the phases, which run for lists of sessions.
//
//   begin_prefill -> prefill … prefill (one chunk of one layer a call) -> verify -> commit -> verify -> commit …    and again for the next turn
//
// Between commit and verify a session holds K and V of exactly its committed tokens and the hidden row of the last one. The next
// token, the root, is chosen but not committed.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "runtime/compression.h"
#include "runtime/tree_posterior.h"

namespace gorgon {

/** SamplingParams with the memory its pointers point to. */
struct SamplingSpec {
  SamplingParams params;
  std::vector<int32_t> bias_ids;
  std::vector<float> bias_values;
  std::vector<int32_t> suppressed_ids;
  int32_t logprobs = -1;
};

struct PrefillSpec {
  std::vector<int32_t> tokens;
  SamplingSpec sampling;
  std::optional<CompressionSpec> compression;
  int64_t medusa_heads = 0;
  int64_t top_k = 0;
};

struct Drafts {
  int32_t root = 0;
  /** [M, K]. */
  std::vector<int32_t> tokens;
  std::optional<Logprobs> logprobs;
};

struct PrefillProgress {
  int64_t done = 0;
  int64_t total = 0;
  /** Set by the last chunk. */
  std::optional<Drafts> drafts;
  std::optional<CompressionReport> compression;
};

class Session;

struct VerifyItem {
  Session* session;
  std::vector<int32_t> tokens;
  std::vector<int32_t> parents;
  bool typical;
};

struct CommitItem {
  Session* session;
  std::vector<int32_t> path;
  int64_t medusa_heads;
  int64_t top_k;
};

class Session {
 public:
  explicit Session(std::shared_ptr<Model> model);

  Model& model() { return *model_; }
  int64_t position() const { return static_cast<int64_t>(tokens_.size()); }
  int64_t rows() const { return cache_.rows(0); }
  int64_t cache_bytes() const;

  /** Checks and remembers a turn; does no work and takes no memory to speak of. A prompt that was never finished is dropped first, if nothing of it was compressed yet. */
  Status begin_prefill(PrefillSpec spec);

  /**
   * Instead of a first turn: a cache as after a prompt of `tokens` tokens, rounded up to whole groups of rows, that was never computed. What
   * steps then choose means nothing; what they cost is what they would cost.
   */
  Status assume_prefill(int64_t tokens);

  // The phases take sessions of one model, each at most once, and hold its mutex. They check all of them and reserve their memory before the
  // first is touched, so a call that is refused, or finds no memory, changes nothing. A session that a failure does catch halfway can only be
  // closed.

  /** One chunk of one layer of each. */
  static Status prefill(const std::vector<std::shared_ptr<Session>>& batch, std::vector<PrefillProgress>* out);
  static Status verify(const std::vector<VerifyItem>& batch, std::vector<Posterior>* out);
  static Status commit(const std::vector<CommitItem>& batch, std::vector<Drafts>* out);

 private:
  class PassSize;
  enum class State { kIdle, kPrefilling, kReady, kVerified, kFailed };

  /** The turn that is being prefilled. */
  struct Turn {
    /** f32 [T, hidden_stride]: every token's residual stream; layers run over it in place. */
    Buffer hidden;
    std::unique_ptr<Compression> compression;
    int64_t medusa_heads = 0;
    int64_t top_k = 0;
    std::vector<int32_t> tokens;
    int64_t layer = 0;
    int64_t first = 0;
    /** Rows of each layer before the turn. */
    std::vector<int64_t> rows_before;
  };

  int64_t chunk_of(const Turn& turn) const;
  Status reserve_chunk();
  Status reserve_hidden();
  Status prefill_chunk(PrefillProgress* out);
  Status run_chunk(Turn& turn, int64_t count);
  Status finish_prefill(Turn& turn, PrefillProgress* out);
  Status check_verify(const DraftTree& tree) const;
  /** The trees of some sessions through all layers, then their posteriors, as many sessions at a time as logits may exist. */
  static Status verify_pass(const VerifyItem* items, size_t count, Posterior* out);
  static Status answer_nodes(const VerifyItem* items, size_t count, const float* logits, Posterior* out);
  Status check_commit(const CommitItem& item) const;
  /** The accepted rows in place, the tokens counted; the root that follows. */
  Status keep_path(const std::vector<int32_t>& path, Drafts* out);
  /** What all nodes of a call share. */
  PosteriorNode posterior_prototype() const;
  void count_output(int32_t token);

  std::shared_ptr<Model> model_;
  KvCache cache_;
  State state_ = State::kIdle;
  std::optional<Turn> turn_;
  /** The tree verified last, and its answers. */
  DraftTree tree_;
  Posterior posterior_;
  /** f32 [N, hidden_stride]: hidden rows of the verified nodes, or of the prompt's last token, as the last layer left them. */
  Buffer hidden_;
  /** i32: the accepted path, where operations read it. */
  Buffer path_;
  /** Keys per partial state of attention: of the session's steps since its last prompt. */
  int64_t split_rows_ = 0;
  /** Committed, over all turns. */
  std::vector<int32_t> tokens_;
  SamplingSpec sampling_;
  int64_t generated_ = 0;
  /** Empty unless a penalty needs them. */
  std::vector<uint8_t> in_prompt_;
  std::vector<int32_t> output_counts_;
};

}  // namespace gorgon
