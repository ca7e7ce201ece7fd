// snapkv_select on the CPU: a task is a KV head; the threshold is found by radix selection on the ordered bits of the scores.
#include "ops/snapkv_select.h"

#include "common/packed.h"
#include "ops/best_list.h"

namespace gorgon::GORGON_ISA {

namespace {

void group_votes(const SnapkvSelectArgs& args, int64_t kv_head, float* scores) {
  const int64_t group = args.query_heads / args.kv_heads;
  for (int64_t j = 0; j < args.n; ++j) {
    float total = args.votes[kv_head * group * args.votes_stride + j];
    for (int64_t h = 1; h < group; ++h) {
      const float vote = args.votes[(kv_head * group + h) * args.votes_stride + j];
      total = args.group_reduce == GroupReduce::kMax ? (vote > total ? vote : total) : total + vote;
    }
    scores[j] = args.group_reduce == GroupReduce::kMax ? total : total / static_cast<float>(group);
  }
}

void pool_scores(const SnapkvSelectArgs& args, const float* scores, uint32_t* keys) {
  const int64_t reach = args.pool_size / 2;
  for (int64_t j = 0; j < args.n; ++j) {
    const int64_t first = j - reach > 0 ? j - reach : 0, last = j + reach < args.n - 1 ? j + reach : args.n - 1;
    float pooled = scores[first];
    for (int64_t i = first + 1; i <= last; ++i) {
      pooled = args.pool == Pool::kMax ? (scores[i] > pooled ? scores[i] : pooled) : pooled + scores[i];
    }
    keys[j] = ordered_bits(args.pool == Pool::kMax ? pooled : pooled / static_cast<float>(args.pool_size));
  }
}

/** The `count`-th largest key, and how many keys equal to it belong to the chosen ones. */
void find_threshold(const uint32_t* keys, int64_t n, int64_t count, uint32_t* threshold, int64_t* ties) {
  uint32_t prefix = 0, mask = 0;
  int64_t wanted = count;
  for (int shift = 24; shift >= 0; shift -= 8) {
    int64_t histogram[256] = {};
    for (int64_t j = 0; j < n; ++j) {
      if ((keys[j] & mask) == prefix) ++histogram[(keys[j] >> shift) & 0xffu];
    }
    uint32_t digit = 255;
    while (histogram[digit] < wanted) wanted -= histogram[digit--];
    prefix |= digit << shift;
    mask |= 0xffu << shift;
  }
  *threshold = prefix;
  *ties = wanted;
}

}  // namespace

Status snapkv_select_cpu(const SnapkvSelectArgs& args, CpuContext& context) {
  if (args.count == 0) return {};
  float* scratch = nullptr;
  GORGON_TRY(context.scratch.get(args.kv_heads * 2 * args.n, &scratch));
  context.pool.run(args.kv_heads, [&](int64_t kv_head, int) {
    float* scores = scratch + kv_head * 2 * args.n;
    uint32_t* keys = reinterpret_cast<uint32_t*>(scores + args.n);
    group_votes(args, kv_head, scores);
    pool_scores(args, scores, keys);
    uint32_t threshold;
    int64_t ties;
    find_threshold(keys, args.n, args.count, &threshold, &ties);
    int32_t* rows = args.rows + kv_head * args.rows_stride;
    int64_t kept = 0;
    for (int64_t j = 0; j < args.n && kept < args.count; ++j) {
      if (keys[j] > threshold || (keys[j] == threshold && ties-- > 0)) rows[kept++] = static_cast<int32_t>(j);
    }
  });
  return {};
}

}  // namespace gorgon::GORGON_ISA
