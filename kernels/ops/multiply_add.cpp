// multiply_add on the CPU: as many independent chains as hide the latency of one instruction, in registers that hold them all.
#include "ops/multiply_add.h"

#include "common/amx.h"
#include "common/dtype.h"
#include "common/simd.h"

namespace gorgon::GORGON_ISA {

namespace {

#if GORGON_SIMD_AMX

// Six accumulators, one tile of each operand: a product takes 16 cycles to issue and 52 to finish.
constexpr int kChains = 6;
constexpr int64_t kMultiplyAddsPerStep = int64_t{kChains} * 16 * 16 * 32;

double multiply_add_share(float x, int64_t steps) {
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    config.row_bytes[tile] = 64;
    config.rows[tile] = 16;
  }
  GORGON_TILE_CONFIGURE(&config);

  alignas(64) uint16_t operand[16 * 32];
  alignas(64) float result[16 * 16];
  for (uint16_t& value : operand) value = f32_to_bf16(x);
  tile_memory_is_written();
  GORGON_TILE_LOAD(6, operand, 64);
  for (uint16_t& value : operand) value = f32_to_bf16(1.0f);
  tile_memory_is_written();
  GORGON_TILE_LOAD(7, operand, 64);
  GORGON_TILE_ZERO(0);
  GORGON_TILE_ZERO(1);
  GORGON_TILE_ZERO(2);
  GORGON_TILE_ZERO(3);
  GORGON_TILE_ZERO(4);
  GORGON_TILE_ZERO(5);
  for (int64_t step = 0; step < steps; ++step) {
    GORGON_TILE_MULTIPLY(0, 6, 7);
    GORGON_TILE_MULTIPLY(1, 6, 7);
    GORGON_TILE_MULTIPLY(2, 6, 7);
    GORGON_TILE_MULTIPLY(3, 6, 7);
    GORGON_TILE_MULTIPLY(4, 6, 7);
    GORGON_TILE_MULTIPLY(5, 6, 7);
  }
  double total = 0;
  const auto add_result = [&] {
    tile_memory_is_written();
    for (const float value : result) total += value;
  };
  GORGON_TILE_STORE(0, result, 64);
  add_result();
  GORGON_TILE_STORE(1, result, 64);
  add_result();
  GORGON_TILE_STORE(2, result, 64);
  add_result();
  GORGON_TILE_STORE(3, result, 64);
  add_result();
  GORGON_TILE_STORE(4, result, 64);
  add_result();
  GORGON_TILE_STORE(5, result, 64);
  add_result();
  GORGON_TILE_RELEASE();
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
