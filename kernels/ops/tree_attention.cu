// tree_attention on CUDA. A query row is a query head of a node: T * g of them (node after node) share the keys of a KV head.
//
//   keys     0 ...... | ...... | ...... | .... R .. R + depth        in the order of plain text: committed rows, then the node's path
//   splits   [  0   ] [   1  ] [   2  ] [   3  ]                     item.split_rows keys: a partial state (m, l, o) each, merged in order
//   chunks   ........ ........ ........ ....                         64 keys: staged, scored and weighed together
//
// Two kernels. split: a block owns one split of a KV head and a block of query rows; a ring of chunks is copied ahead of it, K and V of 64 rows in
// one piece each (cores.h). A team of kTeam warps owns a tile of 16 query rows and goes over the chunks in order:
//
//   scores   q k^T, each warp its share of the 64 keys                the maximum of a row goes over the team through shared memory
//   weights  e^(s - m), rounded to the dtype of V                     exchanged through shared memory, too
//   sums     o += p v in groups of 16 keys, each warp its columns     l = p 1, by one more mma with a column of ones
//
// With few query rows a team is two or four warps, which share one tile's latency; with many, one warp, which keeps everything in registers. Then, on
// Hopper, four such warps multiply as one warpgroup, by wgmma, straight from the cache's layout. It has the bits of mma.sync: none of 75 million
// sums differed on an H200, over wide exponents too, and the exactness tests go on comparing one node by mma with 64 nodes by wgmma.
//
// States are written as mma leaves them, 512 bytes of a warp in one piece: rows by rows they took three times as long. merge: a block per tile and 32
// columns adds up the splits in order.
//
// Chunks whole below R are the same for all nodes. The one or two that reach R, the tail, lie within 128 neighbouring rows, whatever the tree: both
// are in shared memory, and ldmatrix, which takes an address per row of 16 bytes, picks the rows of a node's path. Only groups of 16 keys that reach
// past R differ from node to node; those are multiplied once per node of the tile, and each row takes its own node's. So the operations behind a
// row's numbers depend on the number of its keys and on split_rows alone: rows of an mma know nothing of each other, a weight of zero and a masked
// group add exactly nothing, a maximum does not depend on order, and an unchanged one rescales by exactly 1.
//
// Before the kernel before them is done, blocks already read what no kernel writes: the items, which are uploaded before the first kernel of a step
// is launched, and what they point to but for K, V and positions. K and V are only asked for, into L2, where it does not matter who writes them.
//
// e^x is ex2.approx, within 2^-22: far below the rounding of the weights to bf16 or f16. f32 has kernels of its own, which use expf.
//
// What a block takes on an H200, 2048 rows in 16 splits, 16 nodes, in us: 0.7 from the end of the kernel before to its queries, 0.7 to its first
// chunk, 1.2 for each chunk (0.9 with one node), 3.2 for a tail (1.6), 0.8 to store, 0.6 until merge may begin, 1.5 to merge.
#include "ops/tree_attention.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "common/cuda_context.h"
#include "common/wgmma.cuh"
#include "ops/attention_split.h"

