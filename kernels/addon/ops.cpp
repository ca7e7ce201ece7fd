// Bindings of single operations: typed arrays in and out, run at once on the calling thread.
//
// Every operation is op(isa, threads, { … }): its contract is in kernels/ops/<op>.h, and the object has the fields of its Args in camelCase. An
// isa is of one backend. Weights, caches, operands and query rows are given as plain f32 arrays and laid out here, for a device in its memory
// (call_arrays.h). Outputs are arrays of the caller, written in place.
//
// Timed: with timing: { leastMs, nanoseconds: Float64Array } the operation runs on, again and again, for at least leastMs for each element,
// which becomes the nanoseconds of one call; with 0, one call for each. Laying out is never inside, nor is JavaScript. Copies of a weight or
// a cache, where an operation takes them, are gone through in turn, so that a call finds the processor's caches as the next layer of a model
// would.
#include "addon/ops.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "addon/call_arrays.h"
#include "addon/handles.h"
#include "addon/phases.h"
#include "addon/values.h"
#include "ops/adamw.h"
#include "ops/attention_split.h"
#include "ops/attention_votes.h"
#include "ops/causal_attention.h"
#include "ops/cross_entropy.h"
#include "ops/embed.h"
#include "ops/gated_linear.h"
#include "ops/kv_append.h"
#include "ops/kv_gather.h"
#include "ops/linear.h"
#include "ops/linear_gradient.h"
#include "ops/medusa_heads.h"
#include "ops/multiply_add.h"
#include "ops/pack_weight.h"
#include "ops/posterior.h"
#include "ops/residual_silu.h"
#include "ops/residual_silu_gradient.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/rope_angles.h"
#include "ops/rope_append.h"
#include "ops/silu_mul.h"
#include "ops/snapkv_select.h"
#include "ops/stream_read.h"
#include "ops/sum_of_squares.h"
#include "ops/top_k.h"
#include "ops/tree_attention.h"
#include "ops/unpack_weight.h"
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

/** The table whose instruction set is called `isa`, and a context for it. */
void open_backend(Napi::Env env, const std::string& isa, int threads, const Backend** backend, std::shared_ptr<Context>* context) {
  // "auto" is the processor's best: a device is asked for by name.
  throw_unless_ok(env, select_backend(isa == "auto" ? "cpu" : "auto", isa, 0, backend));
  std::unique_ptr<Context> made;
  throw_unless_ok(env, (*backend)->make_context({threads, 0, 0}, &made));
  throw_unless_ok(env, made->enter());
  *context = std::move(made);
}

/** The arguments of a call: the table it asks for, a context, and its object. */
class Call {
 public:
  explicit Call(const Napi::CallbackInfo& info) : args(read_object(info[2], "the arguments of an operation")), env_(info.Env()) {
    if (!info[0].IsString() || !info[1].IsNumber()) throw_argument(env_, "an operation takes (isa, threads, { ... })");
    const int64_t threads = info[1].As<Napi::Number>().Int64Value();
    if (threads < 1 || threads > 64) throw_argument(env_, "threads is not in [1, 64]");
    open_backend(env_, info[0].As<Napi::String>().Utf8Value(), static_cast<int>(threads), &backend_, &context_);
    arrays_ = std::make_unique<CallArrays>(*backend_, *context_);
    if (arrays_->is_host()) {
      // Scratch memory is as a call before this one would have left it: full of what means nothing (read as floats, of NaN).
      constexpr int64_t kStaleBytes = int64_t{1} << 18;
      std::byte* stale = nullptr;
      throw_unless_ok(env_, static_cast<CpuContext&>(*context_).scratch.get(kStaleBytes, &stale));
      std::memset(stale, 0xff, kStaleBytes);
    }
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
    if (backend_->*operation == nullptr) {
      throw to_error(env_, {StatusCode::kArgument, std::string("backend ") + backend_->name + " has this operation as a part of another one only"});
    }
    const FlushSubnormals flush;
    throw_unless_ok(env_, arrays_->status());
    throw_unless_ok(env_, (backend_->*operation)(copies[0], *context_));
    throw_unless_ok(env_, arrays_->bring_back());
    size_t next = 0;
    const auto call_next = [&] {
      next = next + 1 < count ? next + 1 : 0;
      return (backend_->*operation)(copies[next], *context_);
    };
    if (arrays_->is_host()) {
      time_here(call_next);
    } else {
      time_on_device(call_next, count);
    }
  }

  int threads() const { return context_->threads(); }
  const Backend& backend() const { return *backend_; }
  Context& context() { return *context_; }
  CallArrays& arrays() { return *arrays_; }

  const Napi::Object args;

 private:
  using Clock = std::chrono::steady_clock;
  using Nanoseconds = std::chrono::duration<double, std::nano>;

  template <class Next>
  void time_here(const Next& call_next) {
    for (size_t sample = 0; sample < samples_; ++sample) {
      const auto start = Clock::now();
      Nanoseconds spent{};
      int64_t calls = 0;
      do {
        // As many again as there were: the clock is looked at seldom, and a call that was interrupted ends the sample.
        for (int64_t more = calls == 0 ? 1 : calls; more > 0; --more, ++calls) throw_unless_ok(env_, call_next());
        spent = Clock::now() - start;
      } while (spent.count() < least_ns_);
      nanoseconds_[sample] = spent.count() / static_cast<double>(calls);
    }
  }

  /** Recorded calls, as a step has them, so that launching is not what is timed. */
  template <class Next>
  void time_on_device(const Next& call_next, size_t copies) {
    constexpr uint64_t kKey = 1;
    const int64_t together = std::max<int64_t>(32, static_cast<int64_t>(copies));
    const auto body = [&]() -> Status {
      for (int64_t i = 0; i < together; ++i) GORGON_TRY(call_next());
      return {};
    };
    constexpr int kWarmUps = 3;
    for (int i = 0; i < kWarmUps && samples_ > 0; ++i) throw_unless_ok(env_, context_->recorded(kKey, body));
    throw_unless_ok(env_, context_->finish());
    for (size_t sample = 0; sample < samples_; ++sample) {
      const auto start = Clock::now();
      Nanoseconds spent{};
      int64_t calls = 0;
      do {
        for (int64_t more = calls == 0 ? 1 : calls / together; more > 0; --more, calls += together) throw_unless_ok(env_, context_->recorded(kKey, body));
        throw_unless_ok(env_, context_->finish());
        spent = Clock::now() - start;
      } while (spent.count() < least_ns_);
      nanoseconds_[sample] = spent.count() / static_cast<double>(calls);
    }
  }

