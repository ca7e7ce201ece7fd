// Loading: every byte range is checked against its file and every shape against the model before anything is read.
#include "runtime/weights.h"

#include <cmath>
#include <memory>
#include <utility>

namespace gorgon {

namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

/** One set of files and the tensors in them: the model's, or the heads'. */
class TensorSource {
 public:
  TensorSource(const std::vector<std::string>& paths, const std::map<std::string, TensorSlice>& tensors) : paths_(paths), tensors_(tensors) {}

  Status open() {
    files_.resize(paths_.size());
    for (size_t i = 0; i < paths_.size(); ++i) GORGON_TRY(files_[i].open(paths_[i]));
    return {};
  }

  bool has(const std::string& name) const { return tensors_.count(name) != 0; }

  /** Whether two names stand for the same bytes. */
  bool same(const std::string& a, const std::string& b) const {
    const auto left = tensors_.find(a), right = tensors_.find(b);
    return left != tensors_.end() && right != tensors_.end() && left->second.file == right->second.file &&
           left->second.begin == right->second.begin && left->second.shape == right->second.shape;
  }

  /** The tensor's first byte, after checking that it exists, has this shape and lies within its file. */
  Status find(const std::string& name, const std::vector<int64_t>& shape, const TensorSlice** slice, const void** data) const {
    const auto it = tensors_.find(name);
    if (it == tensors_.end()) return {StatusCode::kShape, "tensor \"" + name + "\" is missing from the model"};
    const TensorSlice& tensor = it->second;
    if (tensor.shape != shape) {
      return {StatusCode::kShape, "tensor \"" + name + "\" is " + shape_text(tensor.shape) + ", expected " + shape_text(shape)};
    }
    if (tensor.file < 0 || tensor.file >= static_cast<int64_t>(files_.size())) {
      return {StatusCode::kArgument, "tensor \"" + name + "\" names file " + std::to_string(tensor.file) + " of " + std::to_string(files_.size())};
    }
    int64_t bytes = dtype_size(tensor.dtype);
    for (const int64_t extent : shape) {
      if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes)) return {StatusCode::kShape, "tensor \"" + name + "\" is too large"};
    }
    if (tensor.begin < 0 || tensor.end < tensor.begin || tensor.end - tensor.begin != bytes || tensor.end > files_[tensor.file].bytes()) {
      return {StatusCode::kShape, "tensor \"" + name + "\" claims bytes " + std::to_string(tensor.begin) + " to " + std::to_string(tensor.end) +
                                      " of a file of " + std::to_string(files_[tensor.file].bytes()) + ", and needs " + std::to_string(bytes)};
    }
    *slice = &tensor;
    *data = files_[tensor.file].data() + tensor.begin;
    return {};
  }

  MappedFile take_file(int64_t index) { return std::move(files_[index]); }

 private:
  const std::vector<std::string>& paths_;
  const std::map<std::string, TensorSlice>& tensors_;
  std::vector<MappedFile> files_;
};

class Loader {
 public:
  Loader(const ModelSpec& spec, const TensorSource& source, DType dtype, const Backend& backend, Context& context)
      : spec_(spec), source_(source), dtype_(dtype), backend_(backend), context_(context) {}

  /** A vector as f32. Synthetic ones are norms, of ones. */
  Status vector(const std::string& name, int64_t size, Buffer* out) {
    std::vector<float> values(size, 1.0f);
    if (!spec_.synthetic) GORGON_TRY(read(name, size, values.data()));
    GORGON_TRY(upload(values, out));
    return count();
  }

  Status optional_vector(const std::string& name, int64_t size, Buffer* out) {
    if (source_.has(name)) return vector(name, size, out);
    return {};
  }

  struct Part {
    std::string name;
    int64_t columns;
  };

  /**
   * Weights of one input, packed side by side; a part's bias is `name` + "_bias" (or `bias_name`), zeros where only others have one. The two
   * parts of a gated weight are laid out as gated_linear takes them.
   */
  Status packed(const std::vector<Part>& parts, int64_t depth, PackedWeight* out, const std::string& bias_name = {}, bool gated = false) {
    int64_t columns = 0;
    std::vector<std::pair<const TensorSlice*, const void*>> sources(parts.size());
    for (size_t i = 0; i < parts.size(); ++i) {  // all of them before the memory: the files bound how much a shape may ask for
      if (!spec_.synthetic) GORGON_TRY(source_.find(parts[i].name, {parts[i].columns, depth}, &sources[i].first, &sources[i].second));
      columns += parts[i].columns;
    }
    const int64_t bytes = backend_.layout.packed_bytes(dtype_, columns, depth, gated);
    out->tiles = Buffer(context_.memory());
    GORGON_TRY(out->tiles.allocate(bytes, "weights"));
    out->matrix = packed_weight(out->tiles.data(), dtype_, columns, depth);
    bytes_ += bytes;
    if (spec_.synthetic) return random(parts.size(), columns, depth, gated, out);
    int64_t offset = 0;
    std::vector<float> bias;
    for (size_t i = 0; i < parts.size(); ++i) {
      const Part& part = parts[i];
      int64_t bad_row = -1;
      GORGON_TRY(backend_.layout.pack({sources[i].second, sources[i].first->dtype, part.columns, depth, out->tiles.data(), dtype_, columns, offset, gated, &bad_row},
                                      context_));
      if (bad_row >= 0) return not_finite(part, bad_row);
      const std::string part_bias = bias_name.empty() ? part.name + "_bias" : bias_name;
      if (source_.has(part_bias)) {
        bias.resize(columns);
        GORGON_TRY(read(part_bias, part.columns, bias.data() + offset));
        GORGON_TRY(count());
      }
      offset += part.columns;
      GORGON_TRY(count());
    }
    return bias.empty() ? Status() : upload(bias, &out->bias);
  }

