// residual_silu on the CPU: sixteen values at a time; rows split over the threads when there are many.
#include "ops/residual_silu.h"

#include "common/packed.h"
#include "ops/silu.h"

namespace gorgon::GORGON_ISA {

Status residual_silu_cpu(const ResidualSiluArgs& args, CpuContext& context) {
  // Below some thousand values a second thread costs more than it brings.
  constexpr int64_t kLeastValues = 2048;
  const bool as_bf16 = args.dtype == DType::kBf16;
  const auto add_rows = [&](int64_t first, int64_t last, int) {
    for (int64_t row = first; row < last; ++row) {
      const float* a = args.a + row * args.a_stride;
      float* z = args.z + row * args.z_stride;
      float* out = static_cast<float*>(args.out) + row * args.out_stride;
      for (int64_t i = 0; i < args.width; i += kLanes) {
        const int64_t count = args.width - i;
        const F32x16 value = load_first(z + i, count) + silu(load_first(a + i, count));
        store_first(z + i, value, count);
        store_first(out + i, as_bf16 ? round_bf16(value) : value, count);
      }
    }
  };
  context.pool.run_ranges(args.rows, add_rows, divide_up(kLeastValues, args.width));
  return {};
}

}  // namespace gorgon::GORGON_ISA