namespace gorgon {

namespace {

constexpr int kChunk = static_cast<int>(kAttentionChunk);
constexpr int kTileRows = 16;
/** Keys of one mma over the keys. */
constexpr int kGroupKeys = 16;
constexpr int kChunkGroups = kChunk / kGroupKeys;
/** Values of a row of weights in shared memory: 16 bytes more than a chunk, so that ldmatrix meets all banks. */
constexpr int kWeightsStride = kChunk + 8;
struct SplitParameters {
  const void* q;
  int64_t q_stride;
  const PassItem* items;
  int64_t layer;
  int64_t window;
  int query_heads;
  int kv_heads;
  int group;
  int head_dim;
  /** head_dim rounded up to 16. */
  int width;
  /** Blocks of query rows per KV head. */
  int row_blocks;
  /** Most nodes that a block of query rows touches. */
  int block_nodes;
  /** Of scores, into the exponent: log2(e) / sqrt(D); for f32 kernels 1 / sqrt(D). */
  float scale;
  /** Room for states, per tile. */
  int splits;
  /** Room for tiles, per KV head. */
  int tiles;
  /** f32 [Hkv, tiles, splits][width / 8][32 lanes][4]: weighted sums of values, as mma leaves them: lane l has columns 2 (l % 4), + 1 of rows l / 4
   *  and l / 4 + 8. */
  float4* sums;
  /** [Hkv, tiles, splits][16]: m, in the exponent's units, and l of each row. */
  float2* totals;
};

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

template <class T>
__device__ __forceinline__ uint32_t pair_of_ones() { return pack_pair<T>(1.0f, 1.0f); }

/** The first key of a node's sequence that the attention window leaves visible. */
__device__ __forceinline__ int first_visible_key(const PassItem& item, const KvHead& head, int64_t window, int depth) {
  if (window <= 0) return 0;
  const int rows = static_cast<int>(item.rows);
  const int64_t oldest = item.position + depth - window + 1;
  int low = 0, high = 0;
  if (head.positions != nullptr && rows > 0) {
    // Positions ascend: what lies between bounds the search. In a cache without holes it is over before it begins.
    const int64_t from_first = oldest - head.positions[0], from_last = rows - 1 - (head.positions[rows - 1] - oldest);
    high = static_cast<int>(from_first < 0 ? 0 : from_first < rows ? from_first : rows);
    low = static_cast<int>(from_last < 0 ? 0 : from_last < high ? from_last : high);
    while (low < high) {
      const int middle = (low + high) / 2;
      if (head.positions[middle] < oldest) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
  }
  if (low < rows) return low;
  const int64_t into_path = oldest - item.position;
  return rows + static_cast<int>(into_path > 0 ? into_path : 0);
}

/** Of a tile of an item: first state among all. Items follow each other; each starts a tile. */
__device__ __forceinline__ int64_t first_state(const PassItem& item, int item_index, int kv_head, int tile, int group, int tiles, int splits) {
  const int before = static_cast<int>(item.first) * group / kTileRows + item_index;
  return (static_cast<int64_t>(kv_head) * tiles + before + tile) * splits;
}

/** Which part of the keys and of the query rows a block owns, and what it has to copy for it. */
struct Part {
  int kv_head;
  /** Query rows of the item and KV head: how many there are, the block's first. */
  int rows;
  int first_row;
  int first_node;
  int nodes;
  /** Chunks, in the order of plain text, [first_chunk, last_chunk); from tail_chunk on they are gathered. */
  int first_chunk;
  int last_chunk;
  int tail_chunk;
  /** Chunks to copy: those before the tail, then all rows of the tail. */
  int shared_loads;
  int loads;

  __device__ __forceinline__ int chunk_of_load(int load) const { return load < shared_loads ? first_chunk + load : tail_chunk + load - shared_loads; }
};

// ---- chunks in shared memory ----

/** Copies chunks ahead of the warps that go over them. acquire is called with 0, 1, 2, ...; a slot is refilled once all warps have released it. */
template <bool kBulk, int kStages>
struct Ring;

/** What few threads need now and then stays out of registers. */
struct RingShared {
  const std::byte* k;
  const std::byte* v;
  /** Per slot: of the bytes that have come, then per slot: of the warps that are done. */
  uint64_t barriers[1];
};

/** Copies by all threads, and a barrier of the block per chunk. */
template <>
struct Ring<false, 2> {
  uint32_t slots;
  const RingShared* own;
  int half_bytes;

  __device__ __forceinline__ Ring(std::byte* slots, RingShared* own, int width)
      : slots(shared_address(slots)), own(own), half_bytes(kChunk * width * 2) {}
  __device__ __forceinline__ uint32_t slot(int load) const { return slots + load % 2 * 2 * half_bytes; }
  __device__ __forceinline__ void start(const KvHead& head, int) {
    if (threadIdx.x == 0) {
      auto* to = const_cast<RingShared*>(own);
      to->k = head.k;
      to->v = head.v;
    }
  }
  __device__ __forceinline__ void fill(const Part& part, int load) {
    const int64_t from = static_cast<int64_t>(part.chunk_of_load(load)) * half_bytes;
    const uint32_t to = slot(load);
    for (int i = threadIdx.x * 16; i < half_bytes; i += blockDim.x * 16) {
      async_copy16(to + i, own->k + from + i);
      async_copy16(to + half_bytes + i, own->v + from + i);
    }
    async_commit();
  }
  __device__ __forceinline__ void prefetch(const KvHead&, int, int) const {}
  __device__ __forceinline__ void fill_first(const Part& part) {
    if (part.loads > 0) fill(part, 0);
  }
  __device__ __forceinline__ uint32_t acquire(const Part& part, int load) {
    async_wait<0>();
    __syncthreads();  // everybody's copies are there, and nobody reads the chunk before any more
    if (load + 1 < part.loads) fill(part, load + 1);
    return slot(load);
  }
  __device__ __forceinline__ void release(int) {}
};

#ifdef GORGON_SM90A
/** Bulk copies by one thread; per slot a barrier that counts bytes and one that counts the warps that are done. */
template <int kStages>
struct Ring<true, kStages> {
  std::byte* slots;
  RingShared* own;
  int half_bytes;
  /** Of thread 0: chunks asked for. */
  int filled = 0;

  __device__ __forceinline__ Ring(std::byte* slots, RingShared* own, int width) : slots(slots), own(own), half_bytes(kChunk * width * 2) {}
  __device__ __forceinline__ std::byte* slot(int load) const { return slots + load % kStages * 2 * half_bytes; }
  __device__ __forceinline__ uint64_t* full(int load) const { return own->barriers + load % kStages; }
  __device__ __forceinline__ uint64_t* empty(int load) const { return own->barriers + kStages + load % kStages; }
  __device__ __forceinline__ void start(const KvHead& head, int warps) {
    if (threadIdx.x == 0) {
      own->k = head.k;
      own->v = head.v;
      for (int i = 0; i < kStages; ++i) {
        barrier_init(full(i), 1);
        barrier_init(empty(i), warps);
      }
      barrier_init_done();
    }
  }
  __device__ __forceinline__ void fill(const Part& part, int load) {
    uint64_t* barrier = full(load);
    std::byte* to = slot(load);
    const int64_t from = static_cast<int64_t>(part.chunk_of_load(load)) * half_bytes;
    barrier_expect(barrier, 2 * half_bytes);
    bulk_copy(to, own->k + from, half_bytes, barrier);
    bulk_copy(to + half_bytes, own->v + from, half_bytes, barrier);
  }
  /** Into L2, of the chunks [first, end), as many as there are slots. What is there does not matter yet. */
  __device__ __forceinline__ void prefetch(const KvHead& head, int first, int end) const {
    const int chunk = first + static_cast<int>(threadIdx.x) / 2;
    if (chunk < end && threadIdx.x < 2 * kStages) {
      bulk_prefetch((threadIdx.x % 2 == 0 ? head.k : head.v) + static_cast<int64_t>(chunk) * half_bytes, half_bytes);
    }
  }
  __device__ __forceinline__ void fill_first(const Part& part) {
    if (threadIdx.x == 0) {
      for (; filled < part.loads && filled < kStages; ++filled) fill(part, filled);
    }
  }
  __device__ __forceinline__ uint32_t acquire(const Part& part, int load) {
    if (threadIdx.x == 0) {
      for (; filled < part.loads && filled < load + kStages; ++filled) {
        if (filled >= kStages) barrier_wait(empty(filled), (filled / kStages - 1) & 1);
        fill(part, filled);
      }
    }
    __syncwarp();
    barrier_wait(full(load), (load / kStages) & 1);
    return shared_address(slot(load));
  }
  __device__ __forceinline__ void release(int load) {
    __syncwarp();
    if (threadIdx.x % kWarp == 0) barrier_arrive(empty(load));
  }
};
#endif

// ---- a tile: 16 query rows ----

/** Where the tail's rows are: the two chunks, and for each node of the block its path. */
struct Tail {
  uint32_t chunk[2];
  /** [nodes][kMaxTreeNodes], up to deepest: nodes from the root on, and zeros past the node itself. */
  const uint8_t* paths;
  int deepest;
  /** Committed rows among them. */
  int committed;

  /** The row behind a node's key, both counted from the tail's first. Keys past a node's last weigh nothing, whichever row is read for them. */
  __device__ __forceinline__ int row(int node, int key) const {
    return key < committed ? key : committed + paths[node * kMaxTreeNodes + min(key - committed, deepest)];
  }
  /** Address of the chunk that holds a row. */
  __device__ __forceinline__ uint32_t chunk_of(int row) const { return row < kChunk ? chunk[0] : chunk[1]; }
};

/** What one warp of a team holds of its tile. Lane l holds the query rows l / 4 and l / 4 + 8, as mma does. */
template <class T, int kWidth, int kTeam, bool kGroupwise>
struct Tile {
  static constexpr int kSteps = kWidth / 16;
  static constexpr int kGroups = kChunkGroups / kTeam;
  static constexpr int kPairs = kWidth / 16 / kTeam;
  /** Groups whose weights a warp keeps in registers. */
  static constexpr int kOwnWeights = kTeam == 1 ? kChunkGroups : 1;
  /** Nodes whose scores of a group are worked on at the same time: as many products as hide each other's latency, but for the team's other warps. */
  static constexpr int kNodeBatch = kTeam == 1 ? 4 : 1;

  uint32_t q[kSteps][4];
  float sums[kPairs][2][4];
  float totals[4];
  float top[2];
  /** Node, counted from the block's first, of the two rows; -1 of a row that does not exist. */
  int node[2];
  /** Of each node of the block: its first visible key; kMaxTreeNodes further on, the end of its keys. */
  const int* ranges;
  int first_node, last_node;
  /** Over all rows of the tile. */
  int most_end;
  int width;
  /** Offsets, in a chunk of K and of V, of this lane's row of the first group of its own. */
  uint32_t k_start, v_start;
  float scale;
  /** Of the team: weights [16][kWeightsStride], then maxima [kTeam][16]. */
  std::byte* exchange;

  __device__ __forceinline__ static int lane() { return threadIdx.x % kWarp; }
  __device__ __forceinline__ static int member() { return threadIdx.x / kWarp % kTeam; }
  __device__ __forceinline__ T* weights() const { return reinterpret_cast<T*>(exchange); }
  __device__ __forceinline__ float* tops() const { return reinterpret_cast<float*>(exchange + kTileRows * kWeightsStride * 2); }

  __device__ __forceinline__ void team_barrier() const {
    if constexpr (kTeam == 1) {
      __syncwarp();
    } else {
      asm volatile("bar.sync %0, %1;" ::"r"(1 + static_cast<int>(threadIdx.x) / (kTeam * kWarp)), "n"(kTeam * kWarp) : "memory");
    }
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[j][0][e] = sums[j][1][e] = 0.0f;
    }
#pragma unroll
    for (int e = 0; e < 4; ++e) totals[e] = 0.0f;
    top[0] = top[1] = -INFINITY;
  }

  /** m, in the exponent's units, and l of row r of the lane's two. */
  __device__ __forceinline__ float2 total(int r) const {
    return make_float2(top[r] == -INFINITY ? -INFINITY : __fmul_rn(top[r], scale), totals[2 * r]);
  }

  /** Of 16 rows of K or V. */
  __device__ __forceinline__ int group_bytes() const { return kGroupKeys * 2 * width; }
  /** Bytes from the start of a chunk of K to what this lane gives ldmatrix for 16 keys, of which `row` is its own. */
  __device__ __forceinline__ uint32_t k_offset(int row) const { return (row / 8) * width * 16 + row % 8 * 16 + (lane() / 8 % 2) * 128; }
  __device__ __forceinline__ uint32_t v_offset(int row) const {
    return (row / 8) * width * 16 + row % 8 * 16 + (lane() / 16) * 128 + member() * (kPairs * 256);
  }
  __device__ __forceinline__ int k_key() const { return lane() / 16 * 8 + lane() % 8; }
  __device__ __forceinline__ int v_key() const { return lane() / 8 % 2 * 8 + lane() % 8; }
  /** Scores of kCount groups of 16 keys at once; K past `width` meets zeros of q. */
  template <int kCount>
  __device__ __forceinline__ void multiply_keys(const uint32_t (&address)[kCount], float (&s)[kCount][2][4]) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) s[i][0][e] = s[i][1][e] = 0.0f;
    }
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        uint32_t b[4];
        load_matrices(b, address[i] + step * 256);
        multiply_add<T>(s[i][0], q[step], b[0], b[1]);
        multiply_add<T>(s[i][1], q[step], b[2], b[3]);
      }
    }
  }

  /** Of a chunk that is the same for all rows. With kGroupwise four warps, and so four tiles, at once: they call it together. */
  __device__ __forceinline__ void shared_scores(uint32_t k, float (&s)[kGroups][2][4]) const {
    if constexpr (kGroupwise) {
#ifdef GORGON_SM90A
      auto& d = reinterpret_cast<float(&)[kChunk / 2]>(s);
      wgmma_fence();
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        Wgmma<T, kChunk>::run(d, q[step], wgmma_operand(k + step * 256, kCoreElements * 2, width * 16), step > 0);
      }
      wgmma_commit();
      wgmma_wait<0>();
#endif
    } else {
      uint32_t address[kGroups];
#pragma unroll
      for (int i = 0; i < kGroups; ++i) address[i] = k + k_start + i * group_bytes();
      multiply_keys<kGroups>(address, s);
    }
  }

  template <int kCount>
  __device__ __forceinline__ void node_scores(const Tail& tail, int key, int node_first, int node_end, bool all, float (&s)[2][4]) const {
    uint32_t address[kCount];
    float found[kCount][2][4];
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int n = node_first + i < node_end ? node_first + i : node_end - 1;
      const int row = tail.row(n, key + k_key());
      address[i] = tail.chunk_of(row) + k_offset(row % kChunk);
    }
    multiply_keys<kCount>(address, found);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const bool take0 = all || node[0] == node_first + i, take1 = all || node[1] == node_first + i;
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        if (take0) s[t][0] = found[i][t][0], s[t][1] = found[i][t][1];
        if (take1) s[t][2] = found[i][t][2], s[t][3] = found[i][t][3];
      }
    }
  }

  /** `key`: of the chunk's first, counted from the tail's; `most`: keys of the tile, counted likewise. */
  __device__ __forceinline__ void tail_scores(const Tail& tail, int key, int most, float (&s)[kGroups][2][4]) const {
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) s[i][0][e] = s[i][1][e] = -INFINITY;
      const int group_key = key + (member() * kGroups + i) * kGroupKeys;
      if (group_key >= most) continue;
      if (group_key + kGroupKeys <= tail.committed || first_node == last_node) {
        node_scores<1>(tail, group_key, first_node, first_node + 1, true, s[i]);
      } else {
#pragma unroll 1
        for (int n = first_node; n <= last_node; n += kNodeBatch) node_scores<kNodeBatch>(tail, group_key, n, last_node + 1, false, s[i]);
      }
    }
  }

  /** Hides the keys outside [begin, end); `key`: of the chunk's first. */
  __device__ __forceinline__ void mask(int key, float (&s)[kGroups][2][4]) const {
    int begin[2], end[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      begin[r] = node[r] < 0 ? 0 : ranges[node[r]];
      end[r] = node[r] < 0 ? 0 : ranges[kMaxTreeNodes + node[r]];
    }
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
#pragma unroll
      for (int t = 0; t < 2; ++t) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int at = key + (member() * kGroups + i) * kGroupKeys + t * 8 + lane() % 4 * 2 + e % 2;
          if (at < begin[e / 2] || at >= end[e / 2]) s[i][t][e] = -INFINITY;
        }
      }
    }
  }

  /** Scores to weights: of a team of one in p, as mma takes them on the left. Brings the sums so far to the new maximum. */
  __device__ __forceinline__ void weigh(float (&s)[kGroups][2][4], uint32_t (&p)[kOwnWeights][4]) {
    float found[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
#pragma unroll
      for (int t = 0; t < 2; ++t) {
#pragma unroll
        for (int e = 0; e < 4; ++e) found[e / 2] = fmaxf(found[e / 2], s[i][t][e]);
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      found[r] = fmaxf(found[r], __shfl_xor_sync(kAllLanes, found[r], 1));
      found[r] = fmaxf(found[r], __shfl_xor_sync(kAllLanes, found[r], 2));
    }
    if constexpr (kTeam > 1) {
      if (lane() % 4 == 0) {
        tops()[member() * kTileRows + lane() / 4] = found[0];
        tops()[member() * kTileRows + lane() / 4 + 8] = found[1];
      }
      team_barrier();  // the maxima of all members; also: nobody reads the weights of the chunk before any more
#pragma unroll
      for (int i = 0; i < kTeam; ++i) {
        found[0] = fmaxf(found[0], tops()[i * kTileRows + lane() / 4]);
        found[1] = fmaxf(found[1], tops()[i * kTileRows + lane() / 4 + 8]);
      }
    }
    float shift[2], keep[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float m = fmaxf(top[r], found[r]);
      // Nothing visible so far: any finite shift makes weights of zero. An unchanged maximum must keep the sums as they are.
      shift[r] = m == -INFINITY ? 0.0f : __fmul_rn(m, scale);
      keep[r] = m == top[r] ? 1.0f : exp2_fast(__fmul_rn(__fsub_rn(top[r], m), scale));
      top[r] = m;
    }
#pragma unroll
    for (int i = 0; i < kGroups; ++i) {
#pragma unroll
      for (int t = 0; t < 2; ++t) {
#pragma unroll
        for (int e = 0; e < 4; ++e) s[i][t][e] = exp2_fast(__fmaf_rn(s[i][t][e], scale, -shift[e / 2]));
      }
    }
    if constexpr (kTeam == 1) {
#pragma unroll
      for (int i = 0; i < kChunkGroups; ++i) {
        p[i][0] = pack_pair<T>(s[i][0][0], s[i][0][1]);
        p[i][1] = pack_pair<T>(s[i][0][2], s[i][0][3]);
        p[i][2] = pack_pair<T>(s[i][1][0], s[i][1][1]);
        p[i][3] = pack_pair<T>(s[i][1][2], s[i][1][3]);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kGroups; ++i) {
#pragma unroll
        for (int t = 0; t < 2; ++t) {
          const int at = (member() * kGroups + i) * kGroupKeys + t * 8 + lane() % 4 * 2;
          *reinterpret_cast<uint32_t*>(weights() + lane() / 4 * kWeightsStride + at) = pack_pair<T>(s[i][t][0], s[i][t][1]);
          *reinterpret_cast<uint32_t*>(weights() + (lane() / 4 + 8) * kWeightsStride + at) = pack_pair<T>(s[i][t][2], s[i][t][3]);
        }
      }
      team_barrier();  // the weights of all members; also: everybody has read the maxima
    }
    if (__any_sync(kAllLanes, keep[0] != 1.0f || keep[1] != 1.0f)) {
#pragma unroll
      for (int j = 0; j < kPairs; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          sums[j][0][e] = __fmul_rn(sums[j][0][e], keep[e / 2]);
          sums[j][1][e] = __fmul_rn(sums[j][1][e], keep[e / 2]);
        }
      }
#pragma unroll
      for (int e = 0; e < 4; ++e) totals[e] = __fmul_rn(totals[e], keep[e / 2]);
    }
  }

  /** Weights of a group of the chunk. */
  __device__ __forceinline__ void take_weights(const uint32_t (&p)[kOwnWeights][4], int i, uint32_t (&own)[4]) const {
    if constexpr (kTeam == 1) {
#pragma unroll
      for (int e = 0; e < 4; ++e) own[e] = p[i][e];
    } else {
      load_matrices(own, shared_address(weights() + (lane() % 8 + lane() / 8 % 2 * 8) * kWeightsStride + lane() / 16 * 8 + i * kGroupKeys));
    }
  }

  /** o += p v over one group of 16 keys, this warp's columns. Columns past `width` are of no use to anybody. */
  __device__ __forceinline__ void multiply_values(const uint32_t (&p)[4], uint32_t address) {
#pragma unroll
    for (int j = 0; j < kPairs; ++j) {
      uint32_t b[4];
      load_matrices_transposed(b, address + j * 256);
      multiply_add<T>(sums[j][0], p, b[0], b[1]);
      multiply_add<T>(sums[j][1], p, b[2], b[3]);
    }
  }

  __device__ __forceinline__ void shared_values(const uint32_t (&p)[kOwnWeights][4], uint32_t v) {
    if constexpr (kGroupwise) {
#ifdef GORGON_SM90A
      auto& d = reinterpret_cast<float(&)[kWidth / 2]>(sums);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < kChunkGroups; ++i) {
        Wgmma<T, kWidth>::run_transposed(d, p[i], wgmma_operand(v + i * group_bytes(), width * 16, kCoreElements * 2), 1);
      }
      wgmma_commit();
#pragma unroll
      for (int i = 0; i < kChunkGroups; ++i) multiply_add<T>(totals, p[i], pair_of_ones<T>(), pair_of_ones<T>());
      wgmma_wait<0>();
#endif
    } else {
#pragma unroll
      for (int i = 0; i < kChunkGroups; ++i) {
        uint32_t group[4];
        take_weights(p, i, group);
        multiply_add<T>(totals, group, pair_of_ones<T>(), pair_of_ones<T>());
        multiply_values(group, v + v_start + i * group_bytes());
      }
    }
  }

  __device__ __forceinline__ void tail_values(const Tail& tail, int key, int most, const uint32_t (&p)[kOwnWeights][4]) {
#pragma unroll(kTeam == 1 ? kChunkGroups : 1)
    for (int i = 0; i < kChunkGroups; ++i) {
      const int group_key = key + i * kGroupKeys;
      if (group_key >= most) continue;
      uint32_t group[4];
      take_weights(p, i, group);
      multiply_add<T>(totals, group, pair_of_ones<T>(), pair_of_ones<T>());
      const bool all = group_key + kGroupKeys <= tail.committed || first_node == last_node;
      const int last = all ? first_node : last_node;
#pragma unroll 1
      for (int n = first_node; n <= last; ++n) {
        const int row = tail.row(n, group_key + v_key());
        const bool take0 = all || node[0] == n, take1 = all || node[1] == n;
        const uint32_t own[4] = {take0 ? group[0] : 0, take1 ? group[1] : 0, take0 ? group[2] : 0, take1 ? group[3] : 0};
        multiply_values(own, tail.chunk_of(row) + kChunk * width * 2 + v_offset(row % kChunk));
      }
    }
  }
};

