// residual_silu_gradient on the CPU: sixteen values at a time; rows split over the threads when there are many.
#include "ops/residual_silu_gradient.h"

#include "common/packed.h"
#include "common/simd.h"

namespace gorgon::GORGON_ISA {

namespace {

GORGON_INLINE F32x16 silu_slope(F32x16 a) {
  const F32x16 one = broadcast(1.0f), s = one / (one + exp(zero() - a));
  return s * (one + a * (one - s));
}

}  // namespace

Status residual_silu_gradient_cpu(const ResidualSiluGradientArgs& args, CpuContext& context) {
  // Below some thousand values a second thread costs more than it brings.
  constexpr int64_t kLeastValues = 2048;
  const bool as_bf16 = args.dtype == DType::kBf16;
  const auto multiply_rows = [&](int64_t first, int64_t last, int) {
    for (int64_t row = first; row < last; ++row) {
      const float* a = args.a + row * args.a_stride;
      const float* dz = args.dz + row * args.dz_stride;
      float* da = static_cast<float*>(args.da) + row * args.da_stride;
      for (int64_t i = 0; i < args.width; i += kLanes) {
        const int64_t count = args.width - i;
        const F32x16 value = load_first(dz + i, count) * silu_slope(load_first(a + i, count));
        store_first(da + i, as_bf16 ? round_bf16(value) : value, count);
      }
    }
  };
  context.pool.run_ranges(args.rows, multiply_rows, divide_up(kLeastValues, args.width));
  return {};
}

}  // namespace gorgon::GORGON_ISA
