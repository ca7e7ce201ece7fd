// tree_attention on the CPU, in two loops over tasks:
//
//   parts   full chunks of committed rows: a task is a chunk of one KV head; all nodes go over it together
//           the tail: a task is a node of one KV head; its last chunk or two, where its own ancestors begin
//   merge   a task is a node: its parts, in chunk order
//
//   rows    0 ......... full chunks ......... | tail: committed rows | path of n |
//                                             ^ chunk boundary       ^ R         ^ R + depth(n) + 1
//
// The tail's last group of committed rows and the path are copied to a small cache of their own, in path order, zeros behind: from there on
// a node looks exactly like a committed row.
#include "ops/tree_attention.h"

#include "ops/attention_state.h"

namespace gorgon::GORGON_ISA {

namespace {

/** A committed remainder of at most 31 rows and a path of at most 64 nodes, in whole groups. */
constexpr int64_t kTailGroups = 3;
/** The tail starts at a chunk boundary at most 127 rows before R and ends at most 64 rows behind it. */
constexpr int64_t kTailChunks = 2;

struct Plan {
  int64_t full_chunks;
  /** Chunk states per node and query head. */
  int64_t slots() const { return full_chunks + kTailChunks; }
};

Plan plan_of(const TreeAttentionItem& item) { return {item.rows / kChunkKeys}; }

struct Work {
  const TreeAttentionArgs& args;
  int64_t group;
  int64_t q_width;
  int64_t stride;
  float scale;
};

/** Where the state of (node, query head, slot) is. */
float* state_at(const Work& work, float* states, const Plan& plan, int64_t node, int64_t query_head, int64_t slot) {
  return states + ((node * work.args.query_heads + query_head) * plan.slots() + slot) * work.stride;
}

/** Index of the first key of node's sequence that the attention window leaves visible. */
int64_t first_key_of(const Work& work, const TreeAttentionItem& item, const KvHead& head, int64_t node) {
  const int64_t position = item.position + item.depths[node];
  const int64_t row = first_visible_row(head.positions, item.rows, position, work.args.window);
  if (row < item.rows || work.args.window <= 0) return row;
  const int64_t into_path = position - work.args.window + 1 - item.position;
  return item.rows + (into_path > 0 ? into_path : 0);
}

void attend_full_chunk(const Work& work, const TreeAttentionItem& item, const Plan& plan, int64_t kv_head, int64_t chunk, float* states) {
  const TreeAttentionArgs& args = work.args;
  const KvHead& head = item.heads[kv_head];
  const int64_t groups = kChunkKeys / kRowGroup;
  const KeySegment segment{k_matrix(head.k, args.dtype, args.head_dim, chunk * groups, groups),
                           v_matrix(head.v, args.dtype, args.head_dim, chunk * groups, groups), groups};
  alignas(64) float q[kBlockQueries * kMaxHeadDim];
  alignas(64) float parts[kBlockQueries * (kLanes + kMaxHeadDim)];
  int32_t begin[kBlockQueries], end[kBlockQueries];
  const int64_t rows = item.nodes * work.group;
  for (int64_t first = 0; first < rows; first += kBlockQueries) {
    const int64_t count = first + kBlockQueries < rows ? kBlockQueries : rows - first;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t node = (first + i) / work.group, query_head = kv_head * work.group + (first + i) % work.group;
      std::memcpy(q + i * work.q_width, item.q + (node * args.query_heads + query_head) * work.q_width, work.q_width * sizeof(float));
      begin[i] = static_cast<int32_t>(first_key_of(work, item, head, node) - chunk * kChunkKeys);
      end[i] = static_cast<int32_t>(kChunkKeys);
    }
    attend_chunk({q, work.q_width, count, begin, end}, &segment, 1, args.head_dim, work.scale, parts);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t node = (first + i) / work.group, query_head = kv_head * work.group + (first + i) % work.group;
      std::memcpy(state_at(work, states, plan, node, query_head, chunk), parts + i * work.stride, work.stride * sizeof(float));
    }
  }
}