  /** The embedding table, mapped or copied. */
  Status embedding(const TensorSlice& slice, const void* data, Weights* out) {
    out->embed = data;
    if (backend_.layout.maps_embeddings) return {};
    out->embed_table = Buffer(context_.memory());
    GORGON_TRY(out->embed_table.allocate(slice.end - slice.begin, "weights"));
    GORGON_TRY(context_.memory().upload(out->embed_table.data(), data, slice.end - slice.begin));
    out->embed = out->embed_table.data();
    bytes_ += out->embed_table.bytes();
    return {};
  }

  Status random_embedding(Weights* out) {
    out->embed_table = Buffer(context_.memory());
    const int64_t elements = spec_.shape.vocab * spec_.shape.hidden;
    GORGON_TRY(out->embed_table.allocate(backend_.layout.packed_bytes(out->embed_dtype, spec_.shape.vocab, spec_.shape.hidden, false), "weights"));
    out->embed = out->embed_table.data();
    bytes_ += elements * dtype_size(out->embed_dtype);
    GORGON_TRY(fill(out->embed_table.data(), out->embed_dtype, spec_.shape.vocab, spec_.shape.hidden, false));
    return count();
  }

  /** One more tensor is in place. */
  Status count() {
    if (spec_.loaded != nullptr) spec_.loaded->fetch_add(1);
    if (spec_.cancel != nullptr && spec_.cancel->load() != 0) return {StatusCode::kCancelled, "loading was cancelled"};
    return {};
  }

  int64_t bytes() const { return bytes_; }

 private:
  Status read(const std::string& name, int64_t size, float* out) {
    const TensorSlice* slice;
    const void* data;
    GORGON_TRY(source_.find(name, {size}, &slice, &data));
    for (int64_t i = 0; i < size; ++i) out[i] = load_element(slice->dtype, data, i);
    return {};
  }

  Status upload(const std::vector<float>& values, Buffer* out) {
    const int64_t bytes = static_cast<int64_t>(values.size() * sizeof(float));
    *out = Buffer(context_.memory());
    GORGON_TRY(out->allocate(bytes, "weights"));
    bytes_ += bytes;
    return context_.memory().upload(out->data(), values.data(), bytes);
  }

  Status random(size_t parts, int64_t columns, int64_t depth, bool gated, PackedWeight* out) {
    GORGON_TRY(fill(out->tiles.data(), dtype_, columns, depth, gated));
    for (size_t i = 0; i < parts; ++i) GORGON_TRY(count());
    return {};
  }

  /** Products of rows of about 1 are of about 1 again. */
  Status fill(void* values, DType dtype, int64_t columns, int64_t depth, bool gated) {
    return backend_.layout.fill_random(values, dtype, columns, depth, gated, 1.0f / std::sqrt(static_cast<float>(depth)), *spec_.synthetic + ++filled_, context_);
  }

  /** int8 has no place for NaN and infinity, and one of them would spoil its whole column. */
  static Status not_finite(const Part& part, int64_t row) {
    return {StatusCode::kDtype, "row " + std::to_string(row) + " of tensor \"" + part.name +
                                    "\" holds a value that is NaN or infinite, which int8 has not: load it with weights \"full\""};
  }

  const ModelSpec& spec_;
  const TensorSource& source_;
  DType dtype_;
  const Backend& backend_;
  Context& context_;
  int64_t bytes_ = 0;
  uint64_t filled_ = 0;
};