  Napi::Env env_;
  const Backend* backend_ = nullptr;
  std::shared_ptr<Context> context_;
  /** After the context, whose memory it holds. */
  std::unique_ptr<CallArrays> arrays_;
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
  CallArrays& arrays = call.arrays();
  const int64_t table_bytes = vocab * width * dtype_size(dtype), out_count = span(tokens, out_stride, width);
  call.run(&Backend::embed, {arrays.input(ids, tokens), tokens, arrays.input(read_span<uint8_t>(call.args, "table", table_bytes), table_bytes), dtype, width,
                             arrays.array(read_span<float>(call.args, "out", out_count), out_count), out_stride});
  return info.Env().Undefined();
}

/** rmsNorm: `out` is rows, or an operand where `operand` is true; it may be x. */
Napi::Value rms_norm(const Napi::CallbackInfo& info) {
  Call call(info);
  CallArrays& arrays = call.arrays();
  const int64_t rows = read_size(call.args, "rows"), width = read_size(call.args, "width");
  const int64_t x_stride = read_stride(call.args, "xStride", width), out_stride = read_stride(call.args, "outStride", width);
  const DType dtype = read_dtype_of(call.args);
  const bool operand = read_bool(call.args, "operand");
  const int64_t x_count = span(rows, x_stride, width), out_count = span(rows, out_stride, width);
  float* x = read_span<float>(call.args, "x", x_count);
  float* out = read_span<float>(call.args, "out", out_count);
  const bool in_place = x == out && !operand;
  float* x_there = in_place ? arrays.array(x, x_count) : const_cast<float*>(arrays.input(x, x_count));
  void* out_there = operand ? arrays.operand(out, out_stride, rows, width, dtype, true) : in_place ? x_there : arrays.array(out, out_count);
  call.run(&Backend::rms_norm, {x_there, x_stride, rows, width, arrays.input(read_span<float>(call.args, "weight", width), width),
                                static_cast<float>(read_number(call.args, "eps")), dtype, operand, out_there,
                                operand ? arrays.operand_stride(out_stride) : out_stride});
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
  CallArrays& arrays = call.arrays();
  const int64_t rows = read_size(call.args, "rows"), width = read_size(call.args, "width");
  const int64_t x_stride = read_stride(call.args, "xStride", 2 * width), out_stride = read_stride(call.args, "outStride", width);
  const DType dtype = read_dtype_of(call.args);
  const int64_t x_count = span(rows, x_stride, 2 * width);
  call.run(&Backend::silu_mul, {arrays.input(read_span<float>(call.args, "x", x_count), x_count), x_stride, rows, width, dtype,
                                arrays.operand(read_span<float>(call.args, "out", span(rows, out_stride, width)), out_stride, rows, width, dtype, true),
                                arrays.operand_stride(out_stride)});
  return info.Env().Undefined();
}

/** ropeAngles: tables f32 [first + count, half], of which rows from `first` on are written. */
Napi::Value rope_angles(const Napi::CallbackInfo& info) {
  Call call(info);
  CallArrays& arrays = call.arrays();
  const int64_t half = read_size(call.args, "half"), first = read_size(call.args, "first", 0), count = read_size(call.args, "count");
  const int64_t entries = (first + count) * half;
  call.run(&Backend::rope_angles, {arrays.input(read_span<float>(call.args, "inverseFrequencies", half), half), half, read_float(call.args, "scale"), first,
                                   count, arrays.array(read_span<float>(call.args, "cos", entries), entries),
                                   arrays.array(read_span<float>(call.args, "sin", entries), entries)});
  return info.Env().Undefined();
}

// ---- products ----

/** A weight as a backend packs it, and its memory. */
struct Packed {
  Buffer tiles;
  PackedMatrix matrix;
};

