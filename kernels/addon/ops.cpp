// Bindings of single operations: typed arrays in and out, run at once on the calling thread.
//
// Every operation is op(isa, threads, { … }): its contract is in kernels/ops/<op>.h, and the object has the fields of its Args in camelCase.
// Weights and caches are given as plain f32 arrays and laid out here. Outputs are arrays of the caller, written in place.
//
// Timed: with timing: { leastMs, nanoseconds: Float64Array } the operation runs on, again and again, for at least leastMs for each element,
// which becomes the nanoseconds of one call; with 0, one call for each. Laying out is never inside, nor is JavaScript. Copies of a weight or
// a cache, where an operation takes them, are gone through in turn, so that a call finds the processor's caches as the next layer of a model
// would.
#include "addon/ops.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "addon/handles.h"
#include "addon/phases.h"
#include "addon/values.h"
#include "ops/attention_votes.h"
#include "ops/causal_attention.h"
#include "ops/embed.h"
#include "ops/kv_append.h"
#include "ops/kv_gather.h"
#include "ops/linear.h"
#include "ops/medusa_heads.h"
#include "ops/multiply_add.h"
#include "ops/posterior.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/silu_mul.h"
#include "ops/snapkv_select.h"
#include "ops/stream_read.h"
#include "ops/top_k.h"
#include "ops/tree_attention.h"
#include "runtime/shared_prefill.h"
#include "runtime/text_pass.h"

namespace gorgon {

namespace {

/** Keeps every product of three sizes within an int64. */
constexpr int64_t kMaxSize = int64_t{1} << 20;
/** The same for products that count Medusa heads, or their blocks, besides. */
constexpr int64_t kMaxCount = int64_t{1} << 10;

int64_t read_size(const Napi::Object& object, const char* name, int64_t least = 1) { return read_integer(object, name, least, kMaxSize); }

/** A typed array of at least `count` elements, where it is. */
template <class T>
T* read_span(const Napi::Object& object, const char* name, int64_t count) {
  size_t length = 0;
  T* data = read_data<T>(object.Get(name), name, &length);
  if (static_cast<int64_t>(length) < count) {
    throw_argument(object.Env(), std::string(name) + " has " + std::to_string(length) + " elements, " + std::to_string(count) + " are needed");
  }
  return data;
}

template <class T>
T* read_optional_span(const Napi::Object& object, const char* name, int64_t count) {
  return object.Get(name).IsNull() ? nullptr : read_span<T>(object, name, count);
}

DType read_dtype_of(const Napi::Object& object, const char* name = "dtype") { return read_dtype(object.Env(), read_string(object, name)); }

DType read_packed_dtype_of(const Napi::Object& object, const char* name = "dtype") {
  return read_packed_dtype(object.Env(), read_string(object, name));
}

/** Elements from the first of `rows` rows to the last one's `width`-th. */
int64_t span(int64_t rows, int64_t stride, int64_t width) { return (rows - 1) * stride + width; }

/** A row's stride, which the row must fit. */
int64_t read_stride(const Napi::Object& object, const char* name, int64_t width) {
  const int64_t stride = read_size(object, name);
  if (stride < width) throw_argument(object.Env(), std::string(name) + " is smaller than a row");
  return stride;
}

/** The arguments of a call: the table it asks for, a context, and its object. */
class Call {
 public:
  explicit Call(const Napi::CallbackInfo& info) : args(read_object(info[2], "the arguments of an operation")), env_(info.Env()) {
    if (!info[0].IsString() || !info[1].IsNumber()) throw_argument(env_, "an operation takes (isa, threads, { ... })");
    const int64_t threads = info[1].As<Napi::Number>().Int64Value();
    if (threads < 1 || threads > 64) throw_argument(env_, "threads is not in [1, 64]");
    throw_unless_ok(env_, select_backend("cpu", info[0].As<Napi::String>().Utf8Value(), &backend_));
    context_ = backend_->make_context(static_cast<int>(threads));
    // Scratch memory is as a call before this one would have left it: full of what means nothing (read as floats, of NaN).
    constexpr int64_t kStaleBytes = int64_t{1} << 18;
    std::byte* stale = nullptr;
    throw_unless_ok(env_, static_cast<CpuContext&>(*context_).scratch.get(kStaleBytes, &stale));
    std::memset(stale, 0xff, kStaleBytes);
    if (!args.Get("timing").IsUndefined()) {
      const Napi::Object timing = read_object(args.Get("timing"), "timing");
      const double least_ms = read_number(timing, "leastMs");
      if (!(least_ms >= 0)) throw_argument(env_, "leastMs is not a length of time");
      least_ns_ = least_ms * 1e6;
      nanoseconds_ = read_data<double>(timing.Get("nanoseconds"), "nanoseconds", &samples_);
    }
  }

  template <class Args>
  void run(Status (*Backend::*operation)(const Args&, Context&), const Args& operation_args) {
    run_copies(operation, &operation_args, 1);
  }

  /** The first, which is the result; then as many as there are to time, in turn. */
  template <class Args>
  void run_copies(Status (*Backend::*operation)(const Args&, Context&), const Args* copies, size_t count) {
    using Clock = std::chrono::steady_clock;
    const FlushSubnormals flush;
    throw_unless_ok(env_, (backend_->*operation)(copies[0], *context_));
    size_t next = 0;
    for (size_t sample = 0; sample < samples_; ++sample) {
      const auto start = Clock::now();
      std::chrono::duration<double, std::nano> spent{};
      int64_t calls = 0;
      do {
        // As many again as there were: the clock is looked at seldom, and a call that was interrupted ends the sample.
        for (int64_t more = calls == 0 ? 1 : calls; more > 0; --more, ++calls) {
          next = next + 1 < count ? next + 1 : 0;
          throw_unless_ok(env_, (backend_->*operation)(copies[next], *context_));
        }
        spent = Clock::now() - start;
      } while (spent.count() < least_ns_);
      nanoseconds_[sample] = spent.count() / static_cast<double>(calls);
    }
  }

