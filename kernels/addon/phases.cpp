// Each phase as an async worker: arrays in, session call, arrays out.
#include "addon/phases.h"

#include <algorithm>
#include <limits>

#include "addon/call_worker.h"
#include "addon/errors.h"
#include "addon/handles.h"
#include "addon/values.h"
#include "ops/top_k.h"
#include "ops/tree_attention.h"

namespace gorgon {

namespace {

/** The batch's entries; no more after a hole, which whoever reads them refuses. */
std::vector<Napi::Value> read_batch(const Napi::CallbackInfo& info) {
  std::vector<Napi::Value> entries;
  if (info[0].IsArray()) {
    const auto array = info[0].As<Napi::Array>();
    for (uint32_t i = 0; i < array.Length() && (i == 0 || !entries.back().IsUndefined()); ++i) entries.push_back(array.Get(i));
  }
  if (entries.empty()) throw_argument(info.Env(), "a phase takes a list of at least one session");
  return entries;
}

/**
 * Idle sessions of one model, each once. Made when everything else is read: reading an object may run JavaScript (a getter, a proxy), and
 * that may close a session or start a call with it. From here to the start of the work none runs.
 */
class SessionList {
 public:
  explicit SessionList(const std::vector<Napi::Value>& sessions) {
    for (const Napi::Value& session : sessions) add(session);
  }

  const std::vector<std::shared_ptr<HandleState>>& handles() const { return handles_; }
  /** What a worker holds while it runs. */
  const std::vector<std::shared_ptr<Session>>& owners() const { return owners_; }

 private:
  void add(const Napi::Value& value) {
    auto handle = idle_session(value);
    for (const auto& other : handles_) {
      if (other == handle) throw to_error(value.Env(), {StatusCode::kBusy, "a session occurs twice in one batch"});
    }
    if (!owners_.empty() && &owners_[0]->model() != &handle->owner->model()) {
      throw_argument(value.Env(), "the sessions of a batch belong to different models");
    }
    owners_.push_back(handle->owner);
    handles_.push_back(std::move(handle));
  }