// ---- merging: the maximum of all states first, then their sums in the order of the splits ----

template <class T>
__device__ __forceinline__ float exp_of_difference(float x) { return exp2_fast(x); }
template <>
__device__ __forceinline__ float exp_of_difference<float>(float x) { return expf(x); }

/** How much a state with the maximum `m` weighs where the largest is `top`. */
template <class T>
__device__ __forceinline__ float state_weight(float m, float top) { return top == -INFINITY ? 0.0f : exp_of_difference<T>(__fsub_rn(m, top)); }

__device__ __forceinline__ float merged(float sum, float total) { return __fdiv_rn(sum, total == 0.0f ? 1.0f : total); }

/** Two neighbours, the first at an even index. */
template <class T>
__device__ __forceinline__ void store_pair(T* to, float first, float second) { *reinterpret_cast<uint32_t*>(to) = pack_pair<T>(first, second); }
template <>
__device__ __forceinline__ void store_pair(float* to, float first, float second) { *reinterpret_cast<float2*>(to) = make_float2(first, second); }

// ---- the kernels of bf16 and f16 ----

/** Where things are in shared memory. */
struct SharedLayout {
  int exchange, exchange_bytes, ranges, ring, paths, bytes;
};

template <int kWidth, int kWarps, int kTeam, bool kBulk>
struct SplitShape {
  static constexpr int kTeams = kWarps / kTeam;
  static constexpr int kBlockRows = kTeams * kTileRows;
  /** Blocks that share a multiprocessor's 227 KiB: where registers allow, two, one of which computes while the other starts or ends. */
  static constexpr int kBlocks = kWarps == 4 && kWidth < 256 ? 2 : 1;
  /** Where many chunks pass through one block, its ring is all there is on the multiprocessor. Otherwise the next kernel's blocks shall find room. */
  static constexpr int kRingBytes = (kWidth == 256 || (kWarps == 8 && kTeam == 1) ? 200 : 100) * 1024;
  static constexpr int kStages = kBulk ? kRingBytes / (2 * kChunk * kWidth * 2) : 2;

