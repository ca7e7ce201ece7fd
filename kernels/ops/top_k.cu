// top_k on CUDA: a block finds the k best ranks of up to 4096 columns of a row; further rounds of the same do so with the ranks of a row's blocks.
//
//   row   | 4096 columns | 4096 columns | … |      512 threads, 8 columns each in registers
//               k ranks        k ranks             then a block per row: k ids
//
// Within a block: if every one of 16 warps has k / 16 ranks that are no worse than some rank, so has the block k. The best such rank bounds the
// result from below; what is no worse is mostly little more than k ranks, which are compared each with each. Ranks are all different: neither the
// blocks nor their order shows in the result. Where a row is made so that the bound is bad, that takes longer, and is right.
#include <algorithm>
#include <cstdint>
#include <string>
#include <type_traits>

#include "common/cuda_context.h"
#include "common/packed.h"
#include "ops/rank.cuh"
#include "ops/top_k.h"

namespace gorgon {

namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / kWarp;
constexpr int kEach = 8;
constexpr int kPieceEntries = kThreads * kEach;

__device__ __forceinline__ uint64_t entry_rank(float score, int64_t column) { return rank_of(ordered_bits(score), static_cast<uint32_t>(column)); }
__device__ __forceinline__ uint64_t entry_rank(uint64_t rank, int64_t) { return rank; }

/**
 * The block's entries [begin, end) of a row, `kEach` a thread; 0, below every rank, past the end. Which of 512 neighbours a thread gets
 * turns from one 512 to the next: lists of ranks, whose best come first, would otherwise give all of their best to the same few warps.
 */
template <class From>
__device__ __forceinline__ void load_ranks(const From* row, int64_t begin, int64_t end, uint64_t (&ranks)[kEach]) {
  constexpr int kTurn = 160;  // whole sectors
  const auto column_of = [&](int i) { return begin + i * kThreads + (threadIdx.x + i * kTurn) % kThreads; };
  From entries[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) entries[i] = column_of(i) < end ? row[column_of(i)] : From{};
#pragma unroll
  for (int i = 0; i < kEach; ++i) ranks[i] = column_of(i) < end ? entry_rank(entries[i], column_of(i)) : 0;
}

/** How many of `count` ranks in shared memory, an even number on 16-byte boundaries, are better. */
__device__ __forceinline__ int ranks_above(const uint64_t* ranks, int count, uint64_t rank) {
  int above = 0;
#pragma unroll 8
  for (int i = 0; i < count; i += 2) {
    const ulonglong2 pair = *reinterpret_cast<const ulonglong2*>(ranks + i);
    above += pair.x > rank;
    above += pair.y > rank;
  }
  return above;
}

/** A block's k best entries, best first: as ids if they are the row's, otherwise as ranks, with zeros where there are fewer. */
template <class From>
__global__ void __launch_bounds__(kThreads) top_k_pieces_kernel(const From* entries, int64_t stride, int64_t columns, int pieces, int k, uint64_t* best,
                                                               int32_t* ids) {
  __shared__ uint64_t bounds[kWarps];
  __shared__ alignas(16) uint64_t chosen[kPieceEntries];
  __shared__ int chosen_count;
  let_next_start();
  const int thread = threadIdx.x;
  if (thread == 0) chosen_count = 0;
  wait_for_previous();
  const int64_t row = blockIdx.x / pieces, piece = blockIdx.x % pieces;
  const int64_t begin = piece * kPieceEntries, end = begin + kPieceEntries < columns ? begin + kPieceEntries : columns;
  uint64_t ranks[kEach];
  load_ranks(entries + row * stride, begin, end, ranks);
  uint64_t first = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) first = ranks[i] > first ? ranks[i] : first;

  uint64_t bound = warp_best(first), left = first;
  for (int found = kWarps; found < k; found += kWarps) {
    if (left == bound) left = 0;
    bound = warp_best(left);
  }
  if (thread % kWarp == 0) bounds[thread / kWarp] = bound;
  __syncthreads();  // the warps' bounds are there, and the count is 0
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) bound = bounds[warp] < bound ? bounds[warp] : bound;
  if (bound == 0) bound = 1;  // a warp has fewer entries: whatever is an entry
  if (first >= bound) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (ranks[i] >= bound) chosen[atomicAdd(&chosen_count, 1)] = ranks[i];
    }
  }
  __syncthreads();  // the chosen are all there
  const int count = chosen_count;
  if (count % 2 == 1 && thread == 0) chosen[count] = 0;  // read in pairs
  __syncthreads();
  uint64_t* to = best + (row * pieces + piece) * k;
  for (int i = thread; i < count; i += kThreads) {
    const int place = ranks_above(chosen, count, chosen[i]);
    if (place >= k) continue;
    if (ids != nullptr) {
      ids[row * k + place] = rank_id(chosen[i]);
    } else {
      to[place] = chosen[i];
    }
  }
  if (ids == nullptr) {
    for (int place = count + thread; place < k; place += kThreads) to[place] = 0;
  }
}

}  // namespace

Status top_k_cuda(const TopKArgs& args, CudaContext& context) {
  if (args.k < 1 || args.k > kMaxTopK || args.k > args.columns || args.columns > INT32_MAX) {
    return {StatusCode::kShape, "top_k: k is " + std::to_string(args.k) + " for " + std::to_string(args.columns) + " columns. Use 1 to " + std::to_string(kMaxTopK) +
                                    ", and no more than there are columns."};
  }
  const auto launch_round = [&](auto* entries, int64_t stride, int64_t columns, int64_t pieces, uint64_t* best) {
    using From = std::remove_const_t<std::remove_pointer_t<decltype(entries)>>;
    return launch(context, "top_k", top_k_pieces_kernel<From>, dim3(static_cast<unsigned>(args.rows * pieces)), dim3(kThreads), 0, entries, stride, columns,
                  static_cast<int>(pieces), args.k, best, pieces == 1 ? args.ids : nullptr);
  };
  int64_t pieces = divide_up(args.columns, kPieceEntries);
  // Two lists, since a round reads the one before: u64 [M, pieces, k].
  uint64_t* lists[2] = {};
  if (pieces > 1) {
    const int64_t first = args.rows * pieces * args.k, second = args.rows * divide_up(pieces * args.k, kPieceEntries) * args.k;
    GORGON_TRY(context.scratch(first + second, &lists[0]));
    lists[1] = lists[0] + first;
  }
  GORGON_TRY(launch_round(args.scores, args.stride, args.columns, pieces, lists[0]));
  for (int round = 0; pieces > 1; ++round) {
    const int64_t entries = pieces * args.k;
    pieces = divide_up(entries, kPieceEntries);
    GORGON_TRY(launch_round(static_cast<const uint64_t*>(lists[round % 2]), entries, entries, pieces, lists[(round + 1) % 2]));
  }
  return {};
}

}  // namespace gorgon