  std::vector<std::shared_ptr<HandleState>> handles_;
  std::vector<std::shared_ptr<Session>> owners_;
};

std::vector<std::string> read_strings(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (!value.IsArray()) throw_argument(object.Env(), std::string(name) + " is not an array");
  const auto array = value.As<Napi::Array>();
  std::vector<std::string> strings;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::Value item = array.Get(i);
    if (!item.IsString()) throw_argument(object.Env(), std::string(name) + " holds something that is not a string");
    strings.push_back(item.As<Napi::String>().Utf8Value());
  }
  return strings;
}

std::map<std::string, TensorSlice> read_tensors(const Napi::Object& object, const char* name) {
  const Napi::Object table = read_object(object.Get(name), name);
  std::map<std::string, TensorSlice> tensors;
  const Napi::Array keys = table.GetPropertyNames();
  for (uint32_t i = 0; i < keys.Length(); ++i) {
    const Napi::Value name = keys.Get(i);  // itself, since a C string ends at a zero byte
    const std::string key = name.As<Napi::String>().Utf8Value();
    const Napi::Object entry = read_object(table.Get(name), key.c_str());
    TensorSlice slice;
    slice.file = read_integer(entry, "file");
    slice.dtype = read_dtype(object.Env(), read_string(entry, "dtype"));
    slice.begin = read_integer(entry, "begin");
    slice.end = read_integer(entry, "end");
    const Napi::Value shape = entry.Get("shape");
    if (!shape.IsArray()) throw_argument(object.Env(), key + ": shape is not an array");
    const auto extents = shape.As<Napi::Array>();
    for (uint32_t d = 0; d < extents.Length(); ++d) slice.shape.push_back(to_integer(extents.Get(d), (key + ": an extent of shape").c_str()));
    tensors.emplace(key, std::move(slice));
  }
  return tensors;
}

/** Bounds that keep every product of two sizes within an int64. */
constexpr int64_t kMaxExtent = int64_t{1} << 31;

ModelShape read_shape(const Napi::Object& spec) {
  const Napi::Object object = read_object(spec.Get("shape"), "shape");
  ModelShape shape;
  shape.layers = read_integer(object, "layers", 1, kMaxExtent);
  shape.hidden = read_integer(object, "hidden", 1, kMaxExtent);
  shape.ffn = read_integer(object, "ffn", 1, kMaxExtent);
  shape.vocab = read_integer(object, "vocab", 1, kMaxExtent - 1);
  shape.query_heads = read_integer(object, "queryHeads", 1, kMaxExtent);
  shape.kv_heads = read_integer(object, "kvHeads", 1, kMaxExtent);
  shape.head_dim = read_integer(object, "headDim", 1, kMaxExtent);
  shape.rms_eps = read_float(object, "rmsEps");
  shape.max_positions = read_integer(object, "maxPositions", 1, kMaxExtent - 1);
  shape.inverse_frequencies = read_array<float>(object, "inverseFrequencies");
  shape.rope_scale = read_float(object, "ropeScale");
  shape.sliding_windows = read_array<int32_t>(object, "slidingWindows");
  return shape;
}

HeadsSpec read_heads(const Napi::Object& spec) {
  HeadsSpec heads;
  const Napi::Value value = spec.Get("heads");
  if (value.IsNull() || value.IsUndefined()) return heads;
  const Napi::Object object = read_object(value, "heads");
  heads.medusa_heads = read_integer(object, "medusaHeads", 1, kMaxTreeNodes);
  heads.blocks = read_integer(object, "blocks", 0, 1024);
  heads.files = read_strings(object, "files");
  heads.tensors = read_tensors(object, "tensors");
  if (!object.Get("tokenMap").IsNull()) heads.token_map = read_array<int32_t>(object, "tokenMap");
  if (!object.Get("sharedProjection").IsUndefined()) heads.shared_projection = read_bool(object, "sharedProjection");
  return heads;
}

SamplingSpec read_sampling(const Napi::Object& object) {
  SamplingSpec spec;
  SamplingParams& params = spec.params;
  params.temperature = read_float(object, "temperature");
  params.top_k = static_cast<int32_t>(read_integer(object, "topK", 0, INT32_MAX));
  params.top_p = read_float(object, "topP");
  params.min_p = read_float(object, "minP");
  params.repetition_penalty = read_float(object, "repetitionPenalty");
  params.frequency_penalty = read_float(object, "frequencyPenalty");
  params.presence_penalty = read_float(object, "presencePenalty");
  const Napi::Value seed = object.Get("seed");
  bool lossless = false;
  if (seed.IsBigInt()) params.seed = seed.As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless) throw_argument(object.Env(), "seed is not a bigint from 0 to 2^64 - 1");
  params.min_tokens = read_integer(object, "minTokens");
  spec.bias_ids = read_array<int32_t>(object, "biasIds");
  spec.bias_values = read_array<float>(object, "biasValues");
  spec.suppressed_ids = read_array<int32_t>(object, "suppressedIds");
  spec.logprobs = static_cast<int32_t>(read_integer(object, "logprobs", -1, kMaxTopK));
  if (params.temperature < 0.0f || params.top_p <= 0.0f || params.min_p < 0.0f || params.repetition_penalty <= 0.0f) {
    throw_argument(object.Env(), "a sampling option is out of range");
  }
  return spec;
}

}  // namespace

