// How linear_decode.cu cuts products of few rows over a device, and in which order their sums are added. Both follow from the weight and the
// device, so a row has the same bits for any number of tokens. Other loops have their own order: linear_hopper_decode.cu for linear and gated_linear
// of f16 and bf16 on Hopper, linear_f32.cu for f32. Which of them a step takes follows from operation, type and device, never from the number of
// rows.
//
// Rows of the weight, 16 of them a unit, are cut into as many equal ranges as there are blocks, in row order through all products of a list; a
// block multiplies all of the depth of its own. It takes them in passes of up to kUnits neighbours in one product.
//
// A sum is kChains chains, added in their order from the first on. Chain c has, in rising depth, 16 at a time,
//
//   kUnits 4   of f16 and bf16 the depths 32 c to 32 c + 31 of every 256, of int8 64 c to 64 c + 63 of every 512
//   kUnits 2   64 c to 64 c + 63 of every 512; int8 128 c to 128 c + 127 of every 1024
#pragma once

#include <cstdint>

#include "common/cores.h"

namespace gorgon {

constexpr int kUnitRows = 16;
constexpr int kChains = 8;

/** The weight's and the device's, never the tokens'. */
struct UnitPlan {
  int64_t blocks;
  /** Of a pass, at most: 4, or 2 where no block has more, which then takes twice the depth at a time. */
  int units;
};

/** `most_blocks`: the device's multiprocessors, or a multiple. */
static inline UnitPlan plan_units(int64_t columns, int64_t products, int64_t most_blocks) {
  const int64_t units = (columns + kUnitRows - 1) / kUnitRows * products, blocks = units < most_blocks ? units : most_blocks;
  return {blocks, units <= 2 * blocks ? 2 : 4};
}

/** The first of a block's units, counted through all products; the next block's is its end. */
GORGON_HOST_DEVICE static inline int64_t first_unit(int64_t units, int64_t block, int64_t blocks) { return units * block / blocks; }

/** Units that a block multiplies together: `count` neighbours from `unit` of product `item` on; none are left where `count` is 0. */
struct Pass {
  int item, unit, count;
  /** The first unit behind this pass, counted through all products. */
  int64_t next;

  /** The pass that begins with unit `from` of a range that ends at `end`; passes are as equal as can be, so that none is left with little to load. */
  GORGON_HOST_DEVICE void open(int64_t from, int64_t end, int item_units, int most) {
    item = static_cast<int>(from / item_units);
    unit = static_cast<int>(from - static_cast<int64_t>(item) * item_units);
    const int64_t in_range = end - from, in_item = item_units - unit;
    const int left = static_cast<int>(in_range < in_item ? in_range : in_item), passes = (left + most - 1) / most;
    count = passes > 0 ? (left + passes - 1) / passes : 0;
    next = from + count;
  }
};

}  // namespace gorgon
