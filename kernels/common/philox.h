// Philox4x32-10: random words that are a pure function of a counter and a key, so that a token's draw depends on nothing but its place.
//
// Source: "Parallel Random Numbers: As Easy as 1, 2, 3", Philox; constants as in DEShawResearch/random123:include/Random123/philox.h
#pragma once

#include <cstdint>

namespace gorgon {

struct PhiloxCounter {
  uint32_t word[4];
};

struct PhiloxKey {
  uint32_t word[2];
};

/** Four random words for each counter and key. */
PhiloxCounter philox4x32_10(PhiloxCounter counter, PhiloxKey key);

/**
 * Uniform in [0, 1), a multiple of 2^-53: the draw of the token at `position` for `seed`.
 * Counter (position, 0), key seed, low words first; the top 27 bits of word 0 before the top 26 of word 1.
 */
double sampling_uniform(uint64_t seed, uint64_t position);

}  // namespace gorgon
