// posterior: what decoding needs to know of each node's logits: the token it chooses, and on request the probabilities that typical
// acceptance and log-probabilities need.
//
//   logits  f32 [N, V]  read, not written
//
// Per node the logits are adjusted on the node's own prefix, the session's counts plus the tokens of the node's path, in this order:
//   1 bias          l += bias
//   2 repetition    l = l > 0 ? l / r : l * r     where the id is in prompt or output
//   3 frequency     l -= frequency * count        count of the id in the output, path included
//   4 presence      l -= presence                 where that count is not 0
//   5 suppression   l = -infinity                 for suppressed ids, while generated + path_count < min_tokens
// At temperature 0 the adjusted logits choose by arg max, ties to the lower id. Above, an id weighs e = exp((l - max) / temperature), and
//   6 top-k         keeps the k best
//   7 top-p         keeps the fewest of the best that hold top_p of the weight that is left
//   8 min-p         drops what weighs less than min_p times the best
// where "best" is the larger adjusted logit, ties to the lower id, and at least one id is always left. The token is then the first, in id
// order, at which the sum of weights exceeds u times the sum of all. u is sampling_uniform(seed, position of the token to choose), so any
// tree and any batch draws the same token. Results:
//   chosen      that token
//   child_prob  weight of a child's token over the sum; at temperature 0 with e = exp(l - max) and steps 6 to 8 left out
//   entropy     of the same distribution in nats, -sum p ln p: without the 1e-5 that the reference adds inside the logarithm
//   logprobs    of the unadjusted logits: l - ln sum exp l
//
// Limits      1 <= V < 2^31; every id in [0, V); logprobs <= 64; temperature 0 or at least 0.001.
// Odd logits  NaN counts as -infinity, and -infinity is never chosen; +infinity counts as the largest float. Where every adjusted logit
//             is -infinity, the arg max of the raw logits is chosen (all of them NaN: id 0), with probability 1 and entropy 0.
// Numerics    adjustments, weights in f32, each operation rounded, exp from simd.h, on CUDA its own expf; sums of weights in f64.
// Row result  independent of N, of the threads and, on the CPU, of the instruction set, bit for bit.
// Cost        a plain greedy node reads its logits once; another goes over V floats of scratch 5 to 30 times and sorts at most 512 ids.
// Errors      ERR_SHAPE, ERR_OUT_OF_MEMORY.
// Source      sample-then-match is lossless: SpecInfer paper; typical acceptance: Medusa paper, "Typical Acceptance"; repetition penalty:
//             CTRL paper, "Penalized Sampling"; top-p: "The Curious Case of Neural Text Degeneration"; min-p: "Turning Up the Heat".
// See         common/philox.h, test/oracle/posterior.ts
#pragma once

#include <cstdio>

#include "common/context.h"
#include "common/philox.h"
#include "ops/top_k.h"

namespace gorgon {

/** See SamplingSpec in src/native.ts. */
struct SamplingParams {
  float temperature = 0.0f;
  /** 0 is off. */
  int32_t top_k = 0;
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float frequency_penalty = 0.0f;
  float presence_penalty = 0.0f;
  uint64_t seed = 0;
  const int32_t* bias_ids = nullptr;
  const float* bias_values = nullptr;
  int64_t bias_count = 0;
  /** Ids that cannot be chosen while the turn has fewer than min_tokens tokens. */
  const int32_t* suppressed_ids = nullptr;
  int64_t suppressed_count = 0;
  int64_t min_tokens = 0;
};

/** Whether the tokens so far change the logits. */
static inline bool has_penalties(const SamplingParams& sampling) {
  return sampling.repetition_penalty != 1.0f || sampling.frequency_penalty != 0.0f || sampling.presence_penalty != 0.0f;
}

/** One node's row of logits, in the backend's memory, and the prefix it continues; all that is not logits is the process's own memory. */
struct PosteriorNode {
  const float* logits;
  const SamplingParams* sampling;
  /** u8 [V]: not 0 where the id occurs in the prompt; null when no penalty needs it. */
  const uint8_t* in_prompt;
  /** i32 [V]: times the id was generated and committed; null when no penalty needs it. */
  const int32_t* output_counts;
  /** Tokens of the node's path, root first: generated, not yet counted. */
  const int32_t* path_tokens;
  int64_t path_count;
  /** Tokens generated in this turn before the path's root. */
  int64_t generated;
  /** Position of the token to choose. */
  int64_t position;
  /** Children's tokens whose warped probability is wanted. */
  const int32_t* child_tokens;
  int64_t child_count;
  /** Whether child_prob and entropy are wanted. */
  bool typical;
  /** -1: no log-probabilities; n: those of `chosen` and the children, and the n best. */
  int32_t logprobs;

  // Results.
  int32_t chosen;
  /** Written when `typical`. */
  float entropy;
  /** [child_count], written when `typical`. */
  float* child_prob;
  /** When logprobs >= 0: of chosen; [child_count]; [logprobs] ids and values, best first, ties to the lower id; -1 and -infinity past V. */
  float chosen_logprob;
  float* child_logprob;
  int32_t* top_ids;
  float* top_values;
};

struct PosteriorArgs {
  PosteriorNode* nodes;
  int64_t node_count;
  int64_t vocab;
};

static inline bool is_suppressing(const PosteriorNode& node) {
  const SamplingParams& sampling = *node.sampling;
  return sampling.suppressed_count > 0 && node.generated + node.path_count < sampling.min_tokens;
}

/** Whether the arg max of the raw logits is all there is to know. */
static inline bool is_plain_greedy(const PosteriorNode& node) {
  const SamplingParams& sampling = *node.sampling;
  return sampling.temperature == 0.0f && sampling.bias_count == 0 && !has_penalties(sampling) && !is_suppressing(node) && !node.typical &&
         node.logprobs < 0;
}

/** ERR_SHAPE where the limits are not kept. */
static inline Status check_posterior(const PosteriorArgs& args) {
  for (int64_t i = 0; i < args.node_count; ++i) {
    if (args.vocab >= 1 && args.vocab <= INT32_MAX && args.nodes[i].logprobs <= kMaxTopK) continue;
    char message[160];
    std::snprintf(message, sizeof message, "posterior: %lld log-probabilities of %lld ids. Use at most %d, and at least 1 id.",
                  static_cast<long long>(args.nodes[i].logprobs), static_cast<long long>(args.vocab), kMaxTopK);
    return {StatusCode::kShape, message};
  }
  return {};
}

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status posterior_cpu(const PosteriorArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status posterior_cuda(const PosteriorArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