Packed pack(Napi::Env env, const Backend& backend, Context& context, const float* values, DType dtype, int64_t columns, int64_t depth, bool gated = false) {
  Packed packed{Buffer(context.memory()), {}};
  throw_unless_ok(env, packed.tiles.allocate(backend.layout.packed_bytes(dtype, columns, depth, gated), "a packed weight"));
  packed.matrix = packed_weight(packed.tiles.data(), dtype, columns, depth);
  int64_t bad_row = -1;
  const int64_t part = gated ? columns / 2 : columns;
  for (int64_t offset = 0; offset < columns; offset += part) {
    throw_unless_ok(env, backend.layout.pack({values + offset * depth, DType::kF32, part, depth, packed.tiles.data(), dtype, columns, offset, gated, &bad_row}, context));
  }
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

/** Of the rows that meet a weight. */
DType operand_dtype(DType packed) { return packed == DType::kInt8 ? DType::kBf16 : packed; }

constexpr napi_type_tag kPackedCopiesTag = {0x51c7e20d94fb4a36ull, 0xb08f63d1e72a4c95ull};

struct PackedCopies {
  const Backend* backend = nullptr;
  std::shared_ptr<Context> context;
  /** After the context, whose memory they are in. */
  std::vector<Packed> weights;
};

/** packedBytes({ isa, w, dtype, columns, depth }): the bytes of a weight as it is packed when a model is loaded. */
Napi::Value packed_bytes(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Object args = read_object(info[0], "the arguments of packedBytes");
  const int64_t depth = read_size(args, "depth"), columns = read_size(args, "columns");
  const Backend* backend = nullptr;
  std::shared_ptr<Context> context;
  open_backend(env, read_string(args, "isa"), 1, &backend, &context);
  const Packed packed = pack(env, *backend, *context, read_span<float>(args, "w", columns * depth), read_packed_dtype_of(args), columns, depth);
  auto bytes = Napi::Uint8Array::New(env, static_cast<size_t>(packed.tiles.bytes()));
  throw_unless_ok(env, context->memory().download(bytes.Data(), packed.tiles.data(), packed.tiles.bytes()));
  return bytes;
}

/** packCopies({ isa (auto), w, dtype, columns, depth, copies }): a weight that `linear` takes many times without laying it out again. */
Napi::Value pack_copies(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Object args = read_object(info[0], "the arguments of packCopies");
  const int64_t depth = read_size(args, "depth"), columns = read_size(args, "columns"), count = read_copies(args);
  auto copies = std::make_unique<PackedCopies>();
  open_backend(env, args.Get("isa").IsUndefined() ? "auto" : read_string(args, "isa"), 1, &copies->backend, &copies->context);
  copies->weights.push_back(pack(env, *copies->backend, *copies->context, read_span<float>(args, "w", columns * depth), read_packed_dtype_of(args), columns, depth));
  Memory& memory = copies->context->memory();
  while (static_cast<int64_t>(copies->weights.size()) < count) {
    const Packed& first = copies->weights.front();
    Packed copy{Buffer(memory), first.matrix};
    throw_unless_ok(env, copy.tiles.allocate(first.tiles.bytes(), "a packed weight"));
    throw_unless_ok(env, memory.copy(copy.tiles.data(), first.tiles.data(), first.tiles.bytes()));
    copy.matrix.tiles = copy.tiles.data();
    copies->weights.push_back(std::move(copy));
  }
  throw_unless_ok(env, copies->context->finish());
  // So that garbage collection knows what a dead weight holds on to.
  const auto bytes_of = [](const PackedCopies& held) {
    return held.context->memory().is_host() ? static_cast<int64_t>(held.weights.size()) * held.weights.front().tiles.bytes() : 0;
  };
  auto value = Napi::External<PackedCopies>::New(env, copies.get(), [bytes_of](Napi::BasicEnv finalizer_env, PackedCopies* held) {
    Napi::MemoryManagement::AdjustExternalMemory(finalizer_env, -bytes_of(*held));
    delete held;
  });
  Napi::MemoryManagement::AdjustExternalMemory(env, bytes_of(*copies));
  copies.release();
  value.TypeTag(&kPackedCopiesTag);
  return value;
}

/** linear: w is f32 [columns, depth], packed here as `dtype`, or what packCopies made of it. */
Napi::Value linear(const Napi::CallbackInfo& info) {
  Call call(info);
  const int64_t rows = read_size(call.args, "rows"), depth = read_size(call.args, "depth"), columns = read_size(call.args, "columns");
  const int64_t width = round_up(depth, kTileDepth);
  const int64_t x_stride = read_stride(call.args, "xStride", width), out_stride = read_stride(call.args, "outStride", columns);
  const DType dtype = call.args.Get("w").IsExternal() ? DType::kF32 : read_packed_dtype_of(call.args);
  CallArrays& arrays = call.arrays();
  std::vector<Packed> own;
  const std::vector<Packed>* copies = &own;
  const Napi::Value w = call.args.Get("w");
  if (w.IsExternal()) {
    const auto external = w.As<Napi::External<PackedCopies>>();
    if (!external.CheckTypeTag(&kPackedCopiesTag)) throw_argument(info.Env(), "w is not what packCopies returned");
    if (external.Data()->context->memory().is_host() != arrays.is_host()) throw_argument(info.Env(), "w was packed for another backend");
    copies = &external.Data()->weights;
    const PackedMatrix& matrix = copies->front().matrix;
    if (matrix.columns != columns || matrix.depth != depth) throw_argument(info.Env(), "w has another shape");
  } else {
    own.push_back(pack(info.Env(), call.backend(), call.context(), read_span<float>(call.args, "w", columns * depth), dtype, columns, depth));
  }
  const int64_t out_count = span(rows, out_stride, columns);
  const void* x = arrays.operand(read_span<float>(call.args, "x", span(rows, x_stride, width)), x_stride, rows, depth,
                                 operand_dtype(copies->front().matrix.dtype), false);
  const float* bias = arrays.input(read_optional_span<float>(call.args, "bias", columns), columns);
  float* out = arrays.array(read_span<float>(call.args, "out", out_count), out_count);
  const bool prompt = !call.args.Get("prompt").IsUndefined() && read_bool(call.args, "prompt");
  std::vector<LinearArgs> args;
  for (const Packed& copy : *copies) {
    args.push_back({x, arrays.operand_stride(x_stride), rows, copy.matrix, bias, out, out_stride, read_bool(call.args, "add"), prompt});
  }
  call.run_copies(&Backend::linear, args.data(), args.size());
  return info.Env().Undefined();
}

/** gatedLinear: w f32 [2F, K], gate's rows then up's, packed here as `dtype`; bias f32 [2F] or null. */
Napi::Value gated_linear(const Napi::CallbackInfo& info) {
  Call call(info);
  CallArrays& arrays = call.arrays();
  const int64_t rows = read_size(call.args, "rows"), depth = read_size(call.args, "depth"), ffn = read_size(call.args, "ffn");
  const int64_t width = round_up(depth, kTileDepth);
  const int64_t x_stride = read_stride(call.args, "xStride", width), out_stride = read_stride(call.args, "outStride", ffn);
  const DType packed_dtype = read_packed_dtype_of(call.args), dtype = operand_dtype(packed_dtype);
  const Packed w = pack(info.Env(), call.backend(), call.context(), read_span<float>(call.args, "w", 2 * ffn * depth), packed_dtype, 2 * ffn, depth, true);
  std::byte* workspace = nullptr;
  throw_unless_ok(info.Env(), arrays.reserve(rows * 2 * ffn * static_cast<int64_t>(sizeof(float)), &workspace));
  call.run(&Backend::gated_linear,
           {arrays.operand(read_span<float>(call.args, "x", span(rows, x_stride, width)), x_stride, rows, depth, dtype, false), arrays.operand_stride(x_stride),
            rows, w.matrix, arrays.input(read_optional_span<float>(call.args, "bias", 2 * ffn), 2 * ffn), dtype, reinterpret_cast<float*>(workspace),
            arrays.operand(read_span<float>(call.args, "out", span(rows, out_stride, ffn)), out_stride, rows, ffn, dtype, true),
            arrays.operand_stride(out_stride), read_bool(call.args, "prompt")});
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

  CallArrays& arrays = call.arrays();
  const float* bias_there = arrays.input(bias_values, head_count * block_count * width);
  std::vector<Packed> packed;
  std::vector<PackedMatrix> blocks;
  std::vector<const float*> biases;
  std::vector<MedusaHeadWeights> heads;
  for (int64_t i = 0; i < head_count * block_count; ++i) {
    packed.push_back(pack(env, call.backend(), call.context(), block_values + i * width * width, dtype, width, width));
    blocks.push_back(packed.back().matrix);
    biases.push_back(bias_there == nullptr ? nullptr : bias_there + i * width);
  }
  for (int64_t h = 0; h < head_count; ++h) {
    if (h == 0 || !shared) packed.push_back(pack(env, call.backend(), call.context(), projection_values + h * columns * width, dtype, columns, width));
    heads.push_back({blocks.data() + h * block_count, biases.data() + h * block_count, packed.back().matrix});
  }
  std::byte* workspace = nullptr;
  throw_unless_ok(env, arrays.reserve((2 * head_count + 1) * rows * x_stride * static_cast<int64_t>(sizeof(float)), &workspace));
  const int64_t x_count = span(rows, x_stride, padded), logits_count = span(head_count * rows, logits_stride, columns);
  call.run(&Backend::medusa_heads,
           {arrays.input(read_span<float>(call.args, "x", x_count), x_count), x_stride, rows, width, heads.data(), head_count, block_count, shared,
            operand_dtype(dtype), reinterpret_cast<float*>(workspace), arrays.array(read_span<float>(call.args, "logits", logits_count), logits_count),
            logits_stride});
  return env.Undefined();
}

// ---- caches ----

/** Views of caches given as bytes: cacheK, cacheV and positions (or null), [Hkv] each, of `capacity` rows. */
std::vector<KvHead> read_raw_heads(const Napi::Object& args, int64_t kv_heads, int64_t head_dim, DType dtype, int64_t capacity) {
  const int64_t groups = divide_up(capacity, kRowGroup);
  const int64_t k_bytes = groups * k_group_bytes(dtype, head_dim), v_bytes = groups * v_group_bytes(dtype, head_dim);
  uint8_t* k = read_span<uint8_t>(args, "cacheK", kv_heads * k_bytes);
  uint8_t* v = read_span<uint8_t>(args, "cacheV", kv_heads * v_bytes);
  int32_t* positions = read_optional_span<int32_t>(args, "positions", kv_heads * capacity);
  std::vector<KvHead> heads;
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
  const std::vector<KvHead> heads = read_raw_heads(call.args, kv_heads, head_dim, dtype, capacity);
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
  const std::vector<KvHead> heads = read_raw_heads(call.args, kv_heads, head_dim, dtype, capacity);
  CallArrays& arrays = call.arrays();
  call.run(&Backend::kv_gather, {arrays.cache(heads, head_dim, dtype, capacity, true), kv_heads, head_dim, dtype, first,
                                 arrays.input(keep, span(kv_heads, stride, count)), stride, count});
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
  int32_t* positions = read_optional_span<int32_t>(object, "positions", kv_heads * rows);
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
  const int64_t skip = call.args.Get("skip").IsUndefined() ? 0 : read_integer(call.args, "skip", 0, tokens - 1), needed = tokens - skip;
  CallArrays& arrays = call.arrays();
  const void* q = arrays.queries(read_span<float>(call.args, "q", tokens * shape.q_row()), tokens, shape.query_heads, shape.head_dim, shape.dtype, false);
  const int64_t query_stride = arrays.query_stride(shape.query_heads, shape.head_dim);
  void* out = arrays.operand(read_span<float>(call.args, "out", span(needed, out_stride, shape.out_row())), out_stride, needed, shape.out_row(), shape.dtype, true);
  std::vector<Cache> caches;
  std::vector<CausalAttentionArgs> args;
  for (int64_t i = 0; i < copies; ++i) {
    caches.push_back(read_cache(call.args, rows + tokens, shape.kv_heads, shape.head_dim, shape.dtype));
    args.push_back({q, query_stride, arrays.cache(caches.back().heads, shape.head_dim, shape.dtype, rows + tokens, false), shape.dtype, tokens, skip, rows,
                    shape.query_heads, shape.kv_heads, shape.head_dim, read_integer(call.args, "position", 0, INT32_MAX / 2), shape.window, out,
                    arrays.operand_stride(out_stride)});
  }
  call.run_copies(&Backend::causal_attention, args.data(), args.size());
  return info.Env().Undefined();
}

/** The items of a pass, read from [{ cache, nodes, rows, depths, paths, pathStride, position, splitRows (64) }]. */
class Pass {
 public:
  Pass(Napi::Env env, const Napi::Value& value) : env_(env) {
    if (!value.IsArray()) throw_argument(env, "items is not an array");
    const auto list = value.As<Napi::Array>();
    for (uint32_t i = 0; i < list.Length(); ++i) add(read_object(list.Get(i), "an item"));
  }

  /** [items] in the backend's memory, with one cache each: every item's copy `copy`, laid out for attention. */
  const PassItem* place(CallArrays& arrays, const std::vector<const KvHead*>& heads) {
    std::vector<PassItem> placed = items;
    for (size_t i = 0; i < placed.size(); ++i) {
      PassItem& item = placed[i];
      item.heads = heads[i];
      item.depths = arrays.input(item.depths, item.tokens);
      item.paths = arrays.input(item.paths, item.tokens * item.path_stride);
    }
    if (arrays.is_host()) {
      lists_.push_back(std::move(placed));
      return lists_.back().data();
    }
    return arrays.input(placed.data(), static_cast<int64_t>(placed.size()));
  }

  std::vector<Napi::Object> objects;
  std::vector<PassItem> items;
  int64_t tokens = 0;
  int64_t most_rows = 0;

 private:
  void add(const Napi::Object& object) {
    const int64_t nodes = read_integer(object, "nodes", 1, kMaxTreeNodes), rows = read_size(object, "rows", 0);
    const int64_t path_stride = read_size(object, "pathStride");
    const int32_t* depths = read_span<int32_t>(object, "depths", nodes);
    const int32_t* paths = read_span<int32_t>(object, "paths", nodes * path_stride);
    for (int64_t n = 0; n < nodes; ++n) {
      if (depths[n] < 0 || depths[n] >= path_stride || depths[n] >= kMaxTreeNodes) throw_argument(env_, "a depth does not fit its path");
      for (int64_t d = 0; d <= depths[n]; ++d) {
        if (paths[n * path_stride + d] < 0 || paths[n * path_stride + d] >= nodes) throw_argument(env_, "a path names a node that is not there");
      }
    }
    const int64_t split_rows = object.Get("splitRows").IsUndefined() ? attention_split_rows(rows) : read_size(object, "splitRows");
    items.push_back({tokens, nodes, rows, read_integer(object, "position", 0, INT32_MAX / 2), nullptr, depths, paths, path_stride, split_rows});
    objects.push_back(object);
    tokens += nodes;
    most_rows = std::max(most_rows, rows + nodes);
  }

  Napi::Env env_;
  std::vector<std::vector<PassItem>> lists_;
};

/** treeAttention: items as Pass's, each with its q and out, which stand behind each other in the pass. */
Napi::Value tree_attention(const Napi::CallbackInfo& info) {
  Call call(info);
  const AttentionShape shape(call.args);
  CallArrays& arrays = call.arrays();
  const int64_t out_stride = read_stride(call.args, "outStride", shape.out_row()), copies = read_copies(call.args);
  Pass pass(info.Env(), call.args.Get("items"));
  // All items' rows in one array each, as in a pass; poison between them stays where it is.
  std::vector<float> q(pass.tokens * shape.q_row()), out(pass.tokens * out_stride);
  std::vector<float*> outs;
  for (size_t i = 0; i < pass.items.size(); ++i) {
    const PassItem& item = pass.items[i];
    const float* item_q = read_span<float>(pass.objects[i], "q", item.tokens * shape.q_row());
    std::copy_n(item_q, item.tokens * shape.q_row(), q.data() + item.first * shape.q_row());
    outs.push_back(read_span<float>(pass.objects[i], "out", span(item.tokens, out_stride, shape.out_row())));
    std::copy_n(outs.back(), span(item.tokens, out_stride, shape.out_row()), out.data() + item.first * out_stride);
  }
  const void* q_there = arrays.queries(q.data(), pass.tokens, shape.query_heads, shape.head_dim, shape.dtype, false);
  void* out_there = arrays.operand(out.data(), out_stride, pass.tokens, shape.out_row(), shape.dtype, true);
  std::vector<Cache> caches;
  std::vector<TreeAttentionArgs> args;
  for (int64_t copy = 0; copy < copies; ++copy) {
    std::vector<const KvHead*> heads;
    for (size_t i = 0; i < pass.items.size(); ++i) {
      const int64_t rows = pass.items[i].rows + pass.items[i].tokens;
      caches.push_back(read_cache(pass.objects[i], rows, shape.kv_heads, shape.head_dim, shape.dtype));
      heads.push_back(arrays.cache(caches.back().heads, shape.head_dim, shape.dtype, rows, false));
    }
    // A cache's heads stay where they are when `caches` grows: they are memory of their own.
    args.push_back({q_there, arrays.query_stride(shape.query_heads, shape.head_dim), pass.place(arrays, heads), static_cast<int64_t>(pass.items.size()),
                    pass.tokens, pass.most_rows, 0, shape.dtype, shape.query_heads, shape.kv_heads, shape.head_dim, shape.window, out_there,
                    arrays.operand_stride(out_stride)});
  }
  call.run_copies(&Backend::tree_attention, args.data(), args.size());
  for (size_t i = 0; i < pass.items.size(); ++i) {
    const PassItem& item = pass.items[i];
    std::copy_n(out.data() + item.first * out_stride, span(item.tokens, out_stride, shape.out_row()), outs[i]);
  }
  return info.Env().Undefined();
}

/**
 * ropeAppend: qkv f32 [T, qkvStride]; items [{ nodes, rows, depths, paths, pathStride, position, cacheK, cacheV, positions, capacity }], whose
 * caches are as kvAppend's; q f32 [T, Hq, D'].
 */
Napi::Value rope_append(const Napi::CallbackInfo& info) {
  Call call(info);
  CallArrays& arrays = call.arrays();
  const int64_t query_heads = read_size(call.args, "queryHeads"), kv_heads = read_size(call.args, "kvHeads");
  const int64_t head_dim = read_integer(call.args, "headDim", 2, kMaxHeadDim), half = head_dim / 2;
  const DType dtype = read_dtype_of(call.args);
  const int64_t qkv_stride = read_stride(call.args, "qkvStride", (query_heads + 2 * kv_heads) * head_dim);
  Pass pass(info.Env(), call.args.Get("items"));
  const int64_t table_rows = read_size(call.args, "tableRows"), tokens = pass.tokens;
  const int64_t qkv_count = span(tokens, qkv_stride, (query_heads + 2 * kv_heads) * head_dim);
  std::vector<int32_t> positions;
  std::vector<const KvHead*> heads;
  std::vector<std::vector<KvHead>> views;
  for (size_t i = 0; i < pass.items.size(); ++i) {
    const PassItem& item = pass.items[i];
    const int64_t capacity = read_size(pass.objects[i], "capacity");
    if (item.rows + item.tokens > capacity) throw_argument(info.Env(), "the cache has no room for the tokens");
    views.push_back(read_raw_heads(pass.objects[i], kv_heads, head_dim, dtype, capacity));
    heads.push_back(arrays.cache(views.back(), head_dim, dtype, capacity, true));
    for (int64_t t = 0; t < item.tokens; ++t) positions.push_back(static_cast<int32_t>(item.position + item.depths[t]));
  }
  for (const int32_t position : positions) {
    if (position >= table_rows) throw_argument(info.Env(), "a position is not in the tables");
  }
  const auto table = [&](const char* name) { return arrays.input(read_span<float>(call.args, name, table_rows * half), table_rows * half); };
  const auto norm = [&](const char* name) { return arrays.input(read_optional_span<float>(call.args, name, head_dim), head_dim); };
  std::byte* workspace = nullptr;
  throw_unless_ok(info.Env(), arrays.reserve(tokens * (kv_heads + 1) * head_dim * static_cast<int64_t>(sizeof(float)), &workspace));
  float* q = read_span<float>(call.args, "q", tokens * query_heads * round_up(head_dim, kTileDepth));
  // The CPU normalises in place: not JavaScript's array.
  std::vector<float> qkv(qkv_count);
  std::copy_n(read_span<float>(call.args, "qkv", qkv_count), qkv_count, qkv.data());
  call.run(&Backend::rope_append,
           {arrays.array(qkv.data(), qkv_count), qkv_stride, tokens, query_heads, kv_heads, head_dim, norm("qNorm"), norm("kNorm"),
            static_cast<float>(read_number(call.args, "eps")), table("cos"), table("sin"), arrays.input(positions.data(), tokens), dtype,
            arrays.queries(q, tokens, query_heads, head_dim, dtype, true), arrays.query_stride(query_heads, head_dim),
            reinterpret_cast<float*>(workspace), pass.place(arrays, heads), static_cast<int64_t>(pass.items.size()), 0});
  return info.Env().Undefined();
}

Napi::Value attention_votes(const Napi::CallbackInfo& info) {
  Call call(info);
  const AttentionShape shape(call.args);
  const int64_t tokens = read_size(call.args, "tokens"), rows = read_size(call.args, "rows", 0);
  const int64_t vote_rows = read_integer(call.args, "voteRows", 0, rows + tokens), stride = read_stride(call.args, "votesStride", vote_rows);
  const Cache cache = read_cache(call.args, rows + tokens, shape.kv_heads, shape.head_dim, shape.dtype);
  CallArrays& arrays = call.arrays();
  const int64_t votes_count = span(shape.query_heads, stride, vote_rows);
  const void* q = arrays.queries(read_span<float>(call.args, "q", tokens * shape.q_row()), tokens, shape.query_heads, shape.head_dim, shape.dtype, false);
  call.run(&Backend::attention_votes,
           {q, arrays.query_stride(shape.query_heads, shape.head_dim), arrays.cache(cache.heads, shape.head_dim, shape.dtype, rows + tokens, false), shape.dtype,
            tokens, rows, shape.query_heads, shape.kv_heads, shape.head_dim, read_integer(call.args, "position", 0, INT32_MAX / 2), shape.window, vote_rows,
            arrays.array(read_span<float>(call.args, "votes", votes_count), votes_count), stride});
  return info.Env().Undefined();
}

Napi::Value snapkv_select(const Napi::CallbackInfo& info) {
  Call call(info);
  const int64_t query_heads = read_size(call.args, "queryHeads"), kv_heads = read_size(call.args, "kvHeads"), n = read_size(call.args, "n", 0);
  const int64_t count = read_integer(call.args, "count", 0, n), votes_stride = read_stride(call.args, "votesStride", n);
  const int64_t rows_stride = read_stride(call.args, "rowsStride", count);
  if (query_heads % kv_heads != 0) throw_argument(info.Env(), "queryHeads is not a multiple of kvHeads");
  CallArrays& arrays = call.arrays();
  const int64_t votes_count = span(query_heads, votes_stride, n), rows_count = span(kv_heads, rows_stride, count);
  call.run(&Backend::snapkv_select,
           {arrays.input(read_span<float>(call.args, "votes", votes_count), votes_count), votes_stride, query_heads, kv_heads, n,
            read_string(call.args, "pool") == "max" ? Pool::kMax : Pool::kAverage, read_size(call.args, "poolSize"),
            read_string(call.args, "groupReduce") == "max" ? GroupReduce::kMax : GroupReduce::kMean, count,
            arrays.array(read_span<int32_t>(call.args, "rows", rows_count), rows_count), rows_stride});
  return info.Env().Undefined();
}

// ---- choosing ----

Napi::Value top_k(const Napi::CallbackInfo& info) {
  Call call(info);
  const int64_t rows = read_size(call.args, "rows"), columns = read_size(call.args, "columns"), stride = read_stride(call.args, "stride", columns);
  const int64_t k = read_size(call.args, "k", 0);
  CallArrays& arrays = call.arrays();
  const int64_t scores_count = span(rows, stride, columns);
  call.run(&Backend::top_k, {arrays.input(read_span<float>(call.args, "scores", scores_count), scores_count), stride, rows, columns, static_cast<int32_t>(k),
                             arrays.array(read_span<int32_t>(call.args, "ids", rows * k), rows * k)});
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
    node.logits = call.arrays().input(read_span<float>(object, "logits", vocab), vocab);
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
  const int64_t prefetch_lines = read_integer(call.args, "prefetchLines", 0, kMaxSize);
  AlignedBuffer image;
  throw_unless_ok(env, image.allocate(lines * kLineFloats * static_cast<int64_t>(sizeof(float)), "a buffer to read"));
  for (int64_t i = 0; i < lines * kLineFloats; i += static_cast<int64_t>(value_count)) {
    std::memcpy(image.as<float>() + i, values, std::min<int64_t>(value_count, lines * kLineFloats - i) * sizeof(float));
  }
  double* sums_there = call.arrays().array(sums.data(), call.threads());
  std::vector<AlignedBuffer> buffers(call.arrays().is_host() ? copies : 0);
  std::vector<StreamReadArgs> args;
  for (int64_t i = 0; i < copies; ++i) {
    const float* there = call.arrays().input(image.as<float>(), lines * kLineFloats);
    if (call.arrays().is_host()) {
      throw_unless_ok(env, buffers[i].allocate(image.bytes(), "a buffer to read"));
      std::memcpy(buffers[i].data(), image.data(), image.bytes());
      there = buffers[i].as<float>();
    }
    args.push_back({there, lines, streams, prefetch_lines, sums_there});
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

// ---- training ----

/** crossEntropy: targets i32 [M], losses f32 [M], ranks i32 [M]; gradient f32 [M, gradientStride] or null. */
Napi::Value cross_entropy(const Napi::CallbackInfo& info) {
  Call call(info);
  CallArrays& arrays = call.arrays();
  const int64_t rows = read_size(call.args, "rows"), columns = read_size(call.args, "columns");
  const int64_t x_stride = read_stride(call.args, "xStride", columns), gradient_stride = read_stride(call.args, "gradientStride", columns);
  const DType dtype = read_dtype_of(call.args);
  const int32_t* targets = read_span<int32_t>(call.args, "targets", rows);
  for (int64_t row = 0; row < rows; ++row) {
    if (targets[row] >= columns) throw_argument(info.Env(), "a target is not in the vocabulary");
  }
  const int64_t x_count = span(rows, x_stride, columns);
  float* gradient = read_optional_span<float>(call.args, "gradient", span(rows, gradient_stride, columns));
  call.run(&Backend::cross_entropy,
           {arrays.input(read_span<float>(call.args, "x", x_count), x_count), x_stride, rows, columns, arrays.input(targets, rows),
            read_float(call.args, "scale"), arrays.array(read_span<float>(call.args, "losses", rows), rows),
            arrays.array(read_span<int32_t>(call.args, "ranks", rows), rows), dtype,
            gradient == nullptr ? nullptr : arrays.operand(gradient, gradient_stride, rows, columns, dtype, true), arrays.operand_stride(gradient_stride)});
  return info.Env().Undefined();
}

/** linearGradient: dy f32 [M, dyStride], x f32 [M, xStride]; dw f32 [N, K] and db f32 [N] or null are added to. */
Napi::Value linear_gradient(const Napi::CallbackInfo& info) {
  Call call(info);
  CallArrays& arrays = call.arrays();
  const int64_t rows = read_size(call.args, "rows"), columns = read_size(call.args, "columns"), depth = read_size(call.args, "depth");
  const int64_t dy_width = round_up(columns, kTileDepth), x_width = round_up(depth, kTileDepth);
  const int64_t dy_stride = read_stride(call.args, "dyStride", dy_width), x_stride = read_stride(call.args, "xStride", x_width);
  const DType dtype = read_dtype_of(call.args);
  const void* dy = arrays.operand(read_span<float>(call.args, "dy", span(rows, dy_stride, dy_width)), dy_stride, rows, columns, dtype, false);
  const void* x = arrays.operand(read_span<float>(call.args, "x", span(rows, x_stride, x_width)), x_stride, rows, depth, dtype, false);
  call.run(&Backend::linear_gradient,
           {dy, arrays.operand_stride(dy_stride), x, arrays.operand_stride(x_stride), rows, columns, depth, dtype,
            arrays.array(read_span<float>(call.args, "dw", columns * depth), columns * depth),
            arrays.array(read_optional_span<float>(call.args, "db", columns), columns)});
  return info.Env().Undefined();
}

/** residualSilu: z is changed in place, `out` is an operand. */
Napi::Value residual_silu(const Napi::CallbackInfo& info) {
  Call call(info);
  CallArrays& arrays = call.arrays();
  const int64_t rows = read_size(call.args, "rows"), width = read_size(call.args, "width");
  const int64_t a_stride = read_stride(call.args, "aStride", width), z_stride = read_stride(call.args, "zStride", width);
  const int64_t out_stride = read_stride(call.args, "outStride", width);
  const DType dtype = read_dtype_of(call.args);
  const int64_t a_count = span(rows, a_stride, width), z_count = span(rows, z_stride, width);
  call.run(&Backend::residual_silu,
           {arrays.input(read_span<float>(call.args, "a", a_count), a_count), a_stride, rows, width,
            arrays.array(read_span<float>(call.args, "z", z_count), z_count), z_stride, dtype,
            arrays.operand(read_span<float>(call.args, "out", span(rows, out_stride, width)), out_stride, rows, width, dtype, true),
            arrays.operand_stride(out_stride)});
  return info.Env().Undefined();
}

/** residualSiluGradient: `da` is an operand. */
Napi::Value residual_silu_gradient(const Napi::CallbackInfo& info) {
  Call call(info);
  CallArrays& arrays = call.arrays();
  const int64_t rows = read_size(call.args, "rows"), width = read_size(call.args, "width");
  const int64_t a_stride = read_stride(call.args, "aStride", width), dz_stride = read_stride(call.args, "dzStride", width);
  const int64_t da_stride = read_stride(call.args, "daStride", width);
  const DType dtype = read_dtype_of(call.args);
  const int64_t a_count = span(rows, a_stride, width), dz_count = span(rows, dz_stride, width);
  call.run(&Backend::residual_silu_gradient,
           {arrays.input(read_span<float>(call.args, "a", a_count), a_count), a_stride, arrays.input(read_span<float>(call.args, "dz", dz_count), dz_count),
            dz_stride, rows, width, dtype,
            arrays.operand(read_span<float>(call.args, "da", span(rows, da_stride, width)), da_stride, rows, width, dtype, true),
            arrays.operand_stride(da_stride)});
  return info.Env().Undefined();
}

/** packWeight: source f32 [N, K], whose packed bytes, or its transpose's, become `tiles`. */
Napi::Value pack_weight(const Napi::CallbackInfo& info) {
  Call call(info);
  CallArrays& arrays = call.arrays();
  const int64_t rows = read_size(call.args, "rows"), depth = read_size(call.args, "depth");
  const bool transposed = read_bool(call.args, "transposed");
  const DType dtype = read_dtype_of(call.args);
  const int64_t bytes = call.backend().layout.packed_bytes(dtype, transposed ? depth : rows, transposed ? rows : depth, false);
  call.run(&Backend::pack_weight, {arrays.input(read_span<float>(call.args, "source", rows * depth), rows * depth), rows, depth, transposed, dtype,
                                   arrays.array(read_span<uint8_t>(call.args, "tiles", bytes), bytes)});
  return info.Env().Undefined();
}

/** unpackWeight: w f32 [columns, depth] is packed here as `dtype`, and again plain in `out`. */
Napi::Value unpack_weight(const Napi::CallbackInfo& info) {
  Call call(info);
  const int64_t columns = read_size(call.args, "columns"), depth = read_size(call.args, "depth"), count = columns * depth;
  const Packed w = pack(info.Env(), call.backend(), call.context(), read_span<float>(call.args, "w", count), read_packed_dtype_of(call.args), columns, depth);
  call.run(&Backend::unpack_weight, {w.matrix, call.arrays().array(read_span<float>(call.args, "out", count), count)});
  return info.Env().Undefined();
}

/** adamw: four arrays f32 [count], changed in place. */
Napi::Value adamw(const Napi::CallbackInfo& info) {
  Call call(info);
  const int64_t count = read_integer(call.args, "count", 1, kMaxSize * kMaxCount);
  const auto values = [&](const char* name) { return call.arrays().array(read_span<float>(call.args, name, count), count); };
  call.run(&Backend::adamw,
           {values("weights"), values("mean"), values("variance"), values("gradient"), count, read_float(call.args, "gradientScale"),
            read_float(call.args, "rate"), read_float(call.args, "beta1"), read_float(call.args, "beta2"), read_float(call.args, "epsilon"),
            read_float(call.args, "decay"), read_float(call.args, "correction1"), read_float(call.args, "correction2")});
  return info.Env().Undefined();
}

/** sumOfSquares: x f32 [count], out f64 [1]. */
Napi::Value sum_of_squares(const Napi::CallbackInfo& info) {
  Call call(info);
  CallArrays& arrays = call.arrays();
  const int64_t count = read_integer(call.args, "count", 1, kMaxSize * kMaxCount);
  call.run(&Backend::sum_of_squares,
           {arrays.input(read_span<float>(call.args, "x", count), count), count, arrays.array(read_span<double>(call.args, "out", 1), 1)});
  return info.Env().Undefined();
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
  throw_unless_ok(env, model.context().enter());
  Buffer x(model.memory());
  KvCache cache = model.make_cache();
  const auto go_on = [](auto...) { return Status(); };
  throw_unless_ok(env, run_text(model, tokens, count, chunk, &x, &cache, go_on, go_on, go_on));
  auto out = Napi::Float32Array::New(env, static_cast<size_t>(count * model.shape().vocab));
  for (int64_t first = 0; first < count; first += chunk) {
    const int64_t rows = std::min(chunk, count - first);
    const int64_t vocab = model.shape().vocab;
    const float* logits;
    throw_unless_ok(env, model.logits(x.as<float>() + first * model.hidden_stride(), rows, &logits));
    throw_unless_ok(env, model.memory().download(out.Data() + first * vocab, logits, rows * vocab * static_cast<int64_t>(sizeof(float))));
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
  throw_unless_ok(env, model.context().enter());
  const int64_t row_bytes = model.query_row_bytes(), votes_bytes = shape.query_heads * count * static_cast<int64_t>(sizeof(float));
  Buffer x(model.memory()), queries(model.memory()), votes(model.memory());
  throw_unless_ok(env, queries.allocate(count * row_bytes, "queries"));
  throw_unless_ok(env, votes.allocate(votes_bytes, "attention votes"));
  auto out = Napi::Float32Array::New(env, static_cast<size_t>(shape.layers * range_count * shape.query_heads * count));
  KvCache cache = model.make_cache();
  const auto keep_queries = [&](int64_t, int64_t first, int64_t rows) {
    return model.memory().copy(queries.data() + first * row_bytes, model.queries(), rows * row_bytes);
  };
  const auto vote = [&](int64_t layer) -> Status {
    for (int64_t r = 0; r < range_count; ++r) {
      const int64_t first = ranges[2 * r], end = ranges[2 * r + 1];
      GORGON_TRY(model.memory().fill(votes.data(), 0, votes_bytes));
      GORGON_TRY(model.backend().attention_votes({queries.data() + first * row_bytes, model.query_stride(), cache.heads(layer), model.weights().dtype, end - first,
                                                  first, shape.query_heads, shape.kv_heads, shape.head_dim, first, shape.sliding_windows[layer], end,
                                                  votes.as<float>(), count},
                                                 model.context()));
      GORGON_TRY(model.memory().download(out.Data() + (layer * range_count + r) * shape.query_heads * count, votes.data(), votes_bytes));
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

/** memoryArray(bytes u8, sandboxed): a Uint8Array of memory outside of JavaScript that holds them; `sandboxed`: V8 allows no such array. */
Napi::Value memory_array(const Napi::CallbackInfo& info) {
  size_t length = 0;
  const uint8_t* bytes = read_data<uint8_t>(info[0], "bytes", &length);
  AlignedBuffer memory;
  throw_unless_ok(info.Env(), memory.allocate(static_cast<int64_t>(length), "bytes of an array"));
  if (length > 0) std::memcpy(memory.data(), bytes, length);
  const MakeExternal refuse = [](napi_env, void*, size_t, napi_finalize, void*, napi_value*) { return napi_no_external_buffers_allowed; };
  const bool is_sandboxed = info[1].ToBoolean();
  return write_memory(info.Env(), std::move(memory), is_sandboxed ? refuse : napi_create_external_arraybuffer);
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
  add("ropeAngles", rope_angles);
  add("ropeAppend", rope_append);
  add("siluMul", silu_mul);
  add("packColumns", pack_columns_of);
  add("packCopies", pack_copies);
  add("packedBytes", packed_bytes);
  add("linear", linear);
  add("gatedLinear", gated_linear);
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
  add("crossEntropy", cross_entropy);
  add("linearGradient", linear_gradient);
  add("residualSilu", residual_silu);
  add("residualSiluGradient", residual_silu_gradient);
  add("packWeight", pack_weight);
  add("unpackWeight", unpack_weight);
  add("adamw", adamw);
  add("sumOfSquares", sum_of_squares);
  add("forwardLogits", forward_logits);
  add("forwardVotes", forward_votes);
  add("continueGreedily", continue_prompt);
  add("memoryArray", memory_array);
  return ops;
}

}  // namespace gorgon
