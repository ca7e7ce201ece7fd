// Compression: what has to be remembered while a layer's prompt runs, and the choosing of the rows that stay.
#pragma once

#include <vector>

#include "ops/snapkv_select.h"
#include "runtime/model.h"

namespace gorgon {

enum class KvPolicy { kSnapkv, kH2o, kStreaming };

/** Names are those of CompressionSpec in src/native.ts. */
struct CompressionSpec {
  KvPolicy policy = KvPolicy::kSnapkv;
  int64_t budget = 0;
  int64_t window = 0;
  int64_t pool_size = 1;
  Pool pool = Pool::kMax;
  GroupReduce group_reduce = GroupReduce::kMean;
  int64_t sinks = 0;
  bool report_kept = false;
};

/** Whether budget, window, sinks and pool size go together. */
Status check_compression(const CompressionSpec& spec);

struct CompressionReport {
  int64_t rows_before = 0;
  int64_t rows_kept = 0;
  int64_t bytes_before = 0;
  int64_t bytes_after = 0;
  double ms = 0;
  /** [L, Hkv, rows_kept] positions, when asked for. */
  std::vector<int32_t> kept;
};

/** One turn's compression, layer by layer: begin_layer, see_chunk for each chunk, finish_layer. Needs the model's mutex. */
class Compression {
 public:
  /** `rows` committed before the turn, `tokens` of the turn. */
  Compression(Model& model, const CompressionSpec& spec, int64_t rows, int64_t tokens);

  Status begin_layer();
  /** After forward_layer of tokens [first, first + count) of the turn: its queries vote if they have a vote. */
  Status see_chunk(int64_t layer, const KvCache& cache, int64_t position, int64_t first, int64_t count);
  /** Selects, gathers, and gives the memory back. */
  Status finish_layer(int64_t layer, KvCache& cache, int64_t position);

  const CompressionSpec& spec() const { return spec_; }
  const CompressionReport& report() const { return report_; }

 private:
  /** The rows whose place in the cache follows from the policy alone, written into `chosen`: StreamingLLM's all, the others' window. */
  void choose_fixed(std::vector<int32_t>* chosen) const;
  Status report_positions(int64_t layer, const KvCache& cache);
  int64_t total_rows() const { return rows_ + tokens_; }
  /** Turn tokens whose queries vote at the end: the window, or all there are. */
  int64_t voting_tokens() const { return spec_.window < tokens_ ? spec_.window : tokens_; }
  Status vote(int64_t layer, const KvCache& cache, const void* q, int64_t first, int64_t count, int64_t position, int64_t vote_rows);

  Model& model_;
  CompressionSpec spec_;
  int64_t rows_;
  int64_t tokens_;
  CompressionReport report_;
  /** The window's query rows of the current layer, across chunk boundaries. */
  Buffer window_queries_;
  /** f32 [Hq, total rows]. */
  Buffer votes_;
  /** i32 [Hkv, budget]. */
  Buffer chosen_;
};

}  // namespace gorgon
