// Memory of a trained weight, and its way from f32 into products.
#include "runtime/trained_weight.h"

#include "ops/pack_weight.h"
#include "ops/unpack_weight.h"

namespace gorgon {

namespace {

const char* const kWhat = "heads in training";

}  // namespace

Status allocate_packed(const Model& model, DType dtype, int64_t columns, int64_t depth, Buffer* tiles, PackedMatrix* matrix) {
  *tiles = Buffer(model.memory());
  GORGON_TRY(tiles->allocate(model.backend().layout.packed_bytes(dtype, columns, depth, false), kWhat));
  *matrix = packed_weight(tiles->data(), dtype, columns, depth);
  return {};
}

Status TrainedWeight::make(const Model& model, std::string name, Kind kind, int64_t columns, int64_t depth, TrainedWeight* out) {
  TrainedWeight weight;
  weight.name_ = std::move(name);
  weight.kind_ = kind;
  weight.rows_ = kind == Kind::kBias ? 1 : columns;
  weight.depth_ = kind == Kind::kBias ? columns : depth;
  const DType dtype = model.weights().dtype;
  const int64_t bytes = weight.elements() * static_cast<int64_t>(sizeof(float));
  for (Buffer& part : weight.parts_) {
    part = Buffer(model.memory());
    GORGON_TRY(part.allocate(bytes, kWhat));
  }
  GORGON_TRY(allocate_packed(model, dtype, weight.rows_, weight.depth_, &weight.tiles_, &weight.matrix_));
  if (kind == Kind::kProductAndBack) {
    GORGON_TRY(allocate_packed(model, dtype, weight.depth_, weight.rows_, &weight.transposed_tiles_, &weight.transposed_));
  }
  if (kind == Kind::kBias) {
    weight.rounded_ = Buffer(model.memory());
    GORGON_TRY(weight.rounded_.allocate(bytes, kWhat));
  }
  *out = std::move(weight);
  return {};
}

int64_t TrainedWeight::bytes() const {
  int64_t bytes = tiles_.bytes() + transposed_tiles_.bytes() + rounded_.bytes();
  for (const Buffer& part : parts_) bytes += part.bytes();
  return bytes;
}

Status TrainedWeight::refresh(Model& model) {
  if (!is_stale_) return {};
  const Backend& run = model.backend();
  Context& context = model.context();
  const float* values = part(TrainingPart::kWeights);
  GORGON_TRY(run.pack_weight({values, rows_, depth_, false, matrix_.dtype, tiles_.data()}, context));
  if (kind_ == Kind::kProductAndBack) {
    GORGON_TRY(run.pack_weight({values, rows_, depth_, true, transposed_.dtype, transposed_tiles_.data()}, context));
  }
  if (kind_ == Kind::kBias) GORGON_TRY(run.unpack_weight({matrix_, rounded_.as<float>()}, context));
  is_stale_ = false;
  return {};
}

}  // namespace gorgon
