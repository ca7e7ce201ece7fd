// multiply_add on the CPU: as many independent chains as hide the latency of one instruction, in registers that hold them all.
#include "ops/multiply_add.h"

#include "common/simd.h"
#if defined(__AMX_TILE__) && defined(__AMX_BF16__)
#define GORGON_MULTIPLY_TILES 1
#include <immintrin.h>

#include "common/dtype.h"
#endif

namespace gorgon::GORGON_ISA {

namespace {

#if GORGON_MULTIPLY_TILES

// Six accumulators, one tile of each operand: a product takes 16 cycles to issue and 52 to finish.
constexpr int kChains = 6;
constexpr int64_t kMultiplyAddsPerStep = int64_t{kChains} * 16 * 16 * 32;

struct TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

double multiply_add_share(float x, int64_t steps) {
  // The thread's tiles as they were are the thread's tiles as they will be.
  alignas(64) TileConfig saved{}, config{};
  _tile_storeconfig(&saved);
  config.palette = 1;
  for (int tile = 0; tile < 8; ++tile) {
    config.row_bytes[tile] = 64;
    config.rows[tile] = 16;
  }
  asm volatile("" ::: "memory");
  _tile_loadconfig(&config);

  alignas(64) uint16_t operand[16 * 32];
  alignas(64) float result[16 * 16];
  const auto memory_is_written = [] { asm volatile("" ::: "memory"); };  // the compiler does not see what a tile load reads
  for (uint16_t& value : operand) value = f32_to_bf16(x);
  memory_is_written();
  _tile_loadd(6, operand, 64);
  for (uint16_t& value : operand) value = f32_to_bf16(1.0f);
  memory_is_written();
  _tile_loadd(7, operand, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  for (int64_t step = 0; step < steps; ++step) {
    _tile_dpbf16ps(0, 6, 7);
    _tile_dpbf16ps(1, 6, 7);
    _tile_dpbf16ps(2, 6, 7);
    _tile_dpbf16ps(3, 6, 7);
    _tile_dpbf16ps(4, 6, 7);
    _tile_dpbf16ps(5, 6, 7);
  }
  double total = 0;
  const auto add_result = [&] {
    for (const float value : result) total += value;
  };
  _tile_stored(0, result, 64);
  add_result();
  _tile_stored(1, result, 64);
  add_result();
  _tile_stored(2, result, 64);
  add_result();
  _tile_stored(3, result, 64);
  add_result();
  _tile_stored(4, result, 64);
  add_result();
  _tile_stored(5, result, 64);
  add_result();
  if (saved.palette == 0) {
    _tile_release();
  } else {
    _tile_loadconfig(&saved);
  }
  return total;
}

#else

#if GORGON_SIMD_AVX512
constexpr int kChains = 12;
#elif GORGON_SIMD_AVX2
constexpr int kChains = 6;
#else
constexpr int kChains = 4;
#endif
constexpr int64_t kMultiplyAddsPerStep = int64_t{kChains} * kLanes;

double multiply_add_share(float x, int64_t steps) {
  const F32x16 factor = broadcast(x), one = broadcast(1.0f);
  F32x16 sum[kChains];
  for (F32x16& chain : sum) chain = zero();
  for (int64_t step = 0; step < steps; ++step) {
    for (F32x16& chain : sum) chain = fma(factor, one, chain);
  }
  double total = 0;
  for (const F32x16& chain : sum) {
    float lanes[kLanes];
    store(lanes, chain);
    for (const float lane : lanes) total += lane;
  }
  return total;
}

#endif

}  // namespace

Status multiply_add_cpu(const MultiplyAddArgs& args, CpuContext& context) {
  const int64_t threads = context.pool.threads();
  context.pool.run(threads, [&](int64_t part, int) { args.sums[part] = multiply_add_share(args.x, args.steps); });
  *args.flops = 2 * kMultiplyAddsPerStep * args.steps * threads;
  return {};
}

}  // namespace gorgon::GORGON_ISA
