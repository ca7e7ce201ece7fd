// attention_votes on the CPU: a task is a chunk of keys of one KV head. The first pass leaves each query's maximum and sum per chunk, the
// second, with those merged in chunk order, adds the weights to the votes.
#include "ops/attention_votes.h"

#include "ops/attention_state.h"

namespace gorgon::GORGON_ISA {

namespace {

struct Work {
  const AttentionVotesArgs& args;
  int64_t group;
  int64_t q_width;
  float scale;
  int64_t query_rows() const { return args.tokens * group; }
};

/** Calls visit(row, scores, keys, max, sum, begin, end) for each query row of a chunk, with its weights e^(s - max) in `scores`. */
template <class Visit>
void visit_chunk(const Work& work, int64_t kv_head, int64_t chunk, const Visit& visit) {
  const AttentionVotesArgs& args = work.args;
  const KvHead& head = args.heads[kv_head];
  const int64_t first = chunk * kChunkKeys, all_keys = args.rows + args.tokens;
  const int64_t groups = divide_up(first + kChunkKeys < all_keys ? kChunkKeys : all_keys - first, kRowGroup);
  const PackedMatrix k = k_matrix(head.k, args.dtype, args.head_dim, first / kRowGroup, groups);
  alignas(64) float q[kBlockQueries * kMaxHeadDim];
  alignas(64) float scores[kBlockQueries * kChunkKeys];
  for (int64_t row = 0; row < work.query_rows(); row += kBlockQueries) {
    const int64_t count = row + kBlockQueries < work.query_rows() ? kBlockQueries : work.query_rows() - row;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t token = (row + i) / work.group, query_head = kv_head * work.group + (row + i) % work.group;
      std::memcpy(q + i * work.q_width, static_cast<const float*>(args.q) + token * args.q_stride + query_head * work.q_width, work.q_width * sizeof(float));
    }
    tile_product(q, work.q_width, count, k, 0, 2 * groups, scores, kChunkKeys, false);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t token = (row + i) / work.group;
      const int64_t begin = first_visible_row(head.positions, args.rows + token, args.position + token, args.window) - first;
      const int64_t end = args.rows + token + 1 - first;
      float maximum, sum;
      scores_to_weights<false>(scores + i * kChunkKeys, groups * kRowGroup, static_cast<int32_t>(begin), static_cast<int32_t>(end),
                               work.scale, &maximum, &sum);
      visit(row + i, scores + i * kChunkKeys, groups * kRowGroup, maximum, sum);
    }
  }
}

}  // namespace

Status attention_votes_cpu(const AttentionVotesArgs& args, CpuContext& context) {
  const Work work{args, args.query_heads / args.kv_heads, round_up(args.head_dim, kTileDepth),
                  1.0f / std::sqrt(static_cast<float>(args.head_dim))};
  const int64_t chunks = divide_up(args.rows + args.tokens, kChunkKeys);
  const int64_t rows = work.query_rows();
  // Per KV head and query row: maximum and sum of each chunk; behind them, those of the whole row.
  const int64_t row_floats = 2 * (chunks + 1);
  float* parts = nullptr;
  GORGON_TRY(context.scratch.get(args.kv_heads * rows * row_floats, &parts));

  context.pool.run(args.kv_heads * chunks, [&](int64_t task, int) {
    const int64_t kv_head = task / chunks, chunk = task % chunks;
    visit_chunk(work, kv_head, chunk, [&](int64_t row, const float*, int64_t, float maximum, float sum) {
      float* part = parts + (kv_head * rows + row) * row_floats + 2 * chunk;
      part[0] = maximum;
      part[1] = sum;
    });
  });
  context.pool.run_ranges(args.kv_heads * rows, [&](int64_t first, int64_t last, int) {
    for (int64_t row = first; row < last; ++row) {
      float* part = parts + row * row_floats;
      float maximum = -INFINITY, sum = 0.0f;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        if (part[2 * chunk + 1] == 0.0f) continue;
        const float larger = part[2 * chunk] > maximum ? part[2 * chunk] : maximum;
        sum = (sum == 0.0f ? 0.0f : sum * exp1(maximum - larger)) + part[2 * chunk + 1] * exp1(part[2 * chunk] - larger);
        maximum = larger;
      }
      part[2 * chunks] = maximum;
      part[2 * chunks + 1] = sum;
    }
  });
  context.pool.run(args.kv_heads * divide_up(args.vote_rows, kChunkKeys), [&](int64_t task, int) {
    const int64_t vote_chunks = divide_up(args.vote_rows, kChunkKeys);
    const int64_t kv_head = task / vote_chunks, chunk = task % vote_chunks;
    visit_chunk(work, kv_head, chunk, [&](int64_t row, const float* weights, int64_t keys, float maximum, float sum) {
      if (sum == 0.0f) return;
      const float* whole = parts + (kv_head * rows + row) * row_floats + 2 * chunks;
      const F32x16 share = broadcast(exp1(maximum - whole[0]) / whole[1]);
      float* votes = args.votes + (kv_head * work.group + row % work.group) * args.votes_stride + chunk * kChunkKeys;
      for (int64_t j = 0; j < keys; j += kLanes) {
        const int64_t count = args.vote_rows - chunk * kChunkKeys - j;
        if (count <= 0) break;
        store_first(votes + j, fma(load(weights + j), share, load_first(votes + j, count)), count);
      }
    });
  });
  return {};
}

}  // namespace gorgon::GORGON_ISA
