// causal_attention on the CPU: a task is a block of query rows of one KV head; it goes over the chunks in order and keeps running states.
#include "ops/causal_attention.h"

#include "ops/attention_state.h"

namespace gorgon::GORGON_ISA {

Status causal_attention_cpu(const CausalAttentionArgs& args, CpuContext& context) {
  const int64_t group = args.query_heads / args.kv_heads;
  const int64_t block_tokens = group >= kBlockQueries ? 1 : kBlockQueries / group;
  const int64_t needed = args.tokens - args.skip, blocks = divide_up(needed, block_tokens);
  const int64_t q_width = round_up(args.head_dim, kTileDepth);
  const int64_t stride = state_floats(args.head_dim);
  const float scale = 1.0f / std::sqrt(static_cast<float>(args.head_dim));

  // Per thread: the block's queries, its running states and the states of one chunk.
  const int64_t block_rows = block_tokens * group;
  const int64_t thread_floats = block_rows * (q_width + 2 * stride);
  float* scratch = nullptr;
  GORGON_TRY(context.scratch.get(thread_floats * context.pool.threads(), &scratch));

  context.pool.run(blocks * args.kv_heads, [&](int64_t task, int thread) {
    // The last blocks see the most keys: they go first, so that no thread starts a long one at the end.
    const int64_t block = blocks - 1 - task / args.kv_heads;
    const int64_t kv_head = task % args.kv_heads;
    const KvHead& head = args.heads[kv_head];
    const int64_t first_token = args.skip + block * block_tokens;
    const int64_t tokens = first_token + block_tokens < args.tokens ? block_tokens : args.tokens - first_token;
    const int64_t rows = tokens * group;
    float* q = scratch + thread * thread_floats;
    float* running = q + block_rows * q_width;
    float* part = running + block_rows * stride;

    for (int64_t row = 0; row < rows; ++row) {
      const int64_t token = first_token + row / group, query_head = kv_head * group + row % group;
      std::memcpy(q + row * q_width, static_cast<const float*>(args.q) + token * args.q_stride + query_head * q_width, q_width * sizeof(float));
      clear_state(running + row * stride, args.head_dim);
    }
    const auto first_key = [&](int64_t token) {
      return first_visible_row(head.positions, args.rows + token, args.position + token, args.window);
    };
    const int64_t keys = args.rows + first_token + tokens;  // the last row's
    const int64_t hidden = first_key(first_token);
    for (int64_t chunk = hidden / kChunkKeys * kChunkKeys; chunk < keys; chunk += kChunkKeys) {
      const int64_t groups = divide_up(chunk + kChunkKeys < keys ? kChunkKeys : keys - chunk, kRowGroup);
      const PackedMatrix k = k_matrix(head.k, args.dtype, args.head_dim, chunk / kRowGroup, groups);
      const PackedMatrix v = v_matrix(head.v, args.dtype, args.head_dim, chunk / kRowGroup, groups);
      for (int64_t row = 0; row < rows; row += kBlockQueries) {
        int32_t begin[kBlockQueries], end[kBlockQueries];
        const int64_t count = row + kBlockQueries < rows ? kBlockQueries : rows - row;
        for (int64_t i = 0; i < count; ++i) {
          const int64_t token = first_token + (row + i) / group;
          begin[i] = static_cast<int32_t>(first_key(token) - chunk);
          end[i] = static_cast<int32_t>(args.rows + token + 1 - chunk);
        }
        attend_chunk({q + row * q_width, q_width, count, begin, end}, k, v, groups, args.head_dim, scale, part + row * stride);
      }
      merge_rows(running, part, rows, args.head_dim);
    }
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t token = first_token + row / group, query_head = kv_head * group + row % group;
      finish_state(running + row * stride, args.head_dim, args.dtype == DType::kBf16,
                   static_cast<float*>(args.out) + (token - args.skip) * args.out_stride + query_head * args.head_dim);
    }
  });
  return {};
}

}  // namespace gorgon::GORGON_ISA
