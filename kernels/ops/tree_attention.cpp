// tree_attention on the CPU. The nodes of a session times the query heads of a group are the query rows of a KV head; a block of them goes
// over the keys together, chunk by chunk, and last over the tail:
//
//   rows    0 ......... full chunks ......... | committed rows | this step's nodes |
//                                             ^ chunk boundary ^ R                 ^ R + N
//                                             |----------- the tail ---------------|
//
// In the tail every query meets every key where it lies, in one product: a score is a sum of its own, whatever stands beside it. Then each
// row picks the scores of its path, in path order: from there on a node looks exactly like a committed row. Whole groups of committed rows
// are a product for all rows again; the group of row R and those behind it hold the rows of one path and no other, so they are summed node
// by node, in the order of tile_product, from the rows where they lie.
//
// Who goes over what (a row's states are merged in chunk order, whichever it is):
//   whole   a task is a block and all of its chunks, which it merges as it goes: where there are enough blocks for the threads, or few chunks
//   split   a task is a chunk of a block and leaves its states; a second loop merges them, row by row. Both take a wave of chunks at a time,
//           so that the states of a long cache need no more memory than those of a short one.
#include "ops/tree_attention.h"

#include "ops/attention_state.h"

namespace gorgon::GORGON_ISA {

namespace {

/** The tail: at most 127 committed rows, then the nodes. It reaches into the chunk behind its first when a path does. */
constexpr int64_t kTailKeys = kChunkKeys + kMaxTreeNodes;
constexpr int64_t kTailStates = 2;
/** Blocks are this many rows or a multiple of it: the rows of an AMX tile. */
constexpr int64_t kBlockStep = 16;
/** Of the states of a wave: they are read back soon after, from the cache. */
constexpr int64_t kWaveBytes = int64_t{2} << 20;

struct Work {
  const TreeAttentionArgs& args;
  int64_t group;
  int64_t q_width;
  int64_t stride;
  float scale;

  const KvHead& head(const PassItem& item, int64_t kv_head) const { return item.heads[args.layer * args.kv_heads + kv_head]; }
  const float* q(const PassItem& item, int64_t node) const { return static_cast<const float*>(args.q) + (item.first + node) * args.q_stride; }
  float* out(const PassItem& item, int64_t node) const { return static_cast<float*>(args.out) + (item.first + node) * args.out_stride; }
};

/** Some query rows of a KV head of a session. Row r of a KV head is query head r % group of node r / group. */
struct Block {
  const PassItem* item;
  int64_t kv_head;
  int64_t first;
  int64_t rows;
  /** Full chunks, of which those before first_chunk are out of every node's attention window. */
  int64_t first_chunk;
  int64_t chunks;
  /** Rows of all blocks before this one. */
  int64_t row_offset;

  /** Chunks to go over; the tail comes behind them. */
  int64_t visible_chunks() const { return chunks - first_chunk; }
};

/** Index of the first key of node's sequence that the attention window leaves visible. */
int64_t first_key_of(const Work& work, const PassItem& item, const KvHead& head, int64_t depth) {
  const int64_t position = item.position + depth;
  const int64_t row = first_visible_row(head.positions, item.rows, position, work.args.window);
  if (row < item.rows || work.args.window <= 0) return row;
  const int64_t into_path = position - work.args.window + 1 - item.position;
  return item.rows + (into_path > 0 ? into_path : 0);
}

/** The first full chunk that any node sees: the root's, which is the oldest. */
int64_t first_chunk_of(const Work& work, const PassItem& item, int64_t kv_head) {
  const int64_t chunk = first_key_of(work, item, work.head(item, kv_head), 0) / kChunkKeys, chunks = item.rows / kChunkKeys;
  return chunk < chunks ? chunk : chunks;
}

/** A block's queries, next to each other, and the first key that each may see. */
struct Queries {
  alignas(64) float q[kBlockQueries * kMaxHeadDim];
  int64_t first_key[kBlockQueries];

