// rope_append on the CPU: the parts one after the other: normalise, turn queries, turn keys, append item by item.
#include "ops/rope_append.h"

#include "ops/kv_append.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"

namespace gorgon::GORGON_ISA {

Status rope_append_cpu(const RopeAppendArgs& args, CpuContext& context) {
  const int64_t head_dim = args.head_dim, half = head_dim / 2, tokens = args.tokens;
  const int64_t q_width = args.query_heads * head_dim, kv_width = args.kv_heads * head_dim;
  if (args.q_norm != nullptr) {
    for (int64_t head = 0; head < args.query_heads + args.kv_heads; ++head) {
      float* rows = args.qkv + head * head_dim;  // k stands behind q
      const float* weight = head < args.query_heads ? args.q_norm : args.k_norm;
      GORGON_TRY(rms_norm_cpu({rows, args.qkv_stride, tokens, head_dim, weight, args.eps, DType::kF32, false, rows, args.qkv_stride}, context));
    }
  }
  float* keys = args.workspace;
  float* cos = keys + tokens * kv_width;
  float* sin = cos + tokens * half;
  for (int64_t t = 0; t < tokens; ++t) {
    std::memcpy(cos + t * half, args.cos + args.positions[t] * half, half * sizeof(float));
    std::memcpy(sin + t * half, args.sin + args.positions[t] * half, half * sizeof(float));
  }
  const bool as_bf16 = args.dtype == DType::kBf16;
  GORGON_TRY(rope_cpu({args.qkv, args.qkv_stride, tokens, args.query_heads, head_dim, cos, sin, as_bf16, static_cast<float*>(args.q), args.q_stride,
                       round_up(head_dim, kTileDepth)},
                      context));
  GORGON_TRY(rope_cpu({args.qkv + q_width, args.qkv_stride, tokens, args.kv_heads, head_dim, cos, sin, false, keys, kv_width, head_dim}, context));
  for (int64_t i = 0; i < args.item_count; ++i) {
    const PassItem& item = args.items[i];
    const float* v = args.qkv + item.first * args.qkv_stride + q_width + kv_width;
    GORGON_TRY(kv_append_cpu({keys + item.first * kv_width, kv_width, v, args.qkv_stride, item.tokens, item.heads + args.layer * args.kv_heads,
                              args.kv_heads, head_dim, args.dtype, item.rows, item.position, item.depths},
                             context));
  }
  return {};
}

}  // namespace gorgon::GORGON_ISA