void attend_tail(const Work& work, const TreeAttentionItem& item, const Plan& plan, int64_t kv_head, int64_t node, std::byte* tail_k,
                 std::byte* tail_v, float* states) {
  const TreeAttentionArgs& args = work.args;
  const KvHead& head = item.heads[kv_head];
  const int64_t k_bytes = k_group_bytes(args.dtype, args.head_dim), v_bytes = v_group_bytes(args.dtype, args.head_dim);

  // The group that holds row R, then the node's path behind its committed rows. The last node of a chain, which is every node of plain
  // decoding, finds its path in place and zeros behind it: nothing to copy.
  const int64_t path_nodes = item.depths[node] + 1;
  const bool in_place = path_nodes == item.nodes;
  const int64_t whole_groups = in_place ? divide_up(item.rows + path_nodes, kRowGroup) : item.rows / kRowGroup;
  if (!in_place) {
    const int64_t remainder = item.rows % kRowGroup;
    const int64_t tail_groups = divide_up(remainder + path_nodes, kRowGroup);
    std::memset(tail_k, 0, tail_groups * k_bytes);
    std::memset(tail_v, 0, tail_groups * v_bytes);
    for (int64_t row = 0; row < remainder; ++row) {
      copy_kv_row(args.dtype, args.head_dim, head.k, head.v, whole_groups * kRowGroup + row, tail_k, tail_v, row);
    }
    const int32_t* path = item.paths + node * item.path_stride;
    for (int64_t i = 0; i < path_nodes; ++i) {
      copy_kv_row(args.dtype, args.head_dim, head.k, head.v, item.rows + path[i], tail_k, tail_v, remainder + i);
    }
  }

  const int64_t keys = item.rows + path_nodes;
  const int64_t first_key = first_key_of(work, item, head, node);
  alignas(64) float parts[kBlockQueries * (kLanes + kMaxHeadDim)];
  int32_t begin[kBlockQueries], end[kBlockQueries];
  for (int64_t slot = 0; slot < kTailChunks; ++slot) {
    const int64_t chunk = (plan.full_chunks + slot) * kChunkKeys;
    const int64_t last = chunk + kChunkKeys < keys ? chunk + kChunkKeys : keys;
    const int64_t first_group = chunk / kRowGroup;
    const int64_t groups = last > chunk ? divide_up(last - chunk, kRowGroup) : 0;
    // Groups before the one with row R stay where they are.
    const int64_t committed = first_group < whole_groups ? (whole_groups - first_group < groups ? whole_groups - first_group : groups) : 0;
    const int64_t skip = first_group > whole_groups ? first_group - whole_groups : 0;
    KeySegment segments[2];
    int segment_count = 0;
    if (committed > 0) {
      segments[segment_count++] = {k_matrix(head.k, args.dtype, args.head_dim, first_group, committed),
                                   v_matrix(head.v, args.dtype, args.head_dim, first_group, committed), committed};
    }
    if (groups > committed) {
      segments[segment_count++] = {k_matrix(tail_k, args.dtype, args.head_dim, skip, groups - committed),
                                   v_matrix(tail_v, args.dtype, args.head_dim, skip, groups - committed), groups - committed};
    }
    for (int64_t first = 0; first < work.group; first += kBlockQueries) {
      const int64_t count = first + kBlockQueries < work.group ? kBlockQueries : work.group - first;
      const int64_t query_head = kv_head * work.group + first;
      if (segment_count > 0) {
        for (int64_t i = 0; i < count; ++i) {
          begin[i] = static_cast<int32_t>(first_key - chunk);
          end[i] = static_cast<int32_t>(last - chunk);
        }
        attend_chunk({item.q + (node * args.query_heads + query_head) * work.q_width, work.q_width, count, begin, end}, segments,
                     segment_count, args.head_dim, work.scale, parts);
      }
      for (int64_t i = 0; i < count; ++i) {
        float* state = state_at(work, states, plan, node, query_head + i, plan.full_chunks + slot);
        if (segment_count > 0) {
          std::memcpy(state, parts + i * work.stride, work.stride * sizeof(float));
        } else {
          state[0] = -INFINITY;
          state[1] = 0.0f;
        }
      }
    }
  }
}

void merge_node(const Work& work, const TreeAttentionItem& item, const Plan& plan, int64_t node, float* states) {
  const TreeAttentionArgs& args = work.args;
  for (int64_t query_head = 0; query_head < args.query_heads; ++query_head) {
    float* state = state_at(work, states, plan, node, query_head, 0);
    for (int64_t slot = 1; slot < plan.slots(); ++slot) merge_state(state, state + slot * work.stride, args.head_dim);
    finish_state(state, args.head_dim, args.dtype == DType::kBf16, item.out + node * args.out_stride + query_head * args.head_dim);
  }
}

}  // namespace

Status tree_attention_cpu(const TreeAttentionArgs& args, CpuContext& context) {
  const Work work{args, args.query_heads / args.kv_heads, round_up(args.head_dim, kTileDepth), state_floats(args.head_dim),
                  1.0f / std::sqrt(static_cast<float>(args.head_dim))};
  // One after the other: the states of every item, then one tail cache per thread.
  const int64_t tail_k_bytes = kTailGroups * k_group_bytes(args.dtype, args.head_dim);
  const int64_t tail_v_bytes = kTailGroups * v_group_bytes(args.dtype, args.head_dim);
  int64_t floats = 0, part_tasks = 0, nodes = 0;
  for (int64_t i = 0; i < args.item_count; ++i) {
    const TreeAttentionItem& item = args.items[i];
    floats += item.nodes * args.query_heads * plan_of(item).slots() * work.stride;
    part_tasks += args.kv_heads * (plan_of(item).full_chunks + item.nodes);
    nodes += item.nodes;
  }
  const int64_t tail_floats = (tail_k_bytes + tail_v_bytes) / static_cast<int64_t>(sizeof(float));
  float* scratch = nullptr;
  GORGON_TRY(context.scratch.get(floats + tail_floats * context.pool.threads(), &scratch));
  float* tails = scratch + floats;

  context.pool.run(part_tasks, [&](int64_t task, int thread) {
    float* states = scratch;
    const TreeAttentionItem* item = args.items;
    Plan plan = plan_of(*item);
    while (task >= args.kv_heads * (plan.full_chunks + item->nodes)) {
      task -= args.kv_heads * (plan.full_chunks + item->nodes);
      states += item->nodes * args.query_heads * plan.slots() * work.stride;
      plan = plan_of(*++item);
    }
    const int64_t kv_head = task % args.kv_heads, part = task / args.kv_heads;
    if (part < plan.full_chunks) {
      attend_full_chunk(work, *item, plan, kv_head, part, states);
    } else {
      std::byte* tail = reinterpret_cast<std::byte*>(tails + thread * tail_floats);
      attend_tail(work, *item, plan, kv_head, part - plan.full_chunks, tail, tail + tail_k_bytes, states);
    }
  });
  context.pool.run(nodes, [&](int64_t node, int) {
    float* states = scratch;
    const TreeAttentionItem* item = args.items;
    while (node >= item->nodes) {
      node -= item->nodes;
      states += item->nodes * args.query_heads * plan_of(*item).slots() * work.stride;
      ++item;
    }
    merge_node(work, *item, plan_of(*item), node, states);
  });
  return {};
}

}  // namespace gorgon::GORGON_ISA