  __host__ __device__ static SharedLayout layout(int width, int block_nodes) {
    // Behind the last chunk, where heads are narrower than the kernel: ldmatrix reads it, but nobody uses it. Behind the others it is the next
    // chunk, which may be on its way: racecheck reports these reads of V for heads that are neither 64, 128 nor 256 wide, and nothing else.
    const int overread = (kWidth - width) * 16;
    SharedLayout to;
    to.exchange = kStages * 2 * kChunk * width * 2 + overread;
    to.exchange_bytes = kTeam > 1 ? kTileRows * (kWeightsStride * 2 + kTeam * 4) : 0;
    to.ranges = to.exchange + kTeams * to.exchange_bytes;
    to.ring = to.ranges + 2 * kMaxTreeNodes * 4;
    to.paths = to.ring + static_cast<int>(sizeof(RingShared)) + 2 * kStages * 8;
    to.bytes = to.paths + block_nodes * kMaxTreeNodes;
    return to;
  }
};

template <class T, int kWidth, int kWarps, int kTeam, bool kBulk>
__global__ void __launch_bounds__(kWarps* kWarp, SplitShape<kWidth, kWarps, kTeam, kBulk>::kBlocks)
    tree_attention_split_kernel(const SplitParameters parameters) {
#ifndef GORGON_SM90A
  if constexpr (!kBulk)
#endif
  {
    using Shape = SplitShape<kWidth, kWarps, kTeam, kBulk>;
    constexpr int kBlockRows = Shape::kBlockRows;
    constexpr bool kGroupwise = kBulk && kTeam == 1;  // four warps with a tile each multiply as one, by wgmma
    using SplitTile = Tile<T, kWidth, kTeam, kGroupwise>;
    extern __shared__ __align__(128) std::byte shared[];
    let_next_start();

    const PassItem& item = parameters.items[blockIdx.z];
    const int group = parameters.group, width = parameters.width, committed = static_cast<int>(item.rows), tokens = static_cast<int>(item.tokens);
    const int64_t split_rows = item.split_rows, split_begin = blockIdx.y * split_rows;
    Part part;
    part.kv_head = blockIdx.x / parameters.row_blocks;
    part.rows = tokens * group;
    part.first_row = blockIdx.x % parameters.row_blocks * kBlockRows;
    if (part.first_row >= part.rows || split_begin >= committed + tokens) {
      wait_for_previous();
      return;
    }
    const int last_row = min(part.first_row + kBlockRows, part.rows) - 1;
    part.first_node = part.first_row / group;
    part.nodes = last_row / group - part.first_node + 1;
    part.tail_chunk = committed / kChunk;
    const int split_chunk = static_cast<int>(split_begin / kChunk), end_chunk = split_chunk + static_cast<int>(split_rows / kChunk);
    const int tail_key = part.tail_chunk * kChunk;

    const KvHead head = item.heads[parameters.layer * parameters.kv_heads + part.kv_head];
    const SharedLayout layout = Shape::layout(width, parameters.block_nodes);
    Ring<kBulk, Shape::kStages> ring(shared, reinterpret_cast<RingShared*>(shared + layout.ring), width);
    ring.start(head, kWarps);
    if (parameters.window > 0) {
      wait_for_previous();  // positions are written by kernels
    } else {
      ring.prefetch(head, split_chunk, min(end_chunk, part.tail_chunk + 1));
    }

    auto* begin = reinterpret_cast<int*>(shared + layout.ranges);
    int* end = begin + kMaxTreeNodes;
    for (int n = threadIdx.x; n < part.nodes; n += blockDim.x) {
      const int depth = item.depths[part.first_node + n];
      begin[n] = first_visible_key(item, head, parameters.window, depth);
      end[n] = committed + depth + 1;
    }
    auto* paths = reinterpret_cast<uint8_t*>(shared + layout.paths);
    if (end_chunk > part.tail_chunk) {
      const int stride = static_cast<int>(item.path_stride), depths = min(stride, kMaxTreeNodes);
      for (int i = threadIdx.x; i < part.nodes * depths; i += blockDim.x) {
        const int n = i / depths, depth = i % depths, node = item.paths[(part.first_node + n) * stride + depth];
        paths[n * kMaxTreeNodes + depth] = static_cast<uint8_t>(depth <= item.depths[part.first_node + n] ? node : 0);
      }
    }
    __syncthreads();  // of what is known of the nodes, and of the ring's barriers
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    int least_begin = begin[lane < part.nodes ? lane : 0], most_end = end[lane < part.nodes ? lane : 0];
    if (lane + kWarp < part.nodes) {
      least_begin = min(least_begin, begin[lane + kWarp]);
      most_end = max(most_end, end[lane + kWarp]);
    }
    least_begin = __reduce_min_sync(kAllLanes, least_begin);
    most_end = __reduce_max_sync(kAllLanes, most_end);

    part.first_chunk = max(split_chunk, least_begin / kChunk);
    part.last_chunk = max(part.first_chunk, min(end_chunk, (most_end + kChunk - 1) / kChunk));
    part.shared_loads = max(0, min(part.last_chunk, part.tail_chunk) - part.first_chunk);
    const int first_tail = max(part.first_chunk, part.tail_chunk);
    const bool has_tail = first_tail < part.last_chunk;
    part.loads = part.shared_loads + (has_tail ? (committed + tokens > tail_key + kChunk ? 2 : 1) : 0);

    SplitTile tile;
    const int team = warp / kTeam, tile_row = part.first_row + team * kTileRows;
    // Warps that multiply as one do so for rows that do not exist, too.
    const bool active = (kGroupwise ? tile_row / (4 * kTileRows) * (4 * kTileRows) : tile_row) < part.rows;
    tile.width = width;
    tile.k_start = tile.k_offset(tile.member() * tile.kGroups * kGroupKeys + tile.k_key());
    tile.v_start = tile.v_offset(tile.v_key());
    tile.scale = parameters.scale;
    tile.exchange = shared + layout.exchange + team * layout.exchange_bytes;
    tile.ranges = begin;
    tile.clear();
    const T* q_row[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = tile_row + lane / 4 + 8 * r;
      const bool exists = row < part.rows;
      const int node = exists ? row / group : 0, query_head = part.kv_head * group + (exists ? row % group : 0);
      tile.node[r] = exists ? node - part.first_node : -1;
      q_row[r] = exists ? static_cast<const T*>(parameters.q) + (item.first + node) * parameters.q_stride + query_head * width : nullptr;
    }
    tile.first_node = tile_row / group - part.first_node;
    tile.last_node = (min(tile_row + kTileRows, part.rows) - 1) / group - part.first_node;
    tile.most_end = __reduce_max_sync(kAllLanes, max(tile.node[0] < 0 ? 0 : end[tile.node[0]], tile.node[1] < 0 ? 0 : end[tile.node[1]]));
    wait_for_previous();
    if (split_begin >= most_end) return;
    ring.fill_first(part);
#pragma unroll
    for (int step = 0; step < tile.kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = step * 16 + i / 2 * 8 + lane % 4 * 2;
        tile.q[step][i] = q_row[i % 2] != nullptr && column < width ? *reinterpret_cast<const uint32_t*>(q_row[i % 2] + column) : 0;
      }
    }

    const uint32_t v_start = kChunk * width * 2;
    float s[SplitTile::kGroups][2][4];
    uint32_t p[SplitTile::kOwnWeights][4];
    for (int load = 0; load < part.shared_loads; ++load) {
      const uint32_t slot = ring.acquire(part, load);
      if (active) {
        const int key = (part.first_chunk + load) * kChunk;
        tile.shared_scores(slot, s);
        if (parameters.window > 0) tile.mask(key, s);
        tile.weigh(s, p);
        tile.shared_values(p, slot + v_start);
      }
      ring.release(load);
    }
    if (has_tail) {
      Tail tail;
      tail.paths = paths;
      tail.deepest = min(static_cast<int>(item.path_stride), kMaxTreeNodes) - 1;
      tail.committed = committed - tail_key;
      tail.chunk[0] = tail.chunk[1] = ring.acquire(part, part.shared_loads);
      if (part.loads > part.shared_loads + 1) tail.chunk[1] = ring.acquire(part, part.shared_loads + 1);
      if (active) {
        for (int chunk = first_tail; chunk < part.last_chunk; ++chunk) {
          const int key = (chunk - part.tail_chunk) * kChunk, most = tile.most_end - tail_key;
          tile.tail_scores(tail, key, most, s);
          tile.mask(chunk * kChunk, s);
          tile.weigh(s, p);
          tile.tail_values(tail, key, most, p);
        }
      }
    }

    const int row_tile = static_cast<int>(blockIdx.x) % parameters.row_blocks * (kBlockRows / kTileRows) + team;
    if (row_tile * kTileRows >= item.tokens * group) return;
    const int kv_head = static_cast<int>(blockIdx.x) / parameters.row_blocks;
    const int64_t state = first_state(item, blockIdx.z, kv_head, row_tile, group, parameters.tiles, parameters.splits) + blockIdx.y;
    float4* sums = parameters.sums + state * (width / 8) * kWarp + lane;
#pragma unroll
    for (int j = 0; j < tile.kPairs; ++j) {
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        const int eighth = (tile.member() * tile.kPairs + j) * 2 + t;
        if (eighth < width / 8) sums[eighth * kWarp] = make_float4(tile.sums[j][t][0], tile.sums[j][t][1], tile.sums[j][t][2], tile.sums[j][t][3]);
      }
    }
    if (tile.member() == 0 && lane % 4 == 0) {
      parameters.totals[state * kTileRows + lane / 4] = tile.total(0);
      parameters.totals[state * kTileRows + lane / 4 + 8] = tile.total(1);
    }
  }
}

