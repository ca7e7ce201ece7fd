// stream_read on the CPU: a contiguous share for each thread, eight cache lines a turn, each into a chain of additions of its own.
#include "ops/stream_read.h"

#include "common/simd.h"

namespace gorgon::GORGON_ISA {

namespace {

// Enough chains to hide the latency of an addition behind two loads a cycle.
constexpr int kChains = 8;

template <int Streams>
double read_share(const float* data, int64_t lines, int64_t prefetch_lines) {
  constexpr int kLinesPerStream = kChains / Streams;
  const int64_t share = lines / Streams / kLinesPerStream * kLinesPerStream;
  F32x16 sum[kChains];
  for (F32x16& chain : sum) chain = zero();
  for (int64_t line = 0; line < share; line += kLinesPerStream) {
    for (int stream = 0; stream < Streams; ++stream) {
      const float* at = data + (stream * share + line) * kLanes;
      for (int i = 0; i < kLinesPerStream; ++i) {
        if (prefetch_lines > 0) __builtin_prefetch(at + (i + prefetch_lines) * kLanes);
        F32x16& chain = sum[stream * kLinesPerStream + i];
        chain = chain + load(at + i * kLanes);
      }
    }
  }
  for (int64_t line = share * Streams; line < lines; ++line) sum[line % kChains] = sum[line % kChains] + load(data + line * kLanes);
  double total = 0;
  for (const F32x16& chain : sum) total += reduce_sum(chain);
  return total;
}

}  // namespace

Status stream_read_cpu(const StreamReadArgs& args, CpuContext& context) {
  const int64_t threads = context.pool.threads();
  context.pool.run(threads, [&](int64_t part, int) {
    const int64_t begin = args.lines * part / threads, end = args.lines * (part + 1) / threads;
    const float* data = args.data + begin * kLanes;
    double& sum = args.sums[part];
    switch (args.streams) {
      case 4:
        sum = read_share<4>(data, end - begin, args.prefetch_lines);
        break;
      case 2:
        sum = read_share<2>(data, end - begin, args.prefetch_lines);
        break;
      default:
        sum = read_share<1>(data, end - begin, args.prefetch_lines);
    }
  });
  return {};
}

}  // namespace gorgon::GORGON_ISA
