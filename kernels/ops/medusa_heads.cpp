// medusa_heads on the CPU: products through linear, the gate in between.
#include "ops/medusa_heads.h"

#include "ops/linear.h"
#include "ops/silu.h"

namespace gorgon::GORGON_ISA {

Status medusa_heads_cpu(const MedusaHeadsArgs& args, CpuContext& context) {
  const int64_t stride = args.x_stride, rows = args.rows;
  const bool as_bf16 = args.dtype == DType::kBf16;
  float* product = args.workspace;                              // [S]
  float* residual = product + rows * stride;                    // [M * S]: z in f32
  float* input = residual + args.head_count * rows * stride;    // [M * S]: z as the next product takes it
  for (int64_t head = 0; head < args.head_count; ++head) {
    const MedusaHeadWeights& weights = args.heads[head];
    float* z = residual + head * rows * stride;
    float* z_input = input + head * rows * stride;
    for (int64_t row = 0; row < rows; ++row) {
      std::memcpy(z + row * stride, args.x + row * stride, args.width * sizeof(float));
      std::memcpy(z_input + row * stride, args.x + row * stride, args.width * sizeof(float));
    }
    for (int64_t block = 0; block < args.block_count; ++block) {
      GORGON_TRY(linear_cpu({z_input, stride, rows, weights.blocks[block], weights.biases[block], product, stride, false, false}, context));
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t i = 0; i < args.width; i += kLanes) {
          const int64_t at = row * stride + i, count = args.width - i;
          const F32x16 value = load_first(z + at, count) + silu(load_first(product + at, count));
          store_first(z + at, value, count);
          store_first(z_input + at, as_bf16 ? round_bf16(value) : value, count);
        }
      }
    }
    if (!args.shared_projection) {
      GORGON_TRY(linear_cpu({z_input, stride, rows, weights.projection, nullptr, args.logits + head * rows * args.logits_stride,
                             args.logits_stride, false, false},
                            context));
    }
  }
  if (!args.shared_projection) return {};
  return linear_cpu({input, stride, args.head_count * rows, args.heads[0].projection, nullptr, args.logits, args.logits_stride, false, false},
                    context);
}

}  // namespace gorgon::GORGON_ISA