// ---- the kernel of f32: a warp owns a query row and a split ----

constexpr int kPlainWarps = 8;
constexpr int kPlainColumns = static_cast<int>(kMaxHeadDim) / kWarp;

/** 32 keys at a time: a lane scores a key, then all lanes add up its values, each for its columns. */
__global__ void __launch_bounds__(kPlainWarps* kWarp, 2) tree_attention_plain_kernel(const SplitParameters parameters) {
  __shared__ __align__(16) float queries[kPlainWarps][kMaxHeadDim];
  let_next_start();
  wait_for_previous();
  const PassItem& item = parameters.items[blockIdx.z];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, width = parameters.width;
  const int kv_head = blockIdx.x / parameters.row_blocks, row = blockIdx.x % parameters.row_blocks * kPlainWarps + warp;
  if (row >= item.tokens * parameters.group) return;
  const int node = row / parameters.group, query_head = kv_head * parameters.group + row % parameters.group, depth = item.depths[node];
  const int committed = static_cast<int>(item.rows), end = committed + depth + 1;
  const int64_t split_begin = blockIdx.y * item.split_rows;
  if (split_begin >= end) return;
  const KvHead head = item.heads[parameters.layer * parameters.kv_heads + kv_head];
  const int begin = first_visible_key(item, head, parameters.window, depth);
  const int split_end = static_cast<int>(min(split_begin + item.split_rows, static_cast<int64_t>(end)));
  const int32_t* path = item.paths + node * item.path_stride;
  const auto* k = reinterpret_cast<const float*>(head.k);
  const auto* v = reinterpret_cast<const float*>(head.v);

  const float* q = static_cast<const float*>(parameters.q) + (item.first + node) * parameters.q_stride + static_cast<int64_t>(query_head) * width;
  for (int d = lane; d < width; d += kWarp) queries[warp][d] = q[d];
  __syncwarp();

  float sums[kPlainColumns] = {};
  float top = -INFINITY, total = 0.0f;
  for (int first = static_cast<int>(split_begin); first < split_end; first += kWarp) {
    if (first + kWarp <= begin) continue;
    const int key = first + lane;
    const bool visible = key >= begin && key < end;
    const int64_t at = key < committed ? key : key < end ? committed + path[key - committed] : 0;
    const int64_t offset = at / kCore * kCore * width + at % kCore * kCore;
    float score = 0.0f;
    for (int d = 0; d < width; d += 4) {
      const float4 a = *reinterpret_cast<const float4*>(&queries[warp][d]);
      const float4 b = *reinterpret_cast<const float4*>(k + offset + d / kCore * kCoreElements + d % kCore);
      score = __fmaf_rn(a.x, b.x, score);
      score = __fmaf_rn(a.y, b.y, score);
      score = __fmaf_rn(a.z, b.z, score);
      score = __fmaf_rn(a.w, b.w, score);
    }
    score = visible ? __fmul_rn(score, parameters.scale) : -INFINITY;
    const float m = fmaxf(top, warp_max(score));
    const float keep = m == top ? 1.0f : expf(__fsub_rn(top, m)), weight = visible ? expf(__fsub_rn(score, m)) : 0.0f;
    total = __fmaf_rn(total, keep, warp_sum(weight));
    top = m;
#pragma unroll
    for (int c = 0; c < kPlainColumns; ++c) sums[c] = __fmul_rn(sums[c], keep);
    const int keys = min(kWarp, split_end - first);
    for (int j = 0; j < keys; ++j) {
      const float p = __shfl_sync(kAllLanes, weight, j);
      const int64_t from = __shfl_sync(kAllLanes, offset, j);
#pragma unroll
      for (int c = 0; c < kPlainColumns; ++c) {
        const int d = c * kWarp + lane;
        if (d < width) sums[c] = __fmaf_rn(p, v[from + d / kCore * kCoreElements + d % kCore], sums[c]);
      }
    }
  }
  const int64_t state = first_state(item, blockIdx.z, kv_head, row / kTileRows, parameters.group, parameters.tiles, parameters.splits) + blockIdx.y;
  const int tile_row = row % kTileRows;
  auto* out = reinterpret_cast<float*>(parameters.sums + state * (width / 8) * kWarp);
#pragma unroll
  for (int c = 0; c < kPlainColumns; ++c) {
    const int d = c * kWarp + lane;
    if (d < width) out[(d / 8 * kWarp + tile_row % 8 * 4 + d % 8 / 2) * 4 + tile_row / 8 * 2 + d % 2] = sums[c];
  }
  if (lane == 0) parameters.totals[state * kTileRows + tile_row] = make_float2(top, total);
}