  int threads() const { return context_->threads(); }

  const Napi::Object args;

 private:
  Napi::Env env_;
  const Backend* backend_ = nullptr;
  std::unique_ptr<Context> context_;
  double least_ns_ = 0;
  double* nanoseconds_ = nullptr;
  size_t samples_ = 0;
};

/** How many times a weight or a cache is to be laid out, each in memory of its own. */
int64_t read_copies(const Napi::Object& object) { return object.Get("copies").IsUndefined() ? 1 : read_integer(object, "copies", 1, kMaxCount); }

// ---- rows ----

/** embed: table is the bytes of [V, C], anywhere in memory. */
Napi::Value embed(const Napi::CallbackInfo& info) {
  Call call(info);
  const int64_t tokens = read_size(call.args, "tokens"), width = read_size(call.args, "width"), vocab = read_size(call.args, "vocab");
  const DType dtype = read_dtype_of(call.args);
  const int64_t out_stride = read_stride(call.args, "outStride", width);
  const int32_t* ids = read_span<int32_t>(call.args, "ids", tokens);
  for (int64_t t = 0; t < tokens; ++t) {
    if (ids[t] < 0 || ids[t] >= vocab) throw_argument(info.Env(), "an id is not in the table");
  }
  call.run(&Backend::embed, {ids, tokens, read_span<uint8_t>(call.args, "table", vocab * width * dtype_size(dtype)), dtype, width,
                             read_span<float>(call.args, "out", span(tokens, out_stride, width)), out_stride});
  return info.Env().Undefined();
}

Napi::Value rms_norm(const Napi::CallbackInfo& info) {
  Call call(info);
  const int64_t rows = read_size(call.args, "rows"), width = read_size(call.args, "width");
  const int64_t x_stride = read_stride(call.args, "xStride", width), out_stride = read_stride(call.args, "outStride", width);
  call.run(&Backend::rms_norm,
           {read_span<float>(call.args, "x", span(rows, x_stride, width)), x_stride, rows, width, read_span<float>(call.args, "weight", width),
            static_cast<float>(read_number(call.args, "eps")), read_bool(call.args, "asBf16"),
            read_span<float>(call.args, "out", span(rows, out_stride, width)), out_stride});
  return info.Env().Undefined();
}

Napi::Value rope(const Napi::CallbackInfo& info) {
  Call call(info);
  const int64_t tokens = read_size(call.args, "tokens"), heads = read_size(call.args, "heads"), head_dim = read_size(call.args, "headDim");
  const int64_t x_stride = read_stride(call.args, "xStride", heads * head_dim);
  const int64_t out_head_stride = read_stride(call.args, "outHeadStride", head_dim);
  const int64_t out_stride = read_stride(call.args, "outStride", heads * out_head_stride);
  call.run(&Backend::rope,
           {read_span<float>(call.args, "x", span(tokens, x_stride, heads * head_dim)), x_stride, tokens, heads, head_dim,
            read_span<float>(call.args, "cos", tokens * (head_dim / 2)), read_span<float>(call.args, "sin", tokens * (head_dim / 2)),
            read_bool(call.args, "asBf16"),
            read_span<float>(call.args, "out", span(tokens, out_stride, span(heads, out_head_stride, head_dim))), out_stride, out_head_stride});
  return info.Env().Undefined();
}

Napi::Value silu_mul(const Napi::CallbackInfo& info) {
  Call call(info);
  const int64_t rows = read_size(call.args, "rows"), width = read_size(call.args, "width");
  const int64_t x_stride = read_stride(call.args, "xStride", 2 * width), out_stride = read_stride(call.args, "outStride", width);
  call.run(&Backend::silu_mul,
           {read_span<float>(call.args, "x", span(rows, x_stride, 2 * width)), x_stride, rows, width, read_bool(call.args, "asBf16"),
            read_span<float>(call.args, "out", span(rows, out_stride, width)), out_stride});
  return info.Env().Undefined();
}

// ---- products ----

/** A weight in tiles, and its memory. */
struct Packed {
  AlignedBuffer tiles;
  PackedMatrix matrix;
};

Packed pack(Napi::Env env, const float* values, DType dtype, int64_t columns, int64_t depth) {
  Packed packed;
  throw_unless_ok(env, packed.tiles.allocate(packed_weight_bytes(dtype, columns, depth), "a packed weight"));
  packed.matrix = packed_weight(packed.tiles.data(), dtype, columns, depth);
  pack_columns(values, DType::kF32, packed.tiles.data(), dtype, depth, 0, 0, columns);
  return packed;
}

/** packColumns({ source bytes, from, tiles bytes, to, depth, offset, first, last }), for all instruction sets. */
Napi::Value pack_columns_of(const Napi::CallbackInfo& info) {
  const Napi::Object args = read_object(info[0], "the arguments of packColumns");
  const DType from = read_dtype_of(args, "from"), to = read_packed_dtype_of(args, "to");
  const int64_t depth = read_size(args, "depth"), offset = read_size(args, "offset", 0), first = read_size(args, "first", 0);
  const int64_t last = read_size(args, "last", first);
  const uint8_t* source = read_span<uint8_t>(args, "source", last * depth * dtype_size(from));
  uint8_t* tiles = read_span<uint8_t>(args, "tiles", packed_weight_bytes(to, offset + last, depth));
  pack_columns(source, from, reinterpret_cast<std::byte*>(tiles), to, depth, offset, first, last);
  return info.Env().Undefined();
}

constexpr napi_type_tag kPackedCopiesTag = {0x51c7e20d94fb4a36ull, 0xb08f63d1e72a4c95ull};
using PackedCopies = std::vector<Packed>;

/** packWeight({ w, dtype, columns, depth, copies }): a weight that `linear` takes many times without laying it out again. */
Napi::Value pack_weight(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Object args = read_object(info[0], "the arguments of packWeight");
  const int64_t depth = read_size(args, "depth"), columns = read_size(args, "columns"), count = read_copies(args);
  auto copies = std::make_unique<PackedCopies>();
  copies->push_back(pack(env, read_span<float>(args, "w", columns * depth), read_packed_dtype_of(args), columns, depth));
  while (static_cast<int64_t>(copies->size()) < count) {
    const Packed& first = copies->front();
    Packed copy;
    throw_unless_ok(env, copy.tiles.allocate(first.tiles.bytes(), "a packed weight"));
    std::memcpy(copy.tiles.data(), first.tiles.data(), first.tiles.bytes());
    copy.matrix = first.matrix;
    copy.matrix.tiles = copy.tiles.data();
    copies->push_back(std::move(copy));
  }
  // So that garbage collection knows what a dead weight holds on to.
  const auto bytes_of = [](const PackedCopies& held) { return static_cast<int64_t>(held.size()) * static_cast<int64_t>(held.front().tiles.bytes()); };
  auto value = Napi::External<PackedCopies>::New(env, copies.get(), [bytes_of](Napi::BasicEnv finalizer_env, PackedCopies* held) {
    Napi::MemoryManagement::AdjustExternalMemory(finalizer_env, -bytes_of(*held));
    delete held;
  });
  Napi::MemoryManagement::AdjustExternalMemory(env, bytes_of(*copies));
  copies.release();
  value.TypeTag(&kPackedCopiesTag);
  return value;
}

/** linear: w is f32 [columns, depth], packed here as `dtype`, or what packWeight made of it. */
Napi::Value linear(const Napi::CallbackInfo& info) {
  Call call(info);
  const int64_t rows = read_size(call.args, "rows"), depth = read_size(call.args, "depth"), columns = read_size(call.args, "columns");
  const int64_t width = round_up(depth, kTileDepth);
  const int64_t x_stride = read_stride(call.args, "xStride", width), out_stride = read_stride(call.args, "outStride", columns);
  PackedCopies own;
  const PackedCopies* copies = &own;
  const Napi::Value w = call.args.Get("w");
  if (w.IsExternal()) {
    const auto external = w.As<Napi::External<PackedCopies>>();
    if (!external.CheckTypeTag(&kPackedCopiesTag)) throw_argument(info.Env(), "w is not what packWeight returned");
    copies = external.Data();
    const PackedMatrix& matrix = copies->front().matrix;
    if (matrix.columns != columns || matrix.depth != depth) throw_argument(info.Env(), "w has another shape");
  } else {
    own.push_back(pack(info.Env(), read_span<float>(call.args, "w", columns * depth), read_packed_dtype_of(call.args), columns, depth));
  }
  std::vector<LinearArgs> args;
  for (const Packed& copy : *copies) {
    args.push_back({read_span<float>(call.args, "x", span(rows, x_stride, width)), x_stride, rows, copy.matrix,
                    read_optional_span<float>(call.args, "bias", columns),
                    read_span<float>(call.args, "out", span(rows, out_stride, columns)), out_stride, read_bool(call.args, "add")});
  }
  call.run_copies(&Backend::linear, args.data(), args.size());
  return info.Env().Undefined();
}

/** medusaHeads: blocks f32 [M, R, C, C], biases f32 [M, R, C] or null, projection f32 [M or 1, V', C]. */
Napi::Value medusa_heads(const Napi::CallbackInfo& info) {
  Call call(info);
  const Napi::Env env = info.Env();
  const int64_t rows = read_size(call.args, "rows"), width = read_size(call.args, "width"), columns = read_size(call.args, "columns");
  const int64_t head_count = read_integer(call.args, "headCount", 1, kMaxCount), block_count = read_integer(call.args, "blockCount", 0, kMaxCount);
  const int64_t padded = round_up(width, kTileDepth);
  const int64_t x_stride = read_stride(call.args, "xStride", padded), logits_stride = read_stride(call.args, "logitsStride", columns);
  const bool shared = read_bool(call.args, "sharedProjection");
  const DType dtype = read_packed_dtype_of(call.args);
  const float* block_values = read_span<float>(call.args, "blocks", head_count * block_count * width * width);
  const float* bias_values = read_optional_span<float>(call.args, "biases", head_count * block_count * width);
  const float* projection_values = read_span<float>(call.args, "projection", (shared ? 1 : head_count) * columns * width);

  std::vector<Packed> packed;
  std::vector<PackedMatrix> blocks;
  std::vector<const float*> biases;
  std::vector<MedusaHeadWeights> heads;
  for (int64_t i = 0; i < head_count * block_count; ++i) {
    packed.push_back(pack(env, block_values + i * width * width, dtype, width, width));
    blocks.push_back(packed.back().matrix);
    biases.push_back(bias_values == nullptr ? nullptr : bias_values + i * width);
  }
  for (int64_t h = 0; h < head_count; ++h) {
    if (h == 0 || !shared) packed.push_back(pack(env, projection_values + h * columns * width, dtype, columns, width));
    heads.push_back({blocks.data() + h * block_count, biases.data() + h * block_count, packed.back().matrix});
  }
  AlignedBuffer workspace;
  throw_unless_ok(env, workspace.allocate((2 * head_count + 1) * rows * x_stride * static_cast<int64_t>(sizeof(float)), "a workspace"));
  call.run(&Backend::medusa_heads,
           {read_span<float>(call.args, "x", span(rows, x_stride, padded)), x_stride, rows, width, heads.data(), head_count, block_count, shared,
            workspace.as<float>(), read_span<float>(call.args, "logits", span(head_count * rows, logits_stride, columns)), logits_stride});
  return env.Undefined();
}

// ---- caches ----

/** Views of caches given as bytes: cacheK, cacheV and positions (or null), [Hkv] each, of `capacity` rows. */
std::vector<MutableKvHead> read_raw_heads(const Napi::Object& args, int64_t kv_heads, int64_t head_dim, DType dtype, int64_t capacity) {
  const int64_t groups = divide_up(capacity, kRowGroup);
  const int64_t k_bytes = groups * k_group_bytes(dtype, head_dim), v_bytes = groups * v_group_bytes(dtype, head_dim);
  uint8_t* k = read_span<uint8_t>(args, "cacheK", kv_heads * k_bytes);
  uint8_t* v = read_span<uint8_t>(args, "cacheV", kv_heads * v_bytes);
  int32_t* positions = read_optional_span<int32_t>(args, "positions", kv_heads * capacity);
  std::vector<MutableKvHead> heads;
  for (int64_t h = 0; h < kv_heads; ++h) {
    heads.push_back({reinterpret_cast<std::byte*>(k + h * k_bytes), reinterpret_cast<std::byte*>(v + h * v_bytes),
                     positions == nullptr ? nullptr : positions + h * capacity});
  }
  return heads;
}

Napi::Value kv_append(const Napi::CallbackInfo& info) {
  Call call(info);
  const int64_t tokens = read_size(call.args, "tokens"), rows = read_size(call.args, "rows", 0), capacity = read_size(call.args, "capacity");
  const int64_t kv_heads = read_size(call.args, "kvHeads"), head_dim = read_size(call.args, "headDim");
  const int64_t k_stride = read_stride(call.args, "kStride", kv_heads * head_dim), v_stride = read_stride(call.args, "vStride", kv_heads * head_dim);
  const DType dtype = read_dtype_of(call.args);
  if (rows + tokens > capacity) throw_argument(info.Env(), "the cache has no room for the tokens");
  const std::vector<MutableKvHead> heads = read_raw_heads(call.args, kv_heads, head_dim, dtype, capacity);
  call.run(&Backend::kv_append, {read_span<float>(call.args, "k", span(tokens, k_stride, kv_heads * head_dim)), k_stride,
                                 read_span<float>(call.args, "v", span(tokens, v_stride, kv_heads * head_dim)), v_stride, tokens, heads.data(),
                                 kv_heads, head_dim, dtype, rows, read_integer(call.args, "position", 0, INT32_MAX),
                                 read_optional_span<int32_t>(call.args, "depths", tokens)});
  return info.Env().Undefined();
}

/** kvGather: `keep` is the op's `rows`. */
Napi::Value kv_gather(const Napi::CallbackInfo& info) {
  Call call(info);
  const int64_t count = read_size(call.args, "count", 0), first = read_size(call.args, "first", 0), capacity = read_size(call.args, "capacity");
  const int64_t kv_heads = read_size(call.args, "kvHeads"), head_dim = read_size(call.args, "headDim");
  const int64_t stride = read_size(call.args, "rowsStride", 0);
  const DType dtype = read_dtype_of(call.args);
  const int32_t* keep = read_span<int32_t>(call.args, "keep", span(kv_heads, stride, count));
  for (int64_t h = 0; h < kv_heads; ++h) {
    for (int64_t i = 0; i < count; ++i) {
      const int32_t row = keep[h * stride + i];
      if (row < 0 || first + row >= capacity || (i > 0 && row <= keep[h * stride + i - 1])) throw_argument(info.Env(), "keep is not ascending rows");
    }
  }
  const std::vector<MutableKvHead> heads = read_raw_heads(call.args, kv_heads, head_dim, dtype, capacity);
  call.run(&Backend::kv_gather, {heads.data(), kv_heads, head_dim, dtype, first, keep, stride, count});
  return info.Env().Undefined();
}

/** A cache made of { k, v: f32 [Hkv, rows, D], positions: i32 [Hkv, rows] or null, poison }, as appends would have left it. */
struct Cache {
  AlignedBuffer k, v;
  std::vector<KvHead> heads;
};

Cache read_cache(const Napi::Object& args, int64_t rows, int64_t kv_heads, int64_t head_dim, DType dtype) {
  // Two chunks of rows that no operation may read, full of poison.
  constexpr int64_t kPoisonedRows = 256;
  const Napi::Object object = read_object(args.Get("cache"), "cache");
  const float* k_values = read_span<float>(object, "k", kv_heads * rows * head_dim);
  const float* v_values = read_span<float>(object, "v", kv_heads * rows * head_dim);
  const int32_t* positions = read_optional_span<int32_t>(object, "positions", kv_heads * rows);
  const std::vector<float> poison(head_dim, static_cast<float>(read_number(object, "poison")));

  const int64_t groups = divide_up(rows + kPoisonedRows, kRowGroup);
  const int64_t k_bytes = groups * k_group_bytes(dtype, head_dim), v_bytes = groups * v_group_bytes(dtype, head_dim);
  Cache cache;
  throw_unless_ok(args.Env(), cache.k.allocate(kv_heads * k_bytes, "a cache"));
  throw_unless_ok(args.Env(), cache.v.allocate(kv_heads * v_bytes, "a cache"));
  for (int64_t h = 0; h < kv_heads; ++h) {
    std::byte* k = cache.k.data() + h * k_bytes;
    std::byte* v = cache.v.data() + h * v_bytes;
    for (int64_t row = 0; row < groups * kRowGroup; ++row) {
      const int64_t at = (h * rows + row) * head_dim;
      store_kv_row(dtype, head_dim, k, v, row, row < rows ? k_values + at : poison.data(), row < rows ? v_values + at : poison.data());
    }
    clear_group_tail(dtype, head_dim, k, v, rows);
    cache.heads.push_back({k, v, positions == nullptr ? nullptr : positions + h * rows});
  }
  return cache;
}

/** The shape that the attention operations share. */
struct AttentionShape {
  explicit AttentionShape(const Napi::Object& args)
      : query_heads(read_size(args, "queryHeads")), kv_heads(read_size(args, "kvHeads")), head_dim(read_integer(args, "headDim", 1, kMaxHeadDim)),
        window(read_size(args, "window", 0)), dtype(read_dtype_of(args)) {
    if (query_heads % kv_heads != 0) throw_argument(args.Env(), "queryHeads is not a multiple of kvHeads");
  }
  int64_t q_row() const { return query_heads * round_up(head_dim, kTileDepth); }
  int64_t out_row() const { return query_heads * head_dim; }

