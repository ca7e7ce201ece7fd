// cross_entropy on the CPU: a row at a time, in three passes: its largest logit and the target's rank, the exponentials and their sum, and the
// exponentials, kept where the gradient goes, made the gradient.
#include "ops/cross_entropy.h"

#include <limits>

#include "common/lane_mask.h"
#include "common/lane_sums.h"
#include "common/packed.h"

namespace gorgon::GORGON_ISA {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/** Sixteen logits, or the last `count` of a row and then -infinity. */
GORGON_INLINE F32x16 load_logits(const float* x, int64_t count) {
  return count >= kLanes ? load(x) : first_lanes(load_first(x, count), static_cast<int>(count), -kInfinity);
}

struct Placed {
  float highest;
  int32_t rank;
};

/** The largest logit that is not NaN, and how many come before the target's. */
Placed place_target(const float* x, int64_t columns, int64_t target) {
  const float right = x[target];
  F32x16 highest = broadcast(-kInfinity);
  int rank = 0;
  for (int64_t i = 0; i < columns; i += kLanes) {
    const F32x16 logits = load_logits(x + i, columns - i);
    highest = max(logits, highest);  // in this order NaN does not stay
    // Of equal ones those before the target come first.
    const int64_t earlier = target - i;
    const uint32_t before = earlier >= kLanes ? 0xffffu : earlier > 0 ? (1u << earlier) - 1u : 0u;
    rank += __builtin_popcount(lanes_above(logits, right) | (lanes_not_below(logits, right) & before));
  }
  return {reduce_max(highest), rank};
}

/** Sum of e^(x - highest); the exponentials themselves to `kept`, unless that is null. */
double sum_exponentials(const float* x, int64_t columns, float highest, float* kept) {
  // So many are added in f32 before they go to the f64 sums.
  constexpr int64_t kBlock = 16 * kLanes;
  LaneSums total;
  for (int64_t begin = 0; begin < columns; begin += kBlock) {
    const int64_t end = begin + kBlock < columns ? begin + kBlock : columns;
    F32x16 some = zero();
    for (int64_t i = begin; i < end; i += kLanes) {
      const F32x16 e = exp_of_nonpositive(load_logits(x + i, columns - i) - broadcast(highest));
      some = some + e;
      if (kept != nullptr) store_first(kept + i, e, columns - i);
    }
    add(total, some);
  }
  return reduce_sum(total);
}

float rounded(float value, bool as_bf16) { return as_bf16 ? bf16_to_f32(f32_to_bf16(value)) : value; }

void go_over_row(const CrossEntropyArgs& args, int64_t row) {
  const bool as_bf16 = args.dtype == DType::kBf16;
  const float* x = args.x + row * args.x_stride;
  float* gradient = args.gradient == nullptr ? nullptr : static_cast<float*>(args.gradient) + row * args.gradient_stride;
  const int64_t target = args.targets[row];
  if (target < 0) {
    args.losses[row] = 0.0f;
    args.ranks[row] = -1;
    if (gradient != nullptr) std::memset(gradient, 0, args.columns * sizeof(float));
    return;
  }
  const Placed placed = place_target(x, args.columns, target);
  const double sum = sum_exponentials(x, args.columns, placed.highest, gradient);
  args.losses[row] = static_cast<float>(std::log(sum) - (static_cast<double>(x[target]) - static_cast<double>(placed.highest)));
  args.ranks[row] = placed.rank;
  if (gradient == nullptr) return;
  const double factor = static_cast<double>(args.scale) / sum;
  // The difference while both are in f64: a target that is almost certain leaves little.
  const float of_target = static_cast<float>((static_cast<double>(gradient[target]) - sum) * factor);
  const F32x16 factors = broadcast(static_cast<float>(factor));
  for (int64_t i = 0; i < args.columns; i += kLanes) {
    const int64_t count = args.columns - i;
    const F32x16 value = load_first(gradient + i, count) * factors;
    store_first(gradient + i, as_bf16 ? round_bf16(value) : value, count);
  }
  gradient[target] = rounded(of_target, as_bf16);
}

}  // namespace

Status cross_entropy_cpu(const CrossEntropyArgs& args, CpuContext& context) {
  // Below some thousand values a second thread costs more than it brings.
  constexpr int64_t kLeastValues = 2048;
  const auto go_over = [&](int64_t first, int64_t last, int) {
    for (int64_t row = first; row < last; ++row) go_over_row(args, row);
  };
  context.pool.run_ranges(args.rows, go_over, divide_up(kLeastValues, args.columns));
  return {};
}

}  // namespace gorgon::GORGON_ISA