// ---- merging ----

constexpr int kMergeWarps = 4;
/** States whose sums are asked for at the same time. */
constexpr int kMergeAhead = 16;
/** States whose weights are in shared memory at the same time. */
constexpr int kMergeStates = 64;

/** A block owns a tile and 32 columns of it, a warp 8 of them. All threads share out the rows' weights, while the first sums are on their way. */
template <class T>
__global__ void __launch_bounds__(kMergeWarps* kWarp) tree_attention_merge_kernel(const SplitParameters parameters, void* out) {
  constexpr int kParts = kMergeWarps * kWarp / kTileRows;
  /** exp(m - top) and l. */
  __shared__ float2 weights[kMergeStates][kTileRows];
  __shared__ float tops[kParts][kTileRows];
  let_next_start();
  const PassItem& item = parameters.items[blockIdx.z];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int eighths = parameters.width / 8, eighth = static_cast<int>(blockIdx.y) * kMergeWarps + warp;
  const int tile = blockIdx.x / parameters.kv_heads, kv_head = blockIdx.x % parameters.kv_heads, group = parameters.group;
  const int rows = static_cast<int>(item.tokens) * group;
  if (tile * kTileRows >= rows) {
    wait_for_previous();
    return;
  }
  // Of the row whose weights this thread makes, then of the two whose sums it adds up.
  const int own_row = threadIdx.x % kTileRows, part = threadIdx.x / kTileRows;
  int own_count = 0;
  if (tile * kTileRows + own_row < rows) {
    own_count = (static_cast<int>(item.rows) + item.depths[(tile * kTileRows + own_row) / group]) / static_cast<int>(item.split_rows) + 1;
  }
  const int most = __reduce_max_sync(kAllLanes, own_count);
  const int count[2] = {__shfl_sync(kAllLanes, own_count, lane / 4), __shfl_sync(kAllLanes, own_count, lane / 4 + 8)};
  const int64_t state = first_state(item, blockIdx.z, kv_head, tile, group, parameters.tiles, parameters.splits);
  const float4* sums = parameters.sums + (state * eighths + (eighth < eighths ? eighth : 0)) * kWarp + lane;
  const float2* totals = parameters.totals + state * kTileRows + own_row;
  wait_for_previous();

  float4 next[kMergeAhead];
#pragma unroll
  for (int i = 0; i < kMergeAhead; ++i) {
    if (i < most) next[i] = sums[static_cast<int64_t>(i) * eighths * kWarp];
  }
  float2 own[kMergeStates / kParts];
  float top = -INFINITY;
#pragma unroll
  for (int i = 0; i < kMergeStates / kParts; ++i) {
    const int s = part + i * kParts;
    own[i] = s < own_count ? totals[s * kTileRows] : make_float2(-INFINITY, 0.0f);
  }
#pragma unroll
  for (int i = 0; i < kMergeStates / kParts; ++i) top = fmaxf(top, own[i].x);
  for (int s = kMergeStates + part; s < own_count; s += kParts) top = fmaxf(top, totals[s * kTileRows].x);
  tops[part][own_row] = top;
  __syncthreads();  // of the maxima
#pragma unroll
  for (int i = 0; i < kParts; ++i) top = fmaxf(top, tops[i][own_row]);

  float total[2] = {}, sum[4] = {};
  for (int batch = 0; batch < most; batch += kMergeStates) {
    if (batch > 0) __syncthreads();  // everybody is done with the weights before
#pragma unroll
    for (int i = 0; i < kMergeStates / kParts; ++i) {
      const int s = part + i * kParts;
      if (batch > 0 && batch + s < own_count) own[i] = totals[(batch + s) * kTileRows];
      if (batch + s < own_count) weights[s][own_row] = make_float2(state_weight<T>(own[i].x, top), own[i].y);
    }
    __syncthreads();  // of the weights
    for (int first = batch; first < most && first < batch + kMergeStates; first += kMergeAhead) {
      if (first > 0) {
#pragma unroll
        for (int i = 0; i < kMergeAhead; ++i) {
          if (first + i < most) next[i] = sums[static_cast<int64_t>(first + i) * eighths * kWarp];
        }
      }
#pragma unroll
      for (int i = 0; i < kMergeAhead; ++i) {
        const float values[4] = {next[i].x, next[i].y, next[i].z, next[i].w};
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          if (first + i >= count[r]) continue;
          const float2 w = weights[first - batch + i][lane / 4 + 8 * r];
          total[r] = __fmaf_rn(w.x, w.y, total[r]);
          sum[2 * r] = __fmaf_rn(w.x, values[2 * r], sum[2 * r]);
          sum[2 * r + 1] = __fmaf_rn(w.x, values[2 * r + 1], sum[2 * r + 1]);
        }
      }
    }
  }
  const int column = eighth * 8 + lane % 4 * 2;
  if (column >= parameters.head_dim) return;  // head_dim is even: otherwise both columns exist
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = tile * kTileRows + lane / 4 + 8 * r;
    if (row >= rows) continue;
    const int64_t at = core_element(item.first + row / group, static_cast<int64_t>(kv_head * group + row % group) * parameters.head_dim + column,
                                    static_cast<int64_t>(parameters.query_heads) * parameters.head_dim);
    store_pair(static_cast<T*>(out) + at, merged(sum[2 * r], total[r]), merged(sum[2 * r + 1], total[r]));
  }
}