std::optional<CompressionSpec> read_compression(const Napi::Value& value) {
  if (value.IsNull() || value.IsUndefined()) return std::nullopt;
  const Napi::Object object = read_object(value, "compression");
  CompressionSpec spec;
  const std::string policy = read_string(object, "policy"), pool = read_string(object, "pool"), reduce = read_string(object, "groupReduce");
  if (policy == "snapkv") {
    spec.policy = KvPolicy::kSnapkv;
  } else if (policy == "h2o") {
    spec.policy = KvPolicy::kH2o;
  } else if (policy == "streaming") {
    spec.policy = KvPolicy::kStreaming;
  } else {
    throw_argument(value.Env(), "policy \"" + policy + "\" is not one of snapkv, h2o, streaming");
  }
  if (pool != "max" && pool != "avg") throw_argument(value.Env(), "pool is not max or avg");
  if (reduce != "mean" && reduce != "max") throw_argument(value.Env(), "groupReduce is not mean or max");
  spec.pool = pool == "max" ? Pool::kMax : Pool::kAverage;
  spec.group_reduce = reduce == "mean" ? GroupReduce::kMean : GroupReduce::kMax;
  spec.budget = read_integer(object, "budget", 1, kMaxExtent);
  spec.window = read_integer(object, "window", 0, kMaxExtent);
  spec.pool_size = read_integer(object, "poolSize", 1, kMaxExtent);
  spec.sinks = read_integer(object, "sinks", 0, kMaxExtent);
  spec.report_kept = read_bool(object, "reportKept");
  return spec;
}

namespace {

/** { chosen, topIds, topValues } of the one token there is. */
Napi::Value write_token_logprobs(Napi::Env env, const std::optional<Logprobs>& logprobs) {
  if (!logprobs) return env.Null();
  auto object = Napi::Object::New(env);
  object.Set("chosen", Napi::Number::New(env, logprobs->chosen[0]));
  object.Set("topIds", write_array(env, logprobs->top_ids));
  object.Set("topValues", write_array(env, logprobs->top_values));
  return object;
}

Napi::Value write_drafts(Napi::Env env, const Drafts& drafts) {
  auto object = Napi::Object::New(env);
  object.Set("root", Napi::Number::New(env, drafts.root));
  object.Set("tokens", write_array(env, drafts.tokens));
  object.Set("logprobs", write_token_logprobs(env, drafts.logprobs));
  return object;
}

Napi::Value write_report(Napi::Env env, const std::optional<CompressionReport>& report, bool with_kept) {
  if (!report) return env.Null();
  auto object = Napi::Object::New(env);
  object.Set("rowsBefore", Napi::Number::New(env, static_cast<double>(report->rows_before)));
  object.Set("rowsKept", Napi::Number::New(env, static_cast<double>(report->rows_kept)));
  object.Set("bytesBefore", Napi::Number::New(env, static_cast<double>(report->bytes_before)));
  object.Set("bytesAfter", Napi::Number::New(env, static_cast<double>(report->bytes_after)));
  object.Set("ms", Napi::Number::New(env, report->ms));
  object.Set("kept", with_kept ? write_array(env, report->kept) : env.Null());
  return object;
}

Napi::Value write_posterior(Napi::Env env, const Posterior& posterior) {
  auto object = Napi::Object::New(env);
  object.Set("chosen", write_array(env, posterior.chosen));
  object.Set("tokenProb", write_array(env, posterior.token_prob));
  object.Set("entropy", write_array(env, posterior.entropy));
  if (!posterior.logprobs) {
    object.Set("logprobs", env.Null());
    return object;
  }
  auto logprobs = Napi::Object::New(env);
  logprobs.Set("chosen", write_array(env, posterior.logprobs->chosen));
  logprobs.Set("token", write_array(env, posterior.token_logprob));
  logprobs.Set("topIds", write_array(env, posterior.logprobs->top_ids));
  logprobs.Set("topValues", write_array(env, posterior.logprobs->top_values));
  object.Set("logprobs", logprobs);
  return object;
}

/** { name, usable, detail, isas, devices } of the tables of one name. */
Napi::Object write_backend(Napi::Env env, const std::string& name, const std::string& detail, const std::vector<Device>& devices) {
  auto isas = Napi::Array::New(env);
  bool usable = false;
  for (const Backend* table : backends()) {
    if (table->name != name) continue;
    auto isa = Napi::Object::New(env);
    isa.Set("name", Napi::String::New(env, table->isa));
    isa.Set("usable", Napi::Boolean::New(env, table->usable()));
    isas.Set(isas.Length(), isa);
    usable = usable || table->usable();
  }
  auto backend = Napi::Object::New(env);
  backend.Set("name", Napi::String::New(env, name));
  backend.Set("usable", Napi::Boolean::New(env, usable));
  backend.Set("detail", Napi::String::New(env, detail));
  backend.Set("isas", isas);
  backend.Set("devices", write_list(env, devices, [&](const Device& device) {
                auto object = Napi::Object::New(env);
                object.Set("name", Napi::String::New(env, device.name));
                object.Set("memoryBytes", Napi::Number::New(env, static_cast<double>(device.memory_bytes)));
                object.Set("computeCapability", Napi::String::New(env, std::to_string(device.major) + "." + std::to_string(device.minor)));
                object.Set("multiprocessors", Napi::Number::New(env, device.multiprocessors));
                return object;
              }));
  return backend;
}

}  // namespace

