// rope_angles on the CPU: position after position.
#include "ops/rope_angles.h"

#include <cmath>

namespace gorgon::GORGON_ISA {

Status rope_angles_cpu(const RopeAnglesArgs& args, CpuContext& context) {
  // Below some hundred positions a second thread costs more than it brings.
  constexpr int64_t kLeastPositions = 64;
  context.pool.run_ranges(
      args.count,
      [&](int64_t begin, int64_t end, int) {
        for (int64_t position = args.first + begin; position < args.first + end; ++position) {
          for (int64_t i = 0; i < args.half; ++i) {
            const float angle = static_cast<float>(position) * args.inverse_frequencies[i];
            args.cos[position * args.half + i] = static_cast<float>(std::cos(static_cast<double>(angle))) * args.scale;
            args.sin[position * args.half + i] = static_cast<float>(std::sin(static_cast<double>(angle))) * args.scale;
          }
        }
      },
      kLeastPositions);
  return {};
}

}  // namespace gorgon::GORGON_ISA
