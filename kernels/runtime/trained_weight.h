// TrainedWeight: a tensor in training: its values, gradient and moments in f32, and the forms in which the passes take the values.
#pragma once

#include <array>
#include <string>

#include "runtime/model.h"

namespace gorgon {

/** What is kept of each weight. */
enum class TrainingPart { kWeights, kMean, kVariance, kGradient };

class TrainedWeight {
 public:
  enum class Kind {
    /** Rows are multiplied with it. */
    kProduct,
    /** And gradients with its transpose. */
    kProductAndBack,
    kBias,
  };

  /** All of it zeros: [columns, depth], of a bias [1, columns]. */
  static Status make(const Model& model, std::string name, Kind kind, int64_t columns, int64_t depth, TrainedWeight* out);

  const std::string& name() const { return name_; }
  int64_t elements() const { return rows_ * depth_; }
  bool is_bias() const { return kind_ == Kind::kBias; }
  float* part(TrainingPart part) const { return parts_[static_cast<size_t>(part)].as<float>(); }
  /** Of the memory it holds. */
  int64_t bytes() const;

  /** The values are others: what the passes take is made anew by the next refresh. */
  void values_changed() { is_stale_ = true; }
  /** Rounds the values to the model's dtype, in the forms below, if they have changed. */
  Status refresh(Model& model);
  PackedMatrix matrix() const { return matrix_; }
  PackedMatrix transposed() const { return transposed_; }
  /** Of a bias: f32, rounded as a file of heads holds it. */
  const float* rounded() const { return rounded_.as<float>(); }

 private:
  std::string name_;
  Kind kind_ = Kind::kProduct;
  /** Of a bias one row, so that it is rounded as matrices are. */
  int64_t rows_ = 0;
  int64_t depth_ = 0;
  std::array<Buffer, 4> parts_;
  Buffer tiles_, transposed_tiles_, rounded_;
  PackedMatrix matrix_, transposed_;
  bool is_stale_ = true;
};

/** A packed weight of `dtype` whose values are to come. */
Status allocate_packed(const Model& model, DType dtype, int64_t columns, int64_t depth, Buffer* tiles, PackedMatrix* matrix);

}  // namespace gorgon