Napi::Value list_backends(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto list = Napi::Array::New(env);
  list.Set(0u, write_backend(env, "cpu", std::to_string(physical_cores()) + " physical cores", {}));
  list.Set(1u, write_backend(env, "cuda", cuda_detail(), cuda_devices()));
  return list;
}

Napi::Value open_model_async(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Object object = read_object(info[0], "the model spec");
  auto spec = std::make_shared<ModelSpec>();
  spec->backend = read_string(object, "backend");
  spec->isa = read_string(object, "isa");
  spec->context.threads = static_cast<int>(read_integer(object, "threads", 0, 1024));
  if (!object.Get("device").IsUndefined()) spec->context.device = static_cast<int>(read_integer(object, "device", 0, 1024));
  if (!object.Get("memoryBudget").IsUndefined()) spec->context.memory_budget = read_integer(object, "memoryBudget", 0, int64_t{1} << 52);
  if (!object.Get("synthetic").IsUndefined()) {
    spec->synthetic = static_cast<uint64_t>(read_integer(read_object(object.Get("synthetic"), "synthetic"), "seed", 0, INT32_MAX));
  }
  const std::string dtype = read_string(object, "dtype");
  spec->keep_dtype = dtype == "auto";
  if (!spec->keep_dtype) spec->dtype = read_dtype(env, dtype);
  const std::string weights = read_string(object, "weights");
  spec->int8_weights = weights == dtype_name(DType::kInt8);
  if (!spec->int8_weights && weights != "full") throw to_error(env, {StatusCode::kDtype, "weights \"" + weights + "\" is not one of full, int8"});
  spec->files = read_strings(object, "files");
  spec->shape = read_shape(object);
  spec->tensors = read_tensors(object, "tensors");
  spec->heads = read_heads(object);

  // The counter lives in memory that JavaScript shares with us: it is held until loading is over.
  size_t length = 0;
  const Napi::Value counters = object.Get("progress");
  int32_t* progress = read_data<int32_t>(counters, "progress", &length);
  if (length < 2) throw_argument(env, "progress needs two entries");
  if (counters.As<Napi::TypedArray>().ArrayBuffer().IsArrayBuffer()) {
    throw_argument(env, "progress is not in shared memory: another owner could be given it while it is written to");
  }
  static_assert(sizeof(std::atomic<int32_t>) == sizeof(int32_t), "an atomic int is laid out as an int");
  spec->loaded = reinterpret_cast<std::atomic<int32_t>*>(progress);
  spec->cancel = reinterpret_cast<std::atomic<int32_t>*>(progress + 1);
  auto held = std::make_shared<Napi::ObjectReference>(Napi::Persistent(counters.As<Napi::Object>()));

  auto model = std::make_shared<std::shared_ptr<Model>>();
  auto* worker = new CallWorker(env, "gorgon.openModel", {});
  worker->run = [spec, model] { return Model::open(*spec, model.get()); };
  worker->result = [model, held](Napi::Env result_env) { return wrap_model(result_env, std::move(*model)); };
  return worker->start();
}