// ---- launching ----

template <class T, int kWidth, int kWarps, int kTeam, bool kBulk>
Status launch_split(SplitParameters parameters, int64_t item_count, int64_t most_query_rows, CudaContext& context) {
  using Shape = SplitShape<kWidth, kWarps, kTeam, kBulk>;
  parameters.row_blocks = static_cast<int>(divide_up(most_query_rows, Shape::kBlockRows));
  parameters.block_nodes = std::min(kMaxTreeNodes, Shape::kBlockRows / parameters.group + 2);
  const dim3 grid(parameters.kv_heads * parameters.row_blocks, static_cast<unsigned>(parameters.splits), static_cast<unsigned>(item_count));
  return launch(context, "tree_attention", tree_attention_split_kernel<T, kWidth, kWarps, kTeam, kBulk>, grid, kWarps * kWarp,
                Shape::layout(parameters.width, parameters.block_nodes).bytes, parameters);
}

/** Up to here a block goes over few chunks and what counts is how soon it has: more warps share a tile. Beyond, how much all blocks get through. */
constexpr int kFewSplits = 18;

template <class T, int kWidth, bool kBulk>
Status launch_split(const SplitParameters& parameters, int64_t item_count, int64_t most_query_rows, CudaContext& context) {
  if (most_query_rows <= kTileRows) return launch_split<T, kWidth, 4, 4, kBulk>(parameters, item_count, most_query_rows, context);
  if constexpr (kWidth == 256) {
    return launch_split<T, kWidth, 8, 2, kBulk>(parameters, item_count, most_query_rows, context);
  } else {
    if (most_query_rows > 4 * kTileRows) return launch_split<T, kWidth, 8, 1, kBulk>(parameters, item_count, most_query_rows, context);
    if (parameters.splits <= kFewSplits) return launch_split<T, kWidth, 8, 2, kBulk>(parameters, item_count, most_query_rows, context);
    return launch_split<T, kWidth, 4, 1, kBulk>(parameters, item_count, most_query_rows, context);
  }
}

