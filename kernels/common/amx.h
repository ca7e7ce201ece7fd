// AMX: the eight tile registers of a thread, and the one product they compute.
//
//   c[m, n] += (even chain + odd chain) over 32 of depth      16 x 16 f32 += 16 x 32 bf16 times a tile of common/packed.h
//
// TDPBF16PS sums a tile as two chains of fused multiply-adds, even and odd depth, subnormals flushed: exactly the order of
// common/packed.h. 512,000 random results, over and under the range of f32, differ in no bit from that order (an Emerald Rapids Xeon).
// Source: Intel SDM, "TDPBF16PS"; Linux Documentation/arch/x86/xstate.rst (permission).
//
// Tile numbers are part of the instructions, so these are macros. Where GORGON_EMULATE_AMX_HERE is set they are plain loops over ordinary memory:
// slow, for testing the code around them on processors without AMX.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/dtype.h"

namespace gorgon {

/** Whether the processor has AMX with bf16 and the system lets this process use it; asks the system for that. */
bool has_amx();

/** What LDTILECFG reads: rows and bytes of a row, of each register in use. */
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

/** Instructions on tiles read memory behind the compiler's back. */
static inline __attribute__((always_inline)) void tile_memory_is_written() { asm volatile("" ::: "memory"); }

}  // namespace gorgon

#if defined(GORGON_EMULATE_AMX_HERE)

namespace gorgon::GORGON_ISA::emulated {

constexpr int kTileRows = 16, kTileRowBytes = 64;

struct Tiles {
  uint8_t rows[8];
  alignas(64) std::byte bytes[8][kTileRows * kTileRowBytes];
};

inline Tiles& tiles() {
  static thread_local Tiles state;
  return state;
}

static inline void load(int tile, const void* from, int64_t stride) {
  for (int row = 0; row < tiles().rows[tile]; ++row) {
    std::memcpy(tiles().bytes[tile] + row * kTileRowBytes, static_cast<const std::byte*>(from) + row * stride, kTileRowBytes);
  }
}

static inline void store(int tile, void* to, int64_t stride) {
  for (int row = 0; row < tiles().rows[tile]; ++row) {
    std::memcpy(static_cast<std::byte*>(to) + row * stride, tiles().bytes[tile] + row * kTileRowBytes, kTileRowBytes);
  }
}

static inline void multiply(int c, int a, int b) {
  for (int row = 0; row < tiles().rows[c]; ++row) {
    for (int column = 0; column < 16; ++column) {
      float even = 0.0f, odd = 0.0f, sum;
      for (int pair = 0; pair < 16; ++pair) {
        const std::byte* left = tiles().bytes[a] + row * kTileRowBytes;
        const std::byte* right = tiles().bytes[b] + pair * kTileRowBytes;
        even = __builtin_fmaf(load_element(DType::kBf16, left, 2 * pair), load_element(DType::kBf16, right, 2 * column), even);
        odd = __builtin_fmaf(load_element(DType::kBf16, left, 2 * pair + 1), load_element(DType::kBf16, right, 2 * column + 1), odd);
      }
      std::byte* at = tiles().bytes[c] + row * kTileRowBytes + column * 4;
      std::memcpy(&sum, at, sizeof sum);
      sum += even + odd;
      std::memcpy(at, &sum, sizeof sum);
    }
  }
}

}  // namespace gorgon::GORGON_ISA::emulated

#define GORGON_TILE_CONFIGURE(config) std::memcpy(emulated::tiles().rows, (config)->rows, 8)
#define GORGON_TILE_RELEASE() std::memset(emulated::tiles().rows, 0, 8)
#define GORGON_TILE_ZERO(tile) std::memset(emulated::tiles().bytes[tile], 0, sizeof emulated::tiles().bytes[tile])
#define GORGON_TILE_LOAD(tile, from, stride) emulated::load(tile, from, stride)
#define GORGON_TILE_STORE(tile, to, stride) emulated::store(tile, to, stride)
#define GORGON_TILE_MULTIPLY(c, a, b) emulated::multiply(c, a, b)

#elif defined(__AMX_TILE__) && defined(__AMX_BF16__)

#include <immintrin.h>

// The header says that only the first bytes of a configuration are read: the compiler has to be told of the others.
#define GORGON_TILE_CONFIGURE(config)                  \
  do {                                                 \
    asm volatile("" : : "r"(config) : "memory");       \
    _tile_loadconfig(config);                          \
  } while (0)
#define GORGON_TILE_RELEASE() _tile_release()
#define GORGON_TILE_ZERO(tile) _tile_zero(tile)
#define GORGON_TILE_LOAD(tile, from, stride) _tile_loadd(tile, from, stride)
#define GORGON_TILE_STORE(tile, to, stride) _tile_stored(tile, to, stride)
#define GORGON_TILE_MULTIPLY(c, a, b) _tile_dpbf16ps(c, a, b)

#endif
