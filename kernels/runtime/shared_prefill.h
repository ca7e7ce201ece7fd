// Shared prefill: one prompt, several caches. The prompt's rows run once; each branch keeps the rows its compression chooses and goes on from
// there by itself, greedily, one token a step.
//
// For benchmarks that ask many caches the same question: a prompt of 10K tokens costs more than all of its answers. Every branch has the
// tokens a session of its own would have had, by the same compression and the same passes.
#pragma once

#include <optional>
#include <vector>

#include "runtime/compression.h"

namespace gorgon {

struct Branch {
  /** None keeps all rows. */
  std::optional<CompressionSpec> compression;
  /** Rows per layer when the prompt is done. */
  int64_t rows_kept = 0;
  /** What it made, a stop id included. */
  std::vector<int32_t> tokens;
};

/**
 * Continues a prompt by at most `count` tokens in every branch, to the first of `stop_ids`. `chunk` is the rows of a prompt that run together, as
 * a session's. Needs the model's mutex.
 */
Status continue_greedily(Model& model, const std::vector<int32_t>& prompt, int64_t chunk, int64_t count, const std::vector<int32_t>& stop_ids,
                         std::vector<Branch>* branches);

}  // namespace gorgon
