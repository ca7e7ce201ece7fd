// The rounds of Philox4x32-10, checked against its published answers whenever this file is compiled.
#include "common/philox.h"

namespace gorgon {

namespace {

constexpr uint64_t kMultipliers[2] = {0xd2511f53, 0xcd9e8d57};
constexpr uint32_t kKeySteps[2] = {0x9e3779b9, 0xbb67ae85};
constexpr int kRounds = 10;

constexpr PhiloxCounter rounds(PhiloxCounter counter, PhiloxKey key) {
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t a = kMultipliers[0] * counter.word[0];
    const uint64_t b = kMultipliers[1] * counter.word[2];
    counter = {{static_cast<uint32_t>(b >> 32) ^ counter.word[1] ^ key.word[0], static_cast<uint32_t>(b),
                static_cast<uint32_t>(a >> 32) ^ counter.word[3] ^ key.word[1], static_cast<uint32_t>(a)}};
    key = {{key.word[0] + kKeySteps[0], key.word[1] + kKeySteps[1]}};
  }
  return counter;
}

constexpr bool answers(PhiloxCounter counter, PhiloxKey key, PhiloxCounter expected) {
  const PhiloxCounter actual = rounds(counter, key);
  for (int i = 0; i < 4; ++i) {
    if (actual.word[i] != expected.word[i]) return false;
  }
  return true;
}

// The known answers for philox4x32, 10 rounds, of DEShawResearch/random123:tests/kat_vectors
static_assert(answers({{0, 0, 0, 0}}, {{0, 0}}, {{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}}), "Philox4x32-10: zeros");
static_assert(answers({{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}}, {{0xffffffff, 0xffffffff}},
                      {{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}}),
              "Philox4x32-10: ones");
static_assert(answers({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, {{0xa4093822, 0x299f31d0}},
                      {{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}),
              "Philox4x32-10: digits of pi");

}  // namespace

PhiloxCounter philox4x32_10(PhiloxCounter counter, PhiloxKey key) { return rounds(counter, key); }

double sampling_uniform(uint64_t seed, uint64_t position) {
  const PhiloxCounter words = rounds({{static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), 0, 0}},
                                     {{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}});
  const uint64_t bits = (static_cast<uint64_t>(words.word[0] >> 5) << 26) | (words.word[1] >> 6);
  return static_cast<double>(bits) * 0x1p-53;
}

}  // namespace gorgon