Napi::Value model_info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Model& model = *open_model(info[0])->owner;
  auto object = Napi::Object::New(env);
  object.Set("backend", Napi::String::New(env, model.backend().name));
  object.Set("isa", Napi::String::New(env, model.backend().isa));
  object.Set("threads", Napi::Number::New(env, model.threads()));
  object.Set("dtype", Napi::String::New(env, dtype_name(model.weights().dtype)));
  object.Set("weights", Napi::String::New(env, model.weights().packed_dtype == DType::kInt8 ? dtype_name(DType::kInt8) : "full"));
  object.Set("weightBytes", Napi::Number::New(env, static_cast<double>(model.weights().bytes)));
  object.Set("headsBytes", Napi::Number::New(env, static_cast<double>(model.weights().heads_bytes)));
  const KvCache empty = model.make_cache();
  const bool on_device = !model.memory().is_host();
  object.Set("device", on_device ? Napi::Value(Napi::String::New(env, cuda_devices()[model.device()].name)) : env.Null());
  object.Set("memoryUsed", Napi::Number::New(env, static_cast<double>(model.memory().used())));
  object.Set("memoryPeak", Napi::Number::New(env, static_cast<double>(model.memory().peak())));
  object.Set("kvBytesPerToken", Napi::Number::New(env, static_cast<double>(empty.layer_bytes(1) * model.shape().layers)));
  return object;
}

Napi::Value open_session(const Napi::CallbackInfo& info) {
  return wrap_session(info.Env(), std::make_shared<Session>(open_model(info[0])->owner));
}

Napi::Value begin_prefill(const Napi::CallbackInfo& info) {
  const Napi::Object object = read_object(info[0], "the request");
  const Napi::Value session = object.Get("session");
  PrefillSpec spec;
  spec.tokens = read_array<int32_t>(object, "tokens");
  spec.sampling = read_sampling(read_object(object.Get("sampling"), "sampling"));
  spec.compression = read_compression(object.Get("compression"));
  spec.medusa_heads = read_integer(object, "medusaHeads", 0, kMaxTreeNodes);
  spec.top_k = read_integer(object, "topK", 0, kMaxTopK);
  // Last, as in SessionList.
  throw_unless_ok(info.Env(), idle_session(session)->owner->begin_prefill(std::move(spec)));
  return info.Env().Undefined();
}

Napi::Value assume_prefill(const Napi::CallbackInfo& info) {
  const Napi::Object object = read_object(info[0], "the request");
  const Napi::Value session = object.Get("session");
  const int64_t tokens = read_integer(object, "tokens", 1, std::numeric_limits<int32_t>::max());
  const SessionList sessions({session});
  auto* worker = new CallWorker(info.Env(), "gorgon.assumePrefill", sessions.handles());
  worker->run = [owner = sessions.owners()[0], tokens] {
    const std::lock_guard<std::mutex> lock(owner->model().mutex());
    return owner->assume_prefill(tokens);
  };
  worker->result = [](Napi::Env env) { return env.Undefined(); };
  return worker->start();
}

Napi::Value prefill(const Napi::CallbackInfo& info) {
  const SessionList sessions(read_batch(info));
  auto steps = std::make_shared<std::vector<PrefillProgress>>();
  auto* worker = new CallWorker(info.Env(), "gorgon.prefill", sessions.handles());
  worker->run = [owners = sessions.owners(), steps] {
    const std::lock_guard<std::mutex> lock(owners[0]->model().mutex());
    return Session::prefill(owners, steps.get());
  };
  worker->result = [steps](Napi::Env env) {
    return write_list(env, *steps, [&](const PrefillProgress& step) {
      auto object = Napi::Object::New(env);
      object.Set("done", Napi::Number::New(env, static_cast<double>(step.done)));
      object.Set("total", Napi::Number::New(env, static_cast<double>(step.total)));
      object.Set("result", env.Null());
      if (step.drafts) {
        auto result = Napi::Object::New(env);
        result.Set("drafts", write_drafts(env, *step.drafts));
        result.Set("compression", write_report(env, step.compression, step.compression && !step.compression->kept.empty()));
        object.Set("result", result);
      }
      return object;
    });
  };
  return worker->start();
}

