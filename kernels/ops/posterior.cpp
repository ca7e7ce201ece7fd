// posterior on the CPU: a task is some nodes. A plain greedy node is one look for the arg max; any other works on its thread's own row:
//
//   x     f32 [V']             logits, adjusted in place; -infinity past V
//   e     f32 [V']             weight of each id; 0 once dropped and past V
//   sums  f64 [V' / kSumIds]   of the weights, for the draw
//
// V' is V rounded up to 16. What top-k and top-p keep is found by bisection for the value where the kept ids end: each step is a sum over
// all ids above a value, which vectors are good at, until few enough are left between two values to sort them.
#include "ops/posterior.h"

#include <cfloat>

#include "common/lane_mask.h"
#include "common/lane_sums.h"
#include "common/packed.h"
#include "ops/best_list.h"

namespace gorgon::GORGON_ISA {

namespace {

/** Ids whose weights make one sum. */
constexpr int64_t kSumIds = 256;
/** Ids that are sorted rather than bisected. */
constexpr int64_t kBandIds = 512;
/** Logits that are worth waking a thread for, where each is looked at once; a warped row costs as much as kWarpCost plain ones. */
constexpr int64_t kTaskLogits = int64_t{1} << 15;
constexpr int64_t kWarpCost = 16;

struct Row {
  float* x;
  float* e;
  double* sums;
  int64_t vocab;

