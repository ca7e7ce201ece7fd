// best_list: the best entries of a row in the one order every operation uses: larger score first, ties to the lower id, NaN last.
//
// A rank is a score and an id as one number: of two entries the larger rank is the better one.
#pragma once

#include <cfloat>

#include "common/lane_mask.h"
#include "ops/top_k.h"

namespace gorgon::GORGON_ISA {

/** Bits whose unsigned order is the order of floats; -0 counts as 0, NaN is below everything. */
static inline uint32_t ordered_bits(float value) {
  if (value != value) return 0;
  const uint32_t bits = float_bits(value + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/** The float whose ordered_bits these are; `bits` is not 0. */
static inline float ordered_float(uint32_t bits) { return bits_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits); }

static inline uint64_t rank_of(float score, int64_t id) {
  return static_cast<uint64_t>(ordered_bits(score)) << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}

static inline int32_t rank_id(uint64_t rank) { return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(rank)); }

/** The best ranks offered so far, best first. */
struct BestList {
  uint64_t ranks[kMaxTopK];
  int capacity;
  int count = 0;

  explicit BestList(int k) : capacity(k) {}
  bool full() const { return count == capacity; }
};

static inline void offer(BestList& list, uint64_t rank) {
  if (list.full()) {
    if (list.count == 0 || rank < list.ranks[list.count - 1]) return;
  } else {
    ++list.count;
  }
  int at = list.count - 1;
  for (; at > 0 && list.ranks[at - 1] < rank; --at) list.ranks[at] = list.ranks[at - 1];
  list.ranks[at] = rank;
}

/** Offers columns [begin, end) of a row, sixteen at a time: those not above the worst of a full list are passed over. */
static inline void offer_row(BestList& list, const float* row, int64_t begin, int64_t end) {
  int64_t column = begin;
  for (; column < end && !list.full(); ++column) offer(list, rank_of(row[column], column));
  if (list.count == 0) return;
  for (; column + kLanes <= end; column += kLanes) {
    const uint32_t worst = static_cast<uint32_t>(list.ranks[list.count - 1] >> 32);
    // While NaN is in the list even -infinity is better, which no comparison with NaN shows.
    uint32_t mask = worst == 0 ? 0xffffu : lanes_above(load(row + column), ordered_float(worst));
    for (; mask != 0; mask &= mask - 1) {
      const int64_t found = column + lowest_lane(mask);
      offer(list, rank_of(row[found], found));
    }
  }
  for (; column < end; ++column) offer(list, rank_of(row[column], column));
}

/** Column of the largest score; ties to the lower column. NaN never wins over a number; +infinity counts as the largest float. */
static inline int64_t arg_max(const float* row, int64_t columns) {
  float best = -INFINITY;
  int64_t at = -1, column = 0;
  const auto look = [&](int64_t found) {
    const float score = row[found] > FLT_MAX ? FLT_MAX : row[found];
    if (!(score > best)) return;
    best = score;
    at = found;
  };
  for (; column + kLanes <= columns; column += kLanes) {
    for (uint32_t mask = lanes_above(load(row + column), best); mask != 0; mask &= mask - 1) look(column + lowest_lane(mask));
  }
  for (; column < columns; ++column) look(column);
  if (at >= 0) return at;
  for (column = 0; column < columns; ++column) {
    if (row[column] == -INFINITY) return column;
  }
  return 0;
}

}  // namespace gorgon::GORGON_ISA