Napi::Value verify(const Napi::CallbackInfo& info) {
  auto items = std::make_shared<std::vector<VerifyItem>>();
  std::vector<Napi::Value> batch = read_batch(info);
  for (Napi::Value& entry : batch) {
    const Napi::Object object = read_object(entry, "the request");
    entry = object.Get("session");
    items->push_back({nullptr, read_array<int32_t>(object, "tokens"), read_array<int32_t>(object, "parents"), read_bool(object, "typical")});
  }
  const SessionList sessions(batch);
  for (size_t i = 0; i < items->size(); ++i) (*items)[i].session = sessions.owners()[i].get();
  auto posteriors = std::make_shared<std::vector<Posterior>>();
  auto* worker = new CallWorker(info.Env(), "gorgon.verify", sessions.handles());
  worker->run = [owners = sessions.owners(), items, posteriors] {
    const std::lock_guard<std::mutex> lock(owners[0]->model().mutex());
    return Session::verify(*items, posteriors.get());
  };
  worker->result = [posteriors](Napi::Env env) {
    return write_list(env, *posteriors, [&](const Posterior& posterior) { return write_posterior(env, posterior); });
  };
  return worker->start();
}

Napi::Value commit(const Napi::CallbackInfo& info) {
  auto items = std::make_shared<std::vector<CommitItem>>();
  std::vector<Napi::Value> batch = read_batch(info);
  for (Napi::Value& entry : batch) {
    const Napi::Object object = read_object(entry, "the request");
    entry = object.Get("session");
    items->push_back({nullptr, read_array<int32_t>(object, "path"), read_integer(object, "medusaHeads", 0, kMaxTreeNodes),
                      read_integer(object, "topK", 0, kMaxTopK)});
  }
  const SessionList sessions(batch);
  for (size_t i = 0; i < items->size(); ++i) (*items)[i].session = sessions.owners()[i].get();
  auto drafts = std::make_shared<std::vector<Drafts>>();
  auto* worker = new CallWorker(info.Env(), "gorgon.commit", sessions.handles());
  worker->result = [drafts](Napi::Env env) {
    return write_list(env, *drafts, [&](const Drafts& draft) { return write_drafts(env, draft); });
  };
  // Without heads to ask, a commit is some counting: a step of plain decoding crosses threads once. Never waits for a pass that is running.
  const bool drafting = std::any_of(items->begin(), items->end(), [](const CommitItem& item) { return item.medusa_heads > 0; });
  std::unique_lock<std::mutex> lock(sessions.owners()[0]->model().mutex(), std::defer_lock);
  if (!drafting && lock.try_lock()) {
    worker->run = [items, drafts] { return Session::commit(*items, drafts.get()); };
    return worker->start_here();
  }
  worker->run = [owners = sessions.owners(), items, drafts] {
    const std::lock_guard<std::mutex> lock(owners[0]->model().mutex());
    return Session::commit(*items, drafts.get());
  };
  return worker->start();
}

Napi::Value session_info(const Napi::CallbackInfo& info) {
  const Session& session = *idle_session(info[0])->owner;
  auto object = Napi::Object::New(info.Env());
  object.Set("position", Napi::Number::New(info.Env(), static_cast<double>(session.position())));
  object.Set("rows", Napi::Number::New(info.Env(), static_cast<double>(session.rows())));
  object.Set("bytes", Napi::Number::New(info.Env(), static_cast<double>(session.cache_bytes())));
  return object;
}

}  // namespace gorgon