  int64_t query_heads, kv_heads, head_dim, window;
  DType dtype;
};

Napi::Value causal_attention(const Napi::CallbackInfo& info) {
  Call call(info);
  const AttentionShape shape(call.args);
  const int64_t tokens = read_size(call.args, "tokens"), rows = read_size(call.args, "rows", 0);
  const int64_t out_stride = read_stride(call.args, "outStride", shape.out_row());
  const int64_t copies = read_copies(call.args);
  std::vector<Cache> caches;
  std::vector<CausalAttentionArgs> args;
  for (int64_t i = 0; i < copies; ++i) {
    caches.push_back(read_cache(call.args, rows + tokens, shape.kv_heads, shape.head_dim, shape.dtype));
    args.push_back({read_span<float>(call.args, "q", tokens * shape.q_row()), caches.back().heads.data(), shape.dtype, tokens, rows,
                    shape.query_heads, shape.kv_heads, shape.head_dim, read_integer(call.args, "position", 0, INT32_MAX / 2), shape.window,
                    read_span<float>(call.args, "out", span(tokens, out_stride, shape.out_row())), out_stride});
  }
  call.run_copies(&Backend::causal_attention, args.data(), args.size());
  return info.Env().Undefined();
}

/** treeAttention: items [{ q, cache, nodes, rows, depths, paths, pathStride, position, out }]. */
Napi::Value tree_attention(const Napi::CallbackInfo& info) {
  Call call(info);
  const Napi::Env env = info.Env();
  const AttentionShape shape(call.args);
  const int64_t out_stride = read_stride(call.args, "outStride", shape.out_row());
  const Napi::Value list = call.args.Get("items");
  if (!list.IsArray()) throw_argument(env, "items is not an array");
  const uint32_t count = list.As<Napi::Array>().Length();
  const int64_t copies = read_copies(call.args);
  std::vector<Cache> caches;
  std::vector<TreeAttentionItem> items;
  for (uint32_t i = 0; i < count; ++i) {
    const Napi::Object object = read_object(list.As<Napi::Array>().Get(i), "an item");
    const int64_t nodes = read_integer(object, "nodes", 1, kMaxTreeNodes), rows = read_size(object, "rows", 0);
    const int64_t path_stride = read_size(object, "pathStride");
    const int32_t* depths = read_span<int32_t>(object, "depths", nodes);
    const int32_t* paths = read_span<int32_t>(object, "paths", nodes * path_stride);
    for (int64_t n = 0; n < nodes; ++n) {
      if (depths[n] < 0 || depths[n] >= path_stride || depths[n] >= kMaxTreeNodes) throw_argument(env, "a depth does not fit its path");
      for (int64_t d = 0; d <= depths[n]; ++d) {
        if (paths[n * path_stride + d] < 0 || paths[n * path_stride + d] >= nodes) throw_argument(env, "a path names a node that is not there");
      }
    }
    for (int64_t copy = 0; copy < copies; ++copy) {
      caches.push_back(read_cache(object, rows + nodes, shape.kv_heads, shape.head_dim, shape.dtype));
    }
    items.push_back({read_span<float>(object, "q", nodes * shape.q_row()), nullptr, nodes, rows, depths, paths, path_stride,
                     read_integer(object, "position", 0, INT32_MAX / 2), read_span<float>(object, "out", span(nodes, out_stride, shape.out_row()))});
  }
  std::vector<std::vector<TreeAttentionItem>> lists(copies, items);
  std::vector<TreeAttentionArgs> args;
  for (int64_t copy = 0; copy < copies; ++copy) {
    for (uint32_t i = 0; i < count; ++i) lists[copy][i].heads = caches[i * copies + copy].heads.data();
    args.push_back({lists[copy].data(), static_cast<int64_t>(count), shape.dtype, shape.query_heads, shape.kv_heads, shape.head_dim, shape.window,
                    out_stride});
  }
  call.run_copies(&Backend::tree_attention, args.data(), args.size());
  return env.Undefined();
}

Napi::Value attention_votes(const Napi::CallbackInfo& info) {
  Call call(info);
  const AttentionShape shape(call.args);
  const int64_t tokens = read_size(call.args, "tokens"), rows = read_size(call.args, "rows", 0);
  const int64_t vote_rows = read_integer(call.args, "voteRows", 0, rows + tokens), stride = read_stride(call.args, "votesStride", vote_rows);
  const Cache cache = read_cache(call.args, rows + tokens, shape.kv_heads, shape.head_dim, shape.dtype);
  call.run(&Backend::attention_votes,
           {read_span<float>(call.args, "q", tokens * shape.q_row()), cache.heads.data(), shape.dtype, tokens, rows, shape.query_heads,
            shape.kv_heads, shape.head_dim, read_integer(call.args, "position", 0, INT32_MAX / 2), shape.window, vote_rows,
            read_span<float>(call.args, "votes", span(shape.query_heads, stride, vote_rows)), stride});
  return info.Env().Undefined();
}

Napi::Value snapkv_select(const Napi::CallbackInfo& info) {
  Call call(info);
  const int64_t query_heads = read_size(call.args, "queryHeads"), kv_heads = read_size(call.args, "kvHeads"), n = read_size(call.args, "n", 0);
  const int64_t count = read_integer(call.args, "count", 0, n), votes_stride = read_stride(call.args, "votesStride", n);
  const int64_t rows_stride = read_stride(call.args, "rowsStride", count);
  if (query_heads % kv_heads != 0) throw_argument(info.Env(), "queryHeads is not a multiple of kvHeads");
  call.run(&Backend::snapkv_select,
           {read_span<float>(call.args, "votes", span(query_heads, votes_stride, n)), votes_stride, query_heads, kv_heads, n,
            read_string(call.args, "pool") == "max" ? Pool::kMax : Pool::kAverage, read_size(call.args, "poolSize"),
            read_string(call.args, "groupReduce") == "max" ? GroupReduce::kMax : GroupReduce::kMean, count,
            read_span<int32_t>(call.args, "rows", span(kv_heads, rows_stride, count)), rows_stride});
  return info.Env().Undefined();
}

// ---- choosing ----

Napi::Value top_k(const Napi::CallbackInfo& info) {
  Call call(info);
  const int64_t rows = read_size(call.args, "rows"), columns = read_size(call.args, "columns"), stride = read_stride(call.args, "stride", columns);
  const int64_t k = read_size(call.args, "k", 0);
  call.run(&Backend::top_k, {read_span<float>(call.args, "scores", span(rows, stride, columns)), stride, rows, columns, static_cast<int32_t>(k),
                             read_span<int32_t>(call.args, "ids", rows * k)});
  return info.Env().Undefined();
}

/** The sampling of SamplingSpec in src/native.ts, over arrays that JavaScript keeps. */
SamplingParams read_sampling_params(const Napi::Object& object, int64_t vocab) {
  SamplingParams params;
  params.temperature = static_cast<float>(read_number(object, "temperature"));
  params.top_k = static_cast<int32_t>(read_integer(object, "topK", 0, INT32_MAX));
  params.top_p = static_cast<float>(read_number(object, "topP"));
  params.min_p = static_cast<float>(read_number(object, "minP"));
  params.repetition_penalty = static_cast<float>(read_number(object, "repetitionPenalty"));
  params.frequency_penalty = static_cast<float>(read_number(object, "frequencyPenalty"));
  params.presence_penalty = static_cast<float>(read_number(object, "presencePenalty"));
  params.min_tokens = read_integer(object, "minTokens");
  bool lossless = false;
  if (!object.Get("seed").IsBigInt()) throw_argument(object.Env(), "seed is not a bigint");
  params.seed = object.Get("seed").As<Napi::BigInt>().Uint64Value(&lossless);
  size_t count = 0;
  params.bias_ids = read_data<int32_t>(object.Get("biasIds"), "biasIds", &count);
  params.bias_count = static_cast<int64_t>(count);
  params.bias_values = read_span<float>(object, "biasValues", params.bias_count);
  params.suppressed_ids = read_data<int32_t>(object.Get("suppressedIds"), "suppressedIds", &count);
  params.suppressed_count = static_cast<int64_t>(count);
  for (int64_t i = 0; i < params.bias_count + params.suppressed_count; ++i) {
    const int32_t id = i < params.bias_count ? params.bias_ids[i] : params.suppressed_ids[i - params.bias_count];
    if (id < 0 || id >= vocab) throw_argument(object.Env(), "an id of the sampling options is not in the vocabulary");
  }
  return params;
}

const int32_t* read_ids(const Napi::Object& object, const char* name, int64_t vocab, int64_t* count) {
  size_t length = 0;
  const int32_t* ids = read_data<int32_t>(object.Get(name), name, &length);
  for (size_t i = 0; i < length; ++i) {
    if (ids[i] < 0 || ids[i] >= vocab) throw_argument(object.Env(), std::string(name) + " holds an id that is not in the vocabulary");
  }
  *count = static_cast<int64_t>(length);
  return ids;
}

/** Memory that a node's results are written to. */
struct NodeResults {
  std::vector<float> child_prob, child_logprob, top_values;
  std::vector<int32_t> top_ids;
};

/**
 * posterior: nodes [{ logits, sampling, inPrompt, outputCounts, pathTokens, generated, position, childTokens, typical, logprobs }], each to
 * { chosen, entropy, childProb, chosenLogprob, childLogprob, topIds, topValues }; what a node did not ask for is NaN or empty.
 */
Napi::Value posterior(const Napi::CallbackInfo& info) {
  Call call(info);
  const Napi::Env env = info.Env();
  const int64_t vocab = read_size(call.args, "vocab");
  const Napi::Value list = call.args.Get("nodes");
  if (!list.IsArray()) throw_argument(env, "nodes is not an array");
  const uint32_t count = list.As<Napi::Array>().Length();
  std::vector<SamplingParams> sampling(count);
  std::vector<NodeResults> results(count);
  std::vector<PosteriorNode> nodes(count);
  for (uint32_t i = 0; i < count; ++i) {
    const Napi::Object object = read_object(list.As<Napi::Array>().Get(i), "a node");
    PosteriorNode& node = nodes[i];
    sampling[i] = read_sampling_params(read_object(object.Get("sampling"), "sampling"), vocab);
    node.logits = read_span<float>(object, "logits", vocab);
    node.sampling = &sampling[i];
    node.in_prompt = read_optional_span<uint8_t>(object, "inPrompt", vocab);
    node.output_counts = read_optional_span<int32_t>(object, "outputCounts", vocab);
    node.path_tokens = read_ids(object, "pathTokens", vocab, &node.path_count);
    node.generated = read_integer(object, "generated");
    node.position = read_integer(object, "position");
    node.child_tokens = read_ids(object, "childTokens", vocab, &node.child_count);
    node.typical = read_bool(object, "typical");
    node.logprobs = static_cast<int32_t>(read_integer(object, "logprobs", -1, INT32_MAX));
    const size_t children = node.child_count, tops = std::clamp(node.logprobs, 0, kMaxTopK);
    NodeResults& result = results[i];
    result.child_prob.assign(node.typical ? children : 0, NAN);
    result.child_logprob.assign(node.logprobs >= 0 ? children : 0, NAN);
    result.top_ids.assign(tops, -1);
    result.top_values.assign(tops, NAN);
    node.chosen = -1;
    node.entropy = node.chosen_logprob = NAN;
    node.child_prob = result.child_prob.data();
    node.child_logprob = result.child_logprob.data();
    node.top_ids = result.top_ids.data();
    node.top_values = result.top_values.data();
  }
  call.run(&Backend::posterior, {nodes.data(), static_cast<int64_t>(count), vocab});
  auto out = Napi::Array::New(env, count);
  for (uint32_t i = 0; i < count; ++i) {
    auto object = Napi::Object::New(env);
    object.Set("chosen", Napi::Number::New(env, nodes[i].chosen));
    object.Set("entropy", Napi::Number::New(env, nodes[i].entropy));
    object.Set("chosenLogprob", Napi::Number::New(env, nodes[i].chosen_logprob));
    object.Set("childProb", write_array(env, results[i].child_prob));
    object.Set("childLogprob", write_array(env, results[i].child_logprob));
    object.Set("topIds", write_array(env, results[i].top_ids));
    object.Set("topValues", write_array(env, results[i].top_values));
    out.Set(i, object);
  }
  return out;
}

/** samplingUniform(seed bigint, position). */
Napi::Value sampling_uniform_of(const Napi::CallbackInfo& info) {
  bool lossless = false;
  if (!info[0].IsBigInt() || !info[1].IsNumber()) throw_argument(info.Env(), "samplingUniform takes a bigint and a number");
  const uint64_t seed = info[0].As<Napi::BigInt>().Uint64Value(&lossless);
  return Napi::Number::New(info.Env(), sampling_uniform(seed, static_cast<uint64_t>(info[1].As<Napi::Number>().Int64Value())));
}

// ---- yardsticks ----

Napi::Value write_sums(Napi::Env env, const std::vector<double>& sums) {
  auto array = Napi::Float64Array::New(env, sums.size());
  std::memcpy(array.Data(), sums.data(), sums.size() * sizeof(double));
  return array;
}

/** streamRead({ values: f32 repeated over all lines, lines, copies, streams, prefetchLines }): f64 [threads]. */
Napi::Value stream_read(const Napi::CallbackInfo& info) {
  Call call(info);
  constexpr int64_t kLineFloats = 16;
  const Napi::Env env = info.Env();
  const int64_t lines = read_integer(call.args, "lines", 1, int64_t{1} << 32), copies = read_copies(call.args);
  const int64_t streams = read_integer(call.args, "streams", 1, 4);
  if (streams == 3) throw_argument(env, "streams is not 1, 2 or 4");
  size_t value_count = 0;
  const float* values = read_data<float>(call.args.Get("values"), "values", &value_count);
  if (value_count == 0) throw_argument(env, "values is empty");
  std::vector<double> sums(call.threads());
  std::vector<AlignedBuffer> buffers(copies);
  std::vector<StreamReadArgs> args;
  for (AlignedBuffer& buffer : buffers) {
    throw_unless_ok(env, buffer.allocate(lines * kLineFloats * static_cast<int64_t>(sizeof(float)), "a buffer to read"));
    for (int64_t i = 0; i < lines * kLineFloats; i += static_cast<int64_t>(value_count)) {
      std::memcpy(buffer.as<float>() + i, values, std::min<int64_t>(value_count, lines * kLineFloats - i) * sizeof(float));
    }
    args.push_back({buffer.as<float>(), lines, streams, read_integer(call.args, "prefetchLines", 0, kMaxSize), sums.data()});
  }
  call.run_copies(&Backend::stream_read, args.data(), args.size());
  return write_sums(env, sums);
}

/** multiplyAdd({ steps, x }): { flops, sums: f64 [threads] }. */
Napi::Value multiply_add(const Napi::CallbackInfo& info) {
  Call call(info);
  std::vector<double> sums(call.threads());
  int64_t flops = 0;
  call.run(&Backend::multiply_add, {read_integer(call.args, "steps", 1, int64_t{1} << 40), read_float(call.args, "x"), sums.data(), &flops});
  auto out = Napi::Object::New(info.Env());
  out.Set("flops", Napi::Number::New(info.Env(), static_cast<double>(flops)));
  out.Set("sums", write_sums(info.Env(), sums));
  return out;
}

// ---- a model ----

/** Token ids of one text, checked. */
const int32_t* read_text(const Napi::Value& value, const Model& model, int64_t* count) {
  size_t length = 0;
  const int32_t* tokens = read_data<int32_t>(value, "tokens", &length);
  *count = static_cast<int64_t>(length);
  if (*count < 1 || *count > model.shape().max_positions) throw_argument(value.Env(), "tokens are none, or more than the model has positions for");
  for (size_t i = 0; i < length; ++i) {
    if (tokens[i] < 0 || tokens[i] >= model.shape().vocab) throw_argument(value.Env(), "token id out of range");
  }
  return tokens;
}

/** forwardLogits(model, tokens i32 [T], chunk): f32 [T, V], the logits after every token of a text, run in chunks of `chunk` rows. */
Napi::Value forward_logits(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Model& model = *open_model(info[0])->owner;
  int64_t count = 0;
  const int32_t* tokens = read_text(info[1], model, &count);
  const int64_t chunk = to_integer(info[2], "chunk");
  if (chunk < 1) throw_argument(env, "chunk out of range");
  const std::lock_guard<std::mutex> lock(model.mutex());
  const FlushSubnormals flush;
  AlignedBuffer x;
  KvCache cache(model.kv_shape());
  const auto go_on = [](auto...) { return Status(); };
  throw_unless_ok(env, run_text(model, tokens, count, chunk, &x, &cache, go_on, go_on, go_on));
  auto out = Napi::Float32Array::New(env, static_cast<size_t>(count * model.shape().vocab));
  for (int64_t first = 0; first < count; first += chunk) {
    const int64_t rows = std::min(chunk, count - first);
    float* hidden = x.as<float>() + first * model.hidden_stride();
    throw_unless_ok(env, model.final_norm(hidden, rows, hidden));
    const float* logits;
    throw_unless_ok(env, model.logits(hidden, rows, &logits));
    std::memcpy(out.Data() + first * model.shape().vocab, logits, rows * model.shape().vocab * sizeof(float));
  }
  return out;
}

/**
 * forwardVotes(model, tokens i32 [T], ranges i32 [R, 2], chunk): f32 [L, R, Hq, T], for each layer and query head the attention that the
 * queries of tokens [ranges[r, 0], ranges[r, 1]) pay to each token of the text, added up. A range of one token is that token's attention.
 */
Napi::Value forward_votes(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Model& model = *open_model(info[0])->owner;
  int64_t count = 0;
  const int32_t* tokens = read_text(info[1], model, &count);
  size_t length = 0;
  const int32_t* ranges = read_data<int32_t>(info[2], "ranges", &length);
  const int64_t range_count = static_cast<int64_t>(length / 2), chunk = to_integer(info[3], "chunk");
  if (chunk < 1) throw_argument(env, "chunk out of range");
  if (length == 0 || length % 2 != 0) throw_argument(env, "ranges are not pairs of a first and an end");
  for (int64_t r = 0; r < range_count; ++r) {
    if (ranges[2 * r] < 0 || ranges[2 * r] >= ranges[2 * r + 1] || ranges[2 * r + 1] > count) throw_argument(env, "a range is not within the text");
  }
  const std::lock_guard<std::mutex> lock(model.mutex());
  const FlushSubnormals flush;
  const ModelShape& shape = model.shape();
  const int64_t stride = model.query_stride(), floats = static_cast<int64_t>(sizeof(float));
  AlignedBuffer x, queries;
  throw_unless_ok(env, queries.allocate(count * stride * floats, "queries"));
  auto out = Napi::Float32Array::New(env, static_cast<size_t>(shape.layers * range_count * shape.query_heads * count));
  KvCache cache(model.kv_shape());
  const auto keep_queries = [&](int64_t, int64_t first, int64_t rows) {
    std::memcpy(queries.as<float>() + first * stride, model.queries(), rows * stride * floats);
    return Status();
  };
  const auto vote = [&](int64_t layer) -> Status {
    for (int64_t r = 0; r < range_count; ++r) {
      const int64_t first = ranges[2 * r], end = ranges[2 * r + 1];
      float* votes = out.Data() + (layer * range_count + r) * shape.query_heads * count;
      GORGON_TRY(model.backend().attention_votes({queries.as<float>() + first * stride, cache.const_heads(layer), model.weights().dtype, end - first,
                                                  first, shape.query_heads, shape.kv_heads, shape.head_dim, first, shape.sliding_windows[layer], end,
                                                  votes, count},
                                                 model.context()));
    }
    return {};
  };
  throw_unless_ok(env, run_text(model, tokens, count, chunk, &x, &cache, [](int64_t) { return Status(); }, keep_queries, vote));
  return out;
}

/**
 * continueGreedily(model, tokens i32 [T], { chunk, count, stopIds i32, compressions [CompressionSpec or null] }): for each compression
 * { rowsKept, tokens i32 }, the tokens that a session of its own would have made of the prompt; see runtime/shared_prefill.h.
 */
Napi::Value continue_prompt(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Model& model = *open_model(info[0])->owner;
  int64_t tokens = 0;
  const int32_t* ids = read_text(info[1], model, &tokens);
  const Napi::Object args = read_object(info[2], "the arguments of an operation");
  const Napi::Value list = args.Get("compressions");
  if (!list.IsArray()) throw_argument(env, "compressions is not an array");
  std::vector<Branch> branches(list.As<Napi::Array>().Length());
  for (size_t i = 0; i < branches.size(); ++i) branches[i].compression = read_compression(list.As<Napi::Array>().Get(static_cast<uint32_t>(i)));
  const std::vector<int32_t> stop_ids = read_array<int32_t>(args, "stopIds");
  {
    const std::lock_guard<std::mutex> lock(model.mutex());
    const FlushSubnormals flush;
    throw_unless_ok(env, continue_greedily(model, std::vector<int32_t>(ids, ids + tokens), read_size(args, "chunk"), read_size(args, "count"), stop_ids,
                                           &branches));
  }
  auto out = Napi::Array::New(env, branches.size());
  for (size_t i = 0; i < branches.size(); ++i) {
    auto object = Napi::Object::New(env);
    object.Set("rowsKept", Napi::Number::New(env, static_cast<double>(branches[i].rows_kept)));
    object.Set("tokens", write_array(env, branches[i].tokens));
    out.Set(static_cast<uint32_t>(i), object);
  }
  return out;
}

}  // namespace

Napi::Object export_ops(Napi::Env env) {
  auto ops = Napi::Object::New(env);
  const auto add = [&](const char* name, Napi::Value (*call)(const Napi::CallbackInfo&)) {
    const auto body = [call](const Napi::CallbackInfo& info) { return guarded(info.Env(), [&] { return call(info); }); };
    ops.Set(name, Napi::Function::New(env, body, name));
  };
  add("embed", embed);
  add("rmsNorm", rms_norm);
  add("rope", rope);
  add("siluMul", silu_mul);
  add("packColumns", pack_columns_of);
  add("packWeight", pack_weight);
  add("linear", linear);
  add("medusaHeads", medusa_heads);
  add("kvAppend", kv_append);
  add("kvGather", kv_gather);
  add("causalAttention", causal_attention);
  add("treeAttention", tree_attention);
  add("attentionVotes", attention_votes);
  add("snapkvSelect", snapkv_select);
  add("topK", top_k);
  add("posterior", posterior);
  add("samplingUniform", sampling_uniform_of);
  add("streamRead", stream_read);
  add("multiplyAdd", multiply_add);
  add("forwardLogits", forward_logits);
  add("forwardVotes", forward_votes);
  add("continueGreedily", continue_prompt);
  return ops;
}

}  // namespace gorgon