template <class T, int kWidth>
Status launch_split(const SplitParameters& parameters, int64_t item_count, int64_t most_query_rows, CudaContext& context) {
  if (context.hopper) return launch_split<T, kWidth, true>(parameters, item_count, most_query_rows, context);
  return launch_split<T, kWidth, false>(parameters, item_count, most_query_rows, context);
}

template <class T>
Status launch_split(const SplitParameters& parameters, int64_t item_count, int64_t most_query_rows, CudaContext& context) {
  if (parameters.width <= 64) return launch_split<T, 64>(parameters, item_count, most_query_rows, context);
  if (parameters.width <= 128) return launch_split<T, 128>(parameters, item_count, most_query_rows, context);
  return launch_split<T, 256>(parameters, item_count, most_query_rows, context);
}

Status launch_plain(SplitParameters parameters, int64_t item_count, int64_t most_query_rows, CudaContext& context) {
  parameters.row_blocks = static_cast<int>(divide_up(most_query_rows, kPlainWarps));
  const dim3 grid(parameters.kv_heads * parameters.row_blocks, static_cast<unsigned>(parameters.splits), static_cast<unsigned>(item_count));
  return launch(context, "tree_attention", tree_attention_plain_kernel, grid, kPlainWarps * kWarp, 0, parameters);
}

template <class T>
Status launch_merge(const SplitParameters& parameters, void* out, int64_t item_count, int64_t most_query_rows, CudaContext& context) {
  const dim3 grid(static_cast<unsigned>(divide_up(most_query_rows, kTileRows) * parameters.kv_heads),
                  static_cast<unsigned>(divide_up(parameters.width / 8, kMergeWarps)), static_cast<unsigned>(item_count));
  return launch(context, "tree_attention", tree_attention_merge_kernel<T>, grid, kMergeWarps * kWarp, 0, parameters, out);
}

template <class T>
Status launch_both(const SplitParameters& parameters, void* out, int64_t item_count, int64_t most_query_rows, CudaContext& context) {
  if constexpr (std::is_same_v<T, float>) {
    GORGON_TRY(launch_plain(parameters, item_count, most_query_rows, context));
  } else {
    GORGON_TRY(launch_split<T>(parameters, item_count, most_query_rows, context));
  }
  return launch_merge<T>(parameters, out, item_count, most_query_rows, context);
}

}  // namespace

Status tree_attention_cuda(const TreeAttentionArgs& args, CudaContext& context) {
  const int64_t width = core_head_width(args.head_dim), least_split = args.least_split_rows > 0 ? args.least_split_rows : kLeastSplitRows;
  const int64_t group = args.query_heads / args.kv_heads, splits = divide_up(args.most_rows, least_split);
  const int64_t tiles = args.tokens * group / kTileRows + args.item_count + 1, states = args.kv_heads * tiles * splits;
  float4* sums = nullptr;
  GORGON_TRY(context.scratch(states * kTileRows * (width + 2) / 4, &sums));

  const float scale = 1.0f / std::sqrt(static_cast<float>(args.head_dim));
  SplitParameters split{};
  split.q = args.q;
  split.q_stride = args.q_stride;
  split.items = args.items;
  split.layer = args.layer;
  split.window = args.window;
  split.query_heads = static_cast<int>(args.query_heads);
  split.kv_heads = static_cast<int>(args.kv_heads);
  split.group = static_cast<int>(group);
  split.head_dim = static_cast<int>(args.head_dim);
  split.width = static_cast<int>(width);
  split.splits = static_cast<int>(splits);
  split.tiles = static_cast<int>(tiles);
  split.scale = args.dtype == DType::kF32 ? scale : scale * 1.4426950408889634f;
  split.sums = sums;
  split.totals = reinterpret_cast<float2*>(sums + states * kTileRows * width / 4);
  // Every item has a row at least; none has more than 64.
  const int64_t most_query_rows = std::min<int64_t>(kMaxTreeNodes, args.tokens - args.item_count + 1) * group;
  switch (args.dtype) {
    case DType::kBf16:
      return launch_both<__nv_bfloat16>(split, args.out, args.item_count, most_query_rows, context);
    case DType::kF16:
      return launch_both<__half>(split, args.out, args.item_count, most_query_rows, context);
    case DType::kF32:
      return launch_both<float>(split, args.out, args.item_count, most_query_rows, context);
    case DType::kInt8:
      break;  // weights only
  }
  return {StatusCode::kDtype, "tree_attention: caches of int8 do not exist"};
}

}  // namespace gorgon