  Queries(const Work& work, const Block& block) {
    const PassItem& item = *block.item;
    int64_t depth = -1, key = 0;
    for (int64_t i = 0; i < block.rows; ++i) {
      const int64_t node = (block.first + i) / work.group, query_head = block.kv_head * work.group + (block.first + i) % work.group;
      std::memcpy(q + i * work.q_width, work.q(item, node) + query_head * work.q_width, work.q_width * sizeof(float));
      if (item.depths[node] != depth) {
        depth = item.depths[node];
        key = first_key_of(work, item, work.head(item, block.kv_head), depth);
      }
      first_key[i] = key;
    }
  }
};

void attend_full_chunk(const Work& work, const Block& block, const Queries& queries, int64_t chunk, float* states) {
  const KvHead& head = work.head(*block.item, block.kv_head);
  const DType dtype = work.args.dtype;
  const int64_t groups = kChunkKeys / kRowGroup, head_dim = work.args.head_dim;
  int32_t begin[kBlockQueries], end[kBlockQueries];
  for (int64_t i = 0; i < block.rows; ++i) {
    begin[i] = static_cast<int32_t>(queries.first_key[i] - chunk * kChunkKeys);
    end[i] = static_cast<int32_t>(kChunkKeys);
  }
  attend_chunk({queries.q, work.q_width, block.rows, begin, end}, k_matrix(head.k, dtype, head_dim, chunk * groups, groups),
               v_matrix(head.v, dtype, head_dim, chunk * groups, groups), groups, head_dim, work.scale, states);
}

/** Where the V of at most one group of keys lies, in path order: rows of a cache, by the group they lie in and their place there. */
struct PathRows {
  const std::byte* group[kRowGroup];
  int32_t place[kRowGroup];
  int64_t count = 0;