  int64_t padded() const { return round_up(vocab, kLanes); }
};

int64_t row_floats(int64_t vocab) {
  const int64_t padded = round_up(vocab, kLanes);
  return 2 * padded + round_up(2 * divide_up(padded, kSumIds), kLanes);
}

Row row_at(float* scratch, int64_t vocab) {
  const int64_t padded = round_up(vocab, kLanes);
  return {scratch, scratch + padded, reinterpret_cast<double*>(scratch + 2 * padded), vocab};
}

// ---- adjusted logits ----

/** NaN as -infinity, +infinity as the largest float. */
GORGON_INLINE F32x16 ordinary(F32x16 x) {
  const F32x16 ordered = max(x, broadcast(-INFINITY));
  return select_below(ordered, INFINITY, ordered, broadcast(FLT_MAX));
}
float ordinary(float x) { return x != x ? -INFINITY : x > FLT_MAX ? FLT_MAX : x; }

void copy_logits(const float* logits, const Row& row) {
  int64_t id = 0;
  for (; id + kLanes <= row.vocab; id += kLanes) store(row.x + id, ordinary(load(logits + id)));
  for (; id < row.vocab; ++id) row.x[id] = ordinary(logits[id]);
  for (; id < row.padded(); ++id) row.x[id] = -INFINITY;
}

void penalise(const PosteriorNode& node, const Row& row) {
  const SamplingParams& sampling = *node.sampling;
  // Times an id is in the output; -1 where it is not in the prompt either.
  float* counts = row.e;
  for (int64_t id = 0; id < row.padded(); ++id) counts[id] = -1.0f;
  if (node.in_prompt != nullptr) {
    for (int64_t id = 0; id < row.vocab; ++id) counts[id] = node.in_prompt[id] != 0 ? 0.0f : -1.0f;
  }
  if (node.output_counts != nullptr) {
    for (int64_t id = 0; id < row.vocab; ++id) {
      counts[id] = node.output_counts[id] > 0 ? static_cast<float>(node.output_counts[id]) : counts[id];
    }
  }
  for (int64_t i = 0; i < node.path_count; ++i) {
    float& count = counts[node.path_tokens[i]];
    count = count > 0.0f ? count + 1.0f : 1.0f;
  }

  const F32x16 repetition = broadcast(sampling.repetition_penalty), frequency = broadcast(sampling.frequency_penalty);
  const F32x16 presence = broadcast(sampling.presence_penalty);
  for (int64_t id = 0; id < row.padded(); id += kLanes) {
    const F32x16 x = load(row.x + id), count = load(counts + id);
    const F32x16 repeated = ordinary(select_below(zero() - x, 0.0f, x / repetition, x * repetition));
    const F32x16 counted = ordinary(ordinary(repeated - frequency * count) - presence);
    store(row.x + id, select_below(count, 0.0f, x, select_below(zero() - count, 0.0f, counted, repeated)));
  }
}

void adjust(const PosteriorNode& node, const Row& row) {
  const SamplingParams& sampling = *node.sampling;
  for (int64_t i = 0; i < sampling.bias_count; ++i) {
    float& x = row.x[sampling.bias_ids[i]];
    x = ordinary(x + sampling.bias_values[i]);
  }
  if (has_penalties(sampling)) penalise(node, row);
  if (!is_suppressing(node)) return;
  for (int64_t i = 0; i < sampling.suppressed_count; ++i) row.x[sampling.suppressed_ids[i]] = -INFINITY;
}

// ---- weights and their sums ----

/** What a weight is the exponential of: 0 for the best id. */
struct Warp {
  float top;
  /** 1 / temperature. */
  float scale;
};

GORGON_INLINE F32x16 exponent(const Row& row, int64_t id, const Warp& warp) {
  return (load(row.x + id) - broadcast(warp.top)) * broadcast(warp.scale);
}

void weigh(const Row& row, const Warp& warp) {
  for (int64_t id = 0; id < row.padded(); id += kLanes) store(row.e + id, exp(exponent(row, id, warp)));
}

/** Sum of all weights, added up over `sums` in id order. */
double total_weight(const Row& row) {
  double total = 0.0;
  for (int64_t begin = 0; begin < row.padded(); begin += kSumIds) {
    const int64_t end = begin + kSumIds < row.padded() ? begin + kSumIds : row.padded();
    LaneSums sums;
    for (int64_t id = begin; id < end; id += kLanes) add(sums, load(row.e + id));
    row.sums[begin / kSumIds] = reduce_sum(sums);
    total += row.sums[begin / kSumIds];
  }
  return total;
}

/** With p = e / total and e = exp(y), -sum p ln p is ln total - sum e y / total. */
float entropy_of(const Row& row, const Warp& warp, double total) {
  const F32x16 lowest = broadcast(-128.0f);  // far below the exponent of any weight but 0
  LaneSums sums;
  for (int64_t id = 0; id < row.padded(); id += kLanes) add_product(sums, load(row.e + id), max(exponent(row, id, warp), lowest));
  const double entropy = std::log(total) - reduce_sum(sums) / total;
  return entropy > 0.0 ? static_cast<float>(entropy) : 0.0f;
}

// ---- top-k, top-p, min-p ----

/** Of some ids: their weights together, and how many they are. */
struct Tally {
  double weight = 0.0;
  int64_t ids = 0;
};

enum class Measure { kIds, kWeight };

double measured(const Tally& tally, Measure measure) {
  return measure == Measure::kIds ? static_cast<double>(tally.ids) : tally.weight;
}

Tally tally_above(const Row& row, float value) {
  Tally tally;
  LaneSums sums;
  for (int64_t id = 0; id < row.padded(); id += kLanes) {
    const F32x16 x = load(row.x + id);
    add(sums, select_below(zero() - x, -value, load(row.e + id), zero()));
    tally.ids += count_above(x, value);
  }
  tally.weight = reduce_sum(sums);
  return tally;
}

/** Where the kept ids end: they are those above `value`, and those at `value` up to `last_id`. */
struct Cut {
  float value;
  int64_t last_id;
};

/** Halfway between two values; equal to one of them when no float is between. */
float halfway(float low, float high) {
  if (low > -INFINITY) return 0.5f * low + 0.5f * high;
  const uint32_t first = ordered_bits(low), last = ordered_bits(high);
  return ordered_float(first + (last - first) / 2);
}

/** Largest first. Shell's sort, with the gaps that Ciura found. */
void sort_ranks(uint64_t* ranks, int64_t count) {
  constexpr int kGaps[] = {301, 132, 57, 23, 10, 4, 1};
  for (const int gap : kGaps) {
    for (int64_t i = gap; i < count; ++i) {
      const uint64_t rank = ranks[i];
      int64_t at = i;
      for (; at >= gap && ranks[at - gap] < rank; at -= gap) ranks[at] = ranks[at - gap];
      ranks[at] = rank;
    }
  }
}

/** The cut behind the fewest best ids that measure at least `wanted` > 0 together. `width`: a first guess how far below the top. */
Cut find_cut(const Row& row, float top, float width, Measure measure, double wanted) {
  // Too few ids are above `high`, enough are above `low`.
  float high = top, low = top;
  Tally above_high, above_low;
  while (measured(above_low, measure) < wanted) {
    if (low == -INFINITY) return {low, row.vocab};
    high = low;
    above_high = above_low;
    low = top - width;
    width *= 2.0f;
    above_low = tally_above(row, low);
  }
  bool one_value = false;
  while (above_low.ids - above_high.ids > kBandIds) {
    const float middle = halfway(low, high);
    one_value = !(low < middle && middle < high);
    if (one_value) break;
    const Tally above_middle = tally_above(row, middle);
    if (measured(above_middle, measure) < wanted) {
      high = middle;
      above_high = above_middle;
    } else {
      low = middle;
      above_low = above_middle;
    }
  }

  // The cut is at one of the ids in (low, high]; taken from the best on, the first that makes it enough.
  Tally taken = above_high;
  Cut cut{high, -1};
  const auto take = [&](int64_t id) {
    taken.weight += static_cast<double>(row.e[id]);
    taken.ids += 1;
    cut = {row.x[id], id};
    return measured(taken, measure) >= wanted;
  };
  if (one_value) {
    for (int64_t id = 0; id < row.vocab; ++id) {
      if (row.x[id] == high && take(id)) break;
    }
    return cut;
  }
  uint64_t band[kBandIds];
  int64_t count = 0;
  for (int64_t id = 0; id < row.padded(); id += kLanes) {
    const F32x16 x = load(row.x + id);
    for (uint32_t mask = lanes_above(x, low) & ~lanes_above(x, high); mask != 0; mask &= mask - 1) {
      const int64_t found = id + lowest_lane(mask);
      band[count++] = rank_of(row.x[found], found);
    }
  }
  sort_ranks(band, count);
  for (int64_t i = 0; i < count; ++i) {
    if (take(rank_id(band[i]))) break;
  }
  return cut;
}

void apply_cut(const Row& row, const Cut& cut) {
  for (int64_t id = 0; id < row.padded(); id += kLanes) {
    const F32x16 x = load(row.x + id), e = load(row.e + id);
    if (id + kLanes - 1 <= cut.last_id) {
      store(row.e + id, select_below(x, cut.value, zero(), e));
    } else if (id > cut.last_id) {
      store(row.e + id, select_below(zero() - x, -cut.value, e, zero()));
    } else {
      for (int64_t lane = id; lane < id + kLanes; ++lane) {
        const bool is_kept = row.x[lane] > cut.value || (row.x[lane] == cut.value && lane <= cut.last_id);
        if (!is_kept) row.e[lane] = 0.0f;
      }
    }
  }
}

void drop_below(const Row& row, float weight) {
  for (int64_t id = 0; id < row.padded(); id += kLanes) {
    const F32x16 e = load(row.e + id);
    store(row.e + id, select_below(e, weight, zero(), e));
  }
}

/** Drops the weights that top-k, top-p and min-p do not keep. */
void truncate(const Row& row, const Warp& warp, const SamplingParams& sampling) {
  const float width = sampling.temperature;  // from one power of e to the next
  if (sampling.top_k > 0 && sampling.top_k < row.vocab) {
    apply_cut(row, find_cut(row, warp.top, width, Measure::kIds, static_cast<double>(sampling.top_k)));
  }
  if (sampling.top_p < 1.0f) {
    const double wanted = static_cast<double>(sampling.top_p) * total_weight(row);
    apply_cut(row, find_cut(row, warp.top, width, Measure::kWeight, wanted > 0.0 ? wanted : DBL_MIN));
  }
  if (sampling.min_p > 0.0f) drop_below(row, sampling.min_p < 1.0f ? sampling.min_p : 1.0f);  // the best weighs 1
}

// ---- results ----

/** The first id at which the sum of weights exceeds uniform * total; row.sums are of these weights. */
int64_t draw(const Row& row, double total, double uniform) {
  const double target = uniform * total;
  const int64_t last_begin = (row.padded() - 1) / kSumIds * kSumIds;
  double sum = 0.0;
  int64_t begin = 0;
  for (; begin < last_begin && sum + row.sums[begin / kSumIds] <= target; begin += kSumIds) sum += row.sums[begin / kSumIds];
  // One by one the weights may round to a smaller sum than lane by lane: then the last of them it is.
  int64_t chosen = begin;
  for (int64_t id = begin; id < begin + kSumIds && id < row.vocab; ++id) {
    if (row.e[id] == 0.0f) continue;
    chosen = id;
    sum += static_cast<double>(row.e[id]);
    if (sum > target) break;
  }
  return chosen;
}

/** ln of a probability is (l - top) - ln of the sum of exp(l - top); where all logits are -infinity, one id has all the probability. */
struct RawDistribution {
  float top;
  double log_total;
  /** That id; -1 where any logit is finite. */
  int64_t only_id;
};

float logprob_of(const RawDistribution& raw, const float* logits, int64_t id) {
  if (raw.only_id >= 0) return id == raw.only_id ? 0.0f : -INFINITY;
  return static_cast<float>(static_cast<double>(ordinary(logits[id])) - static_cast<double>(raw.top) - raw.log_total);
}

/** Of row.x as copied; writes the results that do not wait for the chosen token. */
RawDistribution raw_distribution(PosteriorNode& node, const Row& row) {
  const int64_t best = arg_max(row.x, row.vocab);
  RawDistribution raw{row.x[best], 0.0, -1};
  if (raw.top == -INFINITY) {
    raw.only_id = arg_max(node.logits, row.vocab);
  } else {
    weigh(row, {raw.top, 1.0f});
    raw.log_total = std::log(total_weight(row));
  }
  for (int64_t i = 0; i < node.child_count; ++i) node.child_logprob[i] = logprob_of(raw, node.logits, node.child_tokens[i]);
  BestList list(node.logprobs);
  if (node.logprobs > 0) offer_row(list, row.x, 0, row.vocab);
  for (int i = 0; i < node.logprobs; ++i) {
    node.top_ids[i] = i < list.count ? rank_id(list.ranks[i]) : -1;
    node.top_values[i] = i < list.count ? logprob_of(raw, node.logits, node.top_ids[i]) : -INFINITY;
  }
  return raw;
}

/** Chooses from row.x as adjusted, and describes the distribution it chose from. */
void choose(PosteriorNode& node, const Row& row) {
  const SamplingParams& sampling = *node.sampling;
  const int64_t best = arg_max(row.x, row.vocab);
  node.chosen = static_cast<int32_t>(best);
  if (row.x[best] == -INFINITY) {
    node.chosen = static_cast<int32_t>(arg_max(node.logits, row.vocab));
    if (!node.typical) return;
    node.entropy = 0.0f;
    for (int64_t i = 0; i < node.child_count; ++i) node.child_prob[i] = node.child_tokens[i] == node.chosen ? 1.0f : 0.0f;
    return;
  }
  const bool is_greedy = sampling.temperature == 0.0f;
  if (is_greedy && !node.typical) return;

  const Warp warp{row.x[best], is_greedy ? 1.0f : 1.0f / sampling.temperature};
  weigh(row, warp);
  if (!is_greedy) truncate(row, warp, sampling);
  const double total = total_weight(row);
  if (!is_greedy) {
    const double uniform = sampling_uniform(sampling.seed, static_cast<uint64_t>(node.position));
    node.chosen = static_cast<int32_t>(draw(row, total, uniform));
  }
  if (!node.typical) return;
  node.entropy = entropy_of(row, warp, total);
  for (int64_t i = 0; i < node.child_count; ++i) {
    node.child_prob[i] = static_cast<float>(static_cast<double>(row.e[node.child_tokens[i]]) / total);
  }
}

void summarise(PosteriorNode& node, const Row& row) {
  copy_logits(node.logits, row);
  RawDistribution raw{};
  if (node.logprobs >= 0) raw = raw_distribution(node, row);
  adjust(node, row);
  choose(node, row);
  if (node.logprobs >= 0) node.chosen_logprob = logprob_of(raw, node.logits, node.chosen);
}

}  // namespace

Status posterior_cpu(const PosteriorArgs& args, CpuContext& context) {
  GORGON_TRY(check_posterior(args));
  bool needs_rows = false;
  int64_t work = 0;
  for (int64_t i = 0; i < args.node_count; ++i) {
    const PosteriorNode& node = args.nodes[i];
    const bool is_plain = is_plain_greedy(node);
    needs_rows = needs_rows || !is_plain;
    work += is_plain ? args.vocab : args.vocab * kWarpCost;
  }
  const int64_t stride = row_floats(args.vocab);
  float* scratch = nullptr;
  if (needs_rows) GORGON_TRY(context.scratch.get(stride * context.pool.threads(), &scratch));
  const int64_t useful = work / kTaskLogits, tasks = useful < 1 ? 1 : useful < args.node_count ? useful : args.node_count;
  context.pool.run(tasks, [&](int64_t task, int thread) {
    for (int64_t i = args.node_count * task / tasks; i < args.node_count * (task + 1) / tasks; ++i) {
      PosteriorNode& node = args.nodes[i];
      if (is_plain_greedy(node)) {
        node.chosen = static_cast<int32_t>(arg_max(node.logits, args.vocab));
      } else {
        summarise(node, row_at(scratch + thread * stride, args.vocab));
      }
    }
  });
  return {};
}

}  // namespace gorgon::GORGON_ISA
