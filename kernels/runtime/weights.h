// Weights: a model's tensors as the forward pass takes them, loaded from the byte ranges that TypeScript found in the files' headers.
#pragma once

#include <atomic>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "common/memory.h"
#include "ops/linear.h"
#include "runtime/mapped_file.h"

namespace gorgon {

/** A byte range of one of the files. */
struct TensorSlice {
  int64_t file = 0;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  int64_t begin = 0;
  int64_t end = 0;
};

/** Names are those of ModelShape in src/native.ts. */
struct ModelShape {
  int64_t layers = 0;
  int64_t hidden = 0;
  int64_t ffn = 0;
  int64_t vocab = 0;
  int64_t query_heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  float rms_eps = 0.0f;
  int64_t max_positions = 0;
  std::vector<float> inverse_frequencies;
  float rope_scale = 1.0f;
  std::vector<int32_t> sliding_windows;
};

struct HeadsSpec {
  int64_t medusa_heads = 0;
  int64_t blocks = 0;
  std::vector<std::string> files;
  std::map<std::string, TensorSlice> tensors;
  std::vector<int32_t> token_map;
  /** Of synthetic ones: whether they project through the base model's lm_head. */
  bool shared_projection = true;
};

struct ModelSpec {
  std::string backend = "auto";
  std::string isa = "auto";
  ContextSpec context;
  /** Random weights of `shape` in place of files, the same for the same seed; for measuring. */
  std::optional<uint64_t> synthetic;
  bool keep_dtype = true;
  DType dtype = DType::kF32;
  /** Weights that are multiplied are packed as int8; rows of activations and caches stay in `dtype`, which is then bf16. */
  bool int8_weights = false;
  std::vector<std::string> files;
  ModelShape shape;
  std::map<std::string, TensorSlice> tensors;
  HeadsSpec heads;
  /** Shared with JavaScript: tensors loaded so far, and not 0 to cancel. May be null. */
  std::atomic<int32_t>* loaded = nullptr;
  std::atomic<int32_t>* cancel = nullptr;
};

// All of it in the backend's memory.

/** A packed weight and its bias, which own their memory. */
struct PackedWeight {
  Buffer tiles;
  PackedMatrix matrix;
  /** f32; empty: no bias. */
  Buffer bias;
  const float* bias_or_null() const { return bias.as<float>(); }
};

struct LayerWeights {
  /** f32. */
  Buffer attention_norm, ffn_norm;
  /** Empty unless the model normalises queries and keys per head. */
  Buffer q_norm, k_norm;
  PackedWeight qkv, o, gate_up, down;
};

struct MedusaHead {
  std::vector<PackedWeight> blocks;
  /** Without tiles: the base model's lm_head. May be another head's. */
  PackedWeight projection;
};

struct Weights {
  /** Of activations and caches. */
  DType dtype = DType::kF32;
  /** Of packed weights: the same, or int8. */
  DType packed_dtype = DType::kF32;
  /** Row-major [V, C] in the file's own dtype: rows are gathered, never multiplied. Where the file is mapped, or a copy. */
  MappedFile embed_file;
  Buffer embed_table;
  const void* embed = nullptr;
  DType embed_dtype = DType::kF32;
  std::vector<LayerWeights> layers;
  Buffer final_norm;
  PackedWeight lm_head;
  std::vector<MedusaHead> heads;
  /** Vocabulary id of each row of a reduced projection; empty when row = id. */
  std::vector<int32_t> token_map;
  int64_t bytes = 0;
  int64_t heads_bytes = 0;
};

/** Maps the files, checks every range and shape, packs. ERR_CANCELLED when the spec's flag is raised. */
Status load_weights(const ModelSpec& spec, const Backend& backend, Context& context, Weights* out);

}  // namespace gorgon