Status load_heads(const ModelSpec& spec, const Backend& backend, Context& context, Weights* out) {
  const ModelShape& shape = spec.shape;
  TensorSource source(spec.heads.files, spec.heads.tensors);
  GORGON_TRY(source.open());
  Loader loader(spec, source, out->packed_dtype, backend, context);
  const int64_t vocab = spec.heads.token_map.empty() ? shape.vocab : static_cast<int64_t>(spec.heads.token_map.size());
  for (const int32_t id : spec.heads.token_map) {
    if (id < 0 || id >= shape.vocab) return {StatusCode::kShape, "the heads' token map names id " + std::to_string(id)};
  }
  out->heads.resize(spec.heads.medusa_heads);
  for (int64_t h = 0; h < spec.heads.medusa_heads; ++h) {
    MedusaHead& head = out->heads[h];
    const std::string prefix = std::to_string(h) + ".";
    head.blocks.resize(spec.heads.blocks);
    for (int64_t b = 0; b < spec.heads.blocks; ++b) {
      const std::string block = prefix + "block." + std::to_string(b);
      GORGON_TRY(loader.packed({{block + ".weight", shape.hidden}}, shape.hidden, &head.blocks[b], block + ".bias"));
    }
    if (h > 0 && source.same(prefix + "projection", "0.projection")) {
      head.projection.matrix = out->heads[0].projection.matrix;  // one projection for all heads: packed and read once
      GORGON_TRY(loader.count());
    } else if (source.has(prefix + "projection") || (spec.synthetic && !spec.heads.shared_projection)) {
      GORGON_TRY(loader.packed({{prefix + "projection", vocab}}, shape.hidden, &head.projection));
    } else if (!spec.heads.token_map.empty()) {
      return {StatusCode::kShape, "heads with a token map need a projection of their own"};
    }
  }
  out->token_map = spec.heads.token_map;
  out->heads_bytes = loader.bytes();
  return {};
}

}  // namespace

Status load_weights(const ModelSpec& spec, const Backend& backend, Context& context, Weights* out) {
  const ModelShape& shape = spec.shape;
  TensorSource source(spec.files, spec.tensors);
  GORGON_TRY(source.open());

  if (spec.synthetic && backend.layout.fill_random == nullptr) {
    return {StatusCode::kArgument, std::string("synthetic weights cannot be made on backend ") + backend.name};
  }
  const TensorSlice* embed = nullptr;
  const void* embed_data = nullptr;
  if (!spec.synthetic) GORGON_TRY(source.find("embed", {shape.vocab, shape.hidden}, &embed, &embed_data));
  out->embed_dtype = embed != nullptr ? embed->dtype : spec.keep_dtype ? DType::kBf16 : spec.dtype;
  out->dtype = !spec.keep_dtype ? spec.dtype : spec.int8_weights ? DType::kBf16 : out->embed_dtype;
  if (spec.int8_weights && out->dtype != DType::kBf16) {
    return {StatusCode::kDtype, std::string("int8 weights are multiplied with bf16, and the dtype asked for is ") + dtype_name(out->dtype)};
  }
  out->packed_dtype = spec.int8_weights ? DType::kInt8 : out->dtype;

  Loader loader(spec, source, out->packed_dtype, backend, context);
  const int64_t q_width = shape.query_heads * shape.head_dim, kv_width = shape.kv_heads * shape.head_dim;
  for (int64_t i = 0; i < shape.layers; ++i) {
    LayerWeights& layer = out->layers.emplace_back();
    const std::string prefix = "layers." + std::to_string(i) + ".";
    GORGON_TRY(loader.vector(prefix + "attn_norm", shape.hidden, &layer.attention_norm));
    GORGON_TRY(loader.packed({{prefix + "q", q_width}, {prefix + "k", kv_width}, {prefix + "v", kv_width}}, shape.hidden, &layer.qkv));
    GORGON_TRY(loader.optional_vector(prefix + "q_norm", shape.head_dim, &layer.q_norm));
    GORGON_TRY(loader.optional_vector(prefix + "k_norm", shape.head_dim, &layer.k_norm));
    GORGON_TRY(loader.packed({{prefix + "o", shape.hidden}}, q_width, &layer.o));
    GORGON_TRY(loader.vector(prefix + "ffn_norm", shape.hidden, &layer.ffn_norm));
    GORGON_TRY(loader.packed({{prefix + "gate", shape.ffn}, {prefix + "up", shape.ffn}}, shape.hidden, &layer.gate_up, {}, true));
    GORGON_TRY(loader.packed({{prefix + "down", shape.hidden}}, shape.ffn, &layer.down));
  }
  GORGON_TRY(loader.vector("final_norm", shape.hidden, &out->final_norm));
  const bool tied = !spec.synthetic && !source.has("lm_head");
  GORGON_TRY(loader.packed({{tied ? "embed" : "lm_head", shape.vocab}}, shape.hidden, &out->lm_head));
  if (spec.synthetic) {
    GORGON_TRY(loader.random_embedding(out));
  } else {
    GORGON_TRY(loader.embedding(*embed, embed_data, out));
    if (!tied) GORGON_TRY(loader.count());
  }
  out->bytes = loader.bytes();
  if (spec.heads.medusa_heads > 0) GORGON_TRY(load_heads(spec, backend, context, out));
  // The embedding table may stay mapped; the other files are done with.
  if (backend.layout.maps_embeddings) out->embed_file = source.take_file(embed->file);
  return {};
}

}  // namespace gorgon
