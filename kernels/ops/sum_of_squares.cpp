// sum_of_squares on the CPU: pieces of a fixed size, each summed by one thread; then their sums, in order.
#include "ops/sum_of_squares.h"

#include "common/lane_sums.h"
#include "common/packed.h"

namespace gorgon::GORGON_ISA {

namespace {

double sum_piece(const float* x, int64_t count) {
  LaneSums sums;
  for (int64_t i = 0; i < count; i += kLanes) {
    const F32x16 value = load_first(x + i, count - i);
    add_product(sums, value, value);
  }
  return reduce_sum(sums);
}

}  // namespace

Status sum_of_squares_cpu(const SumOfSquaresArgs& args, CpuContext& context) {
  constexpr int64_t kPiece = 16384;
  const int64_t pieces = divide_up(args.count, kPiece);
  double* sums = nullptr;
  GORGON_TRY(context.scratch.get(pieces, &sums));
  context.pool.run_ranges(pieces, [&](int64_t first, int64_t last, int) {
    for (int64_t piece = first; piece < last; ++piece) {
      const int64_t begin = piece * kPiece, end = begin + kPiece < args.count ? begin + kPiece : args.count;
      sums[piece] = sum_piece(args.x + begin, end - begin);
    }
  });
  *args.out = 0;
  for (int64_t piece = 0; piece < pieces; ++piece) *args.out += sums[piece];
  return {};
}

}  // namespace gorgon::GORGON_ISA