  void add(const std::byte* v, int64_t group_bytes, int64_t row) {
    group[count] = v + row / kRowGroup * group_bytes;
    place[count++] = static_cast<int32_t>(row % kRowGroup);
  }
};

template <DType dtype>
GORGON_INLINE F32x16 load_row(const std::byte* tile, int place) {
  F32x16 even, odd;
  tile::load_pair<dtype>(tile, place / 2, even, odd);
  return place % 2 == 0 ? even : odd;
}

/** Of `Heads` rows of weights: sums of V over one group of keys, in the order of tile_product, onto `sums` or from zero. */
template <DType dtype, int Heads>
void add_path_rows(const PathRows& rows, const float* weights, int64_t weights_stride, int64_t column_blocks, float* sums, int64_t sums_stride,
                   bool keep) {
  for (int64_t block = 0; block < column_blocks; ++block) {
    const int64_t tile = block * tile_bytes(dtype);
    F32x16 even[Heads], odd[Heads];
    for (int h = 0; h < Heads; ++h) even[h] = odd[h] = zero();
    for (int64_t k = 0; k < rows.count; k += 2) {
      const bool has_odd = k + 1 < rows.count;
      F32x16 v_even, v_odd;
      if (has_odd && rows.group[k] == rows.group[k + 1] && rows.place[k] % 2 == 0 && rows.place[k + 1] == rows.place[k] + 1) {
        tile::load_pair<dtype>(rows.group[k] + tile, rows.place[k] / 2, v_even, v_odd);
      } else {
        v_even = load_row<dtype>(rows.group[k] + tile, rows.place[k]);
        v_odd = has_odd ? load_row<dtype>(rows.group[k + 1] + tile, rows.place[k + 1]) : zero();
      }
      for (int h = 0; h < Heads; ++h) {
        even[h] = fma(broadcast(weights[h * weights_stride + k]), v_even, even[h]);
        odd[h] = fma(broadcast(weights[h * weights_stride + k + 1]), v_odd, odd[h]);
      }
    }
    for (int h = 0; h < Heads; ++h) {
      if (rows.count <= kRowGroup - 2) {  // the zeros behind the last row, which make a sum of -0 into 0
        even[h] = fma(zero(), zero(), even[h]);
        odd[h] = fma(zero(), zero(), odd[h]);
      }
      float* sum = sums + h * sums_stride + block * kTileColumns;
      store(sum, (keep ? load(sum) : zero()) + (even[h] + odd[h]));
    }
  }
}

template <DType dtype>
void add_path_rows(const PathRows& rows, const float* weights, int64_t weights_stride, int64_t heads, int64_t column_blocks, float* sums,
                   int64_t sums_stride, bool keep) {
  for (; heads >= 4; heads -= 4, weights += 4 * weights_stride, sums += 4 * sums_stride) {
    add_path_rows<dtype, 4>(rows, weights, weights_stride, column_blocks, sums, sums_stride, keep);
  }
  if (heads == 3) add_path_rows<dtype, 3>(rows, weights, weights_stride, column_blocks, sums, sums_stride, keep);
  if (heads == 2) add_path_rows<dtype, 2>(rows, weights, weights_stride, column_blocks, sums, sums_stride, keep);
  if (heads == 1) add_path_rows<dtype, 1>(rows, weights, weights_stride, column_blocks, sums, sums_stride, keep);
}

void add_path_rows(DType dtype, const PathRows& rows, const float* weights, int64_t weights_stride, int64_t heads, int64_t column_blocks,
                   float* sums, int64_t sums_stride, bool keep) {
  switch (dtype) {
    case DType::kBf16:
      return add_path_rows<DType::kBf16>(rows, weights, weights_stride, heads, column_blocks, sums, sums_stride, keep);
    case DType::kF16:
      return add_path_rows<DType::kF16>(rows, weights, weights_stride, heads, column_blocks, sums, sums_stride, keep);
    case DType::kF32:
      return add_path_rows<DType::kF32>(rows, weights, weights_stride, heads, column_blocks, sums, sums_stride, keep);
    case DType::kInt8:
      return;  // weights only: there are no such caches
  }
}

/** The states of a block over the two chunks of the tail, [rows] each, the second `second` floats behind the first. */
void attend_tail(const Work& work, const Block& block, const Queries& queries, float* states, int64_t second) {
  const TreeAttentionArgs& args = work.args;
  const PassItem& item = *block.item;
  const KvHead& head = work.head(item, block.kv_head);
  const int64_t first_row = block.chunks * kChunkKeys, first_group = first_row / kRowGroup;
  const int64_t committed = item.rows - first_row, whole_groups = committed / kRowGroup;
  // Ancestors come before their descendants: behind the block's last node it has nothing to look at.
  const int64_t last_node = (block.first + block.rows - 1) / work.group;
  const int64_t groups = divide_up(committed + last_node + 1, kRowGroup);

  alignas(64) float scores[kBlockQueries * kTailKeys];
  tile_product(queries.q, work.q_width, block.rows, k_matrix(head.k, args.dtype, args.head_dim, first_group, groups), 0, 2 * groups, scores,
               kTailKeys, false);
  for (int64_t i = 0; i < block.rows; ++i) {
    const int64_t node = (block.first + i) / work.group;
    const int32_t* path = item.paths + node * item.path_stride;
    float* row = scores + i * kTailKeys;
    const int64_t keys = committed + item.depths[node] + 1;
    for (int64_t k = committed; k < keys; ++k) row[k] = row[committed + path[k - committed]];  // paths ascend: nothing is lost
    float* state = states + i * work.stride;
    for (int64_t chunk = 0; chunk < kTailStates; ++chunk, row += kChunkKeys, state += second) {
      const int64_t begin = chunk * kChunkKeys, end = begin + kChunkKeys < keys ? begin + kChunkKeys : keys;
      scores_to_weights(row, end > begin ? round_up(end - begin, kLanes) : 0, static_cast<int32_t>(queries.first_key[i] - first_row - begin),
                        static_cast<int32_t>(end - begin), work.scale, args.dtype, &state[0], &state[1]);
    }
  }

  if (whole_groups > 0) {
    const PackedMatrix v = v_matrix(head.v, args.dtype, args.head_dim, first_group, whole_groups);
    tile_product(scores, kTailKeys, block.rows, v, 0, v.column_blocks(), states + kLanes, work.stride, false);
  }
  const int64_t column_blocks = divide_up(args.head_dim, kTileColumns), group_bytes = v_group_bytes(args.dtype, args.head_dim);
  constexpr int64_t kChunkGroups = kChunkKeys / kRowGroup;
  for (int64_t i = 0, heads; i < block.rows; i += heads) {
    const int64_t node = (block.first + i) / work.group;
    const int64_t next_node = (node + 1) * work.group - block.first;
    heads = (next_node < block.rows ? next_node : block.rows) - i;
    const int32_t* path = item.paths + node * item.path_stride;
    const int64_t keys = committed + item.depths[node] + 1;
    for (int64_t group = whole_groups; group * kRowGroup < keys; ++group) {
      PathRows rows;
      for (int64_t k = group * kRowGroup; k < keys && rows.count < kRowGroup; ++k) {
        rows.add(head.v, group_bytes, k < committed ? first_row + k : item.rows + path[k - committed]);
      }
      float* state = states + i * work.stride + group / kChunkGroups * second;
      add_path_rows(args.dtype, rows, scores + i * kTailKeys + group * kRowGroup, kTailKeys, heads, column_blocks, state + kLanes, work.stride,
                    group % kChunkGroups != 0);
    }
  }
}

void finish_row(const Work& work, const Block& block, int64_t row, const float* state) {
  const TreeAttentionArgs& args = work.args;
  const int64_t node = (block.first + row) / work.group, query_head = block.kv_head * work.group + (block.first + row) % work.group;
  finish_state(state, args.head_dim, args.dtype == DType::kBf16, work.out(*block.item, node) + query_head * args.head_dim);
}

void attend_whole(const Work& work, const Block& block) {
  constexpr int64_t kMostFloats = kBlockQueries * (kLanes + kMaxHeadDim);
  alignas(64) float running[kMostFloats];
  alignas(64) float parts[kTailStates * kMostFloats];
  const int64_t head_dim = work.args.head_dim;
  const Queries queries(work, block);
  for (int64_t i = 0; i < block.rows; ++i) clear_state(running + i * work.stride, head_dim);
  for (int64_t chunk = block.first_chunk; chunk < block.chunks; ++chunk) {
    attend_full_chunk(work, block, queries, chunk, parts);
    merge_rows(running, parts, block.rows, head_dim);
  }
  attend_tail(work, block, queries, parts, kMostFloats);
  for (int64_t i = 0; i < kTailStates; ++i) merge_rows(running, parts + i * kMostFloats, block.rows, head_dim);
  for (int64_t i = 0; i < block.rows; ++i) finish_row(work, block, i, running + i * work.stride);
}

/** How many blocks of at most `block_rows` rows there are. */
int64_t blocks_of(const Work& work, int64_t block_rows) {
  int64_t blocks = 0;
  for (int64_t i = 0; i < work.args.item_count; ++i) blocks += work.args.kv_heads * divide_up(work.args.items[i].tokens * work.group, block_rows);
  return blocks;
}

void write_blocks(const Work& work, int64_t block_rows, Block* blocks) {
  int64_t row_offset = 0;
  for (int64_t i = 0; i < work.args.item_count; ++i) {
    const PassItem& item = work.args.items[i];
    const int64_t rows = item.tokens * work.group, chunks = item.rows / kChunkKeys;
    for (int64_t kv_head = 0; kv_head < work.args.kv_heads; ++kv_head) {
      const int64_t first_chunk = first_chunk_of(work, item, kv_head);
      for (int64_t first = 0; first < rows; first += block_rows) {
        const int64_t count = first + block_rows < rows ? block_rows : rows - first;
        *blocks++ = {&item, kv_head, first, count, first_chunk, chunks, row_offset};
        row_offset += count;
      }
    }
  }
}

/** Whether so many equal tasks keep the threads busy at least four fifths of the time. */
bool is_balanced(int64_t tasks, int64_t threads) { return 5 * tasks >= 4 * round_up(tasks, threads); }

}  // namespace

Status tree_attention_cpu(const TreeAttentionArgs& args, CpuContext& context) {
  const Work work{args, args.query_heads / args.kv_heads, round_up(args.head_dim, kTileDepth), state_floats(args.head_dim),
                  1.0f / std::sqrt(static_cast<float>(args.head_dim))};
  const int64_t threads = context.pool.threads();
  int64_t block_rows = kBlockQueries;
  while (block_rows > kBlockStep && !is_balanced(blocks_of(work, block_rows), threads)) block_rows -= kBlockStep;
  int64_t most_chunks = 0, all_rows = 0;
  for (int64_t i = 0; i < args.item_count; ++i) {
    for (int64_t kv_head = 0; kv_head < args.kv_heads; ++kv_head) {
      const int64_t chunks = args.items[i].rows / kChunkKeys - first_chunk_of(work, args.items[i], kv_head);
      most_chunks = chunks > most_chunks ? chunks : most_chunks;
    }
    all_rows += args.items[i].tokens * args.query_heads;
  }
  const bool whole = is_balanced(blocks_of(work, block_rows), threads) || most_chunks <= 2;
  if (!whole) {
    // Blocks for which the busiest thread has fewest rows to go over: larger ones, where it is the same.
    const auto busiest = [&](int64_t rows) { return divide_up(blocks_of(work, rows) * (most_chunks + 1), threads) * rows; };
    block_rows = kBlockQueries;
    for (int64_t rows = kBlockQueries - kBlockStep; rows > 0; rows -= kBlockStep) {
      if (busiest(rows) < busiest(block_rows)) block_rows = rows;
    }
  }
  const int64_t block_count = blocks_of(work, block_rows);

  // One after the other: the blocks; then, if they are split, the running states of all rows and those of a wave.
  const int64_t block_floats = round_up(divide_up(block_count * static_cast<int64_t>(sizeof(Block)), static_cast<int64_t>(sizeof(float))), kLanes);
  const int64_t slot_floats = all_rows * work.stride;
  int64_t wave_chunks = kWaveBytes / (slot_floats * static_cast<int64_t>(sizeof(float)));
  if (wave_chunks * block_count < 4 * threads) wave_chunks = divide_up(4 * threads, block_count);
  if (wave_chunks > most_chunks + 1) wave_chunks = most_chunks + 1;
  float* scratch = nullptr;
  GORGON_TRY(context.scratch.get(block_floats + (whole ? 0 : (1 + wave_chunks + 1) * slot_floats), &scratch));
  Block* blocks = reinterpret_cast<Block*>(scratch);
  write_blocks(work, block_rows, blocks);
  if (whole) {
    context.pool.run(block_count, [&](int64_t task, int) { attend_whole(work, blocks[task]); });
    return {};
  }

  float* running = scratch + block_floats;
  float* parts = running + slot_floats;
  for (int64_t row = 0; row < all_rows; ++row) clear_state(running + row * work.stride, args.head_dim);
  for (int64_t wave = 0; wave < most_chunks + 1; wave += wave_chunks) {
    context.pool.run(block_count * wave_chunks, [&](int64_t task, int) {
      const Block& block = blocks[task % block_count];
      const int64_t slot = task / block_count, index = wave + slot;
      if (index > block.visible_chunks()) return;
      float* states = parts + slot * slot_floats + block.row_offset * work.stride;
      const Queries queries(work, block);
      if (index < block.visible_chunks()) {
        attend_full_chunk(work, block, queries, block.first_chunk + index, states);
      } else {
        attend_tail(work, block, queries, states, slot_floats);
      }
    });
    context.pool.run_ranges(all_rows, [&](int64_t begin, int64_t end, int) {
      const Block* block = blocks;
      for (int64_t row = begin; row < end; ++row) {
        while (row >= block->row_offset + block->rows) ++block;
        const int64_t left = block->visible_chunks() + 1 - wave;  // the tail included
        if (left <= 0) continue;
        const bool ends = left <= wave_chunks;
        float* state = running + row * work.stride;
        merge_parts(state, parts + row * work.stride, slot_floats, ends ? left - 1 + kTailStates : wave_chunks, args.head_dim);
        if (ends) finish_row(work, *block, row - block->row_offset, state);
      }
    });
  }
  return {};
}

}  // namespace gorgon::GORGON_ISA
