// Trainer: Medusa heads in training on a frozen model: their weights in f32, gradients, AdamW's moments, and the passes over texts.
//
// A head h at position t stands for the token at t + 2 + h. Its loss there is the cross entropy of its distribution and that token; positions
// whose token does not exist, or comes before a text's `from`, have no loss.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/aligned_buffer.h"
#include "runtime/model.h"
#include "runtime/trained_weight.h"

namespace gorgon {

struct TrainerSpec {
  int64_t medusa_heads = 0;
  /** Residual blocks per head; may be 0 if the projection is private. */
  int64_t blocks = 0;
  /** Each head has a projection of its own, which begins as the model's lm_head; else that one serves, and stays as it is. */
  bool private_projection = false;
};

struct TrainingText {
  std::vector<int32_t> tokens;
  /** Tokens before this index are read and not learnt. */
  int64_t from = 0;
  /** Hidden rows as Trainer::hidden_rows gave them; none: the model computes them. */
  std::optional<AlignedBuffer> hidden;
};

/** Of one text, [medusa_heads, T]; where a head has no loss, 0 and -1. */
struct TextScores {
  std::vector<float> losses;
  std::vector<int32_t> ranks;
};

struct UpdateSpec {
  /** Multiplies gradients: one over the rows of the batch. */
  float scale = 1.0f;
  /** Largest norm of all gradients together; larger ones are scaled down to it. 0: any. */
  float clip = 0.0f;
  float rate = 0.0f;
  float beta1 = 0.9f;
  float beta2 = 0.999f;
  float epsilon = 1e-8f;
  /** Of weights, not of biases. */
  float decay = 0.0f;
  /** Number of this update, from 1. */
  int64_t step = 1;
};

class Trainer {
 public:
  // What opens, runs, reads and writes needs the model's mutex.

  /** Blocks begin as zeros, which make a head the model's own guess. ERR_OUT_OF_MEMORY leaves nothing behind. */
  static Status open(std::shared_ptr<Model> model, const TrainerSpec& spec, std::shared_ptr<Trainer>* out);

  Model& model() const { return *model_; }

  /** [T, C] of the model's dtype: a text's rows after the final norm, as heads take them. */
  Status hidden_rows(const std::vector<int32_t>& tokens, AlignedBuffer* rows);
  /** Losses and ranks of texts as the heads are now. */
  Status score(const std::vector<TrainingText>& texts, std::vector<TextScores>* scores);
  /** The same; and adds to the gradients, of head h times scales[h]. If it fails halfway all gradients are forgotten. */
  Status accumulate(const std::vector<TrainingText>& texts, const std::vector<float>& scales, std::vector<TextScores>* scores);
  /**
   * One step of AdamW by the gradients gathered, which are zero afterwards. `norm` is theirs, scaled, before clipping. If it is not finite
   * nothing changes but the gradients, which are forgotten.
   */
  Status update(const UpdateSpec& spec, double* norm);

  /**
   * Elements [first, first + count) of a tensor's part, by its role in HeadsSpec (`H.block.R.weight`, `H.block.R.bias`, `H.projection`).
   * ERR_ARGUMENT where there is no such tensor, ERR_SHAPE past its end.
   */
  Status read(const std::string& tensor, TrainingPart part, int64_t first, int64_t count, float* values);
  Status write(const std::string& tensor, TrainingPart part, int64_t first, int64_t count, const float* values);
  /** Whether there are such elements. */
  Status check(const std::string& tensor, int64_t first, int64_t count) const;

  /** Bytes of the heads' weights, gradients and moments, and of what the passes work in. */
  int64_t bytes() const;

 private:
  /** Neighbouring rows of one text among those that go through the heads together. */
  struct Piece {
    const TrainingText* text;
    TextScores* scores;
    /** Position of the first row in its text. */
    int64_t first;
    int64_t rows;
  };

  /** A buffer that the passes work in, and the bytes it needs. */
  struct Work {
    Buffer Trainer::*buffer;
    int64_t bytes;
  };

  Trainer(std::shared_ptr<Model> model, const TrainerSpec& spec);
  Status make_weights();
  Status make_projections();
  Status make_workspace();
  /** All of them. */
  std::vector<Work> workspace() const;

  TrainedWeight& block(int64_t head, int64_t index) { return weights_[head * weights_per_head() + 2 * index]; }
  TrainedWeight& bias(int64_t head, int64_t index) { return weights_[head * weights_per_head() + 2 * index + 1]; }
  /** Of heads with projections of their own. */
  TrainedWeight& projection(int64_t head) { return weights_[head * weights_per_head() + 2 * spec_.blocks]; }
  /** -1 if there is none. */
  int64_t index_of(const std::string& tensor) const;
  int64_t weights_per_head() const { return 2 * spec_.blocks + (spec_.private_projection ? 1 : 0); }

  Status check_text(const TrainingText& text) const;
  /** `scales`: null to score only. */
  Status run(const std::vector<TrainingText>& texts, const float* scales, std::vector<TextScores>* scores);
  /** The pieces gathered, `rows` rows in all, through all heads. */
  Status run_chunk(int64_t rows, const float* scales);
  /** From the rows to a head's logits. */
  Status forward(int64_t head, int64_t rows);
  /** From the gradient by its logits to those by its weights. */
  Status backward(int64_t head, int64_t rows);
  /** Rows [row, row + rows) of the chunk: of a text's given ones, or of hidden rows as the last layer leaves them. */
  Status place_given(const std::byte* given, int64_t row, int64_t rows);
  Status place_computed(const float* x, int64_t row, int64_t rows);
  Status forget_gradients();

  DType dtype() const { return model_->weights().dtype; }
  int64_t width() const { return model_->shape().hidden; }
  int64_t operand_stride() const { return model_->backend().layout.operand_stride(width()); }
  /** What a block, or the projection behind the last one, takes. */
  std::byte* operand(int64_t index) const { return operands_.data() + index * operand_bytes_; }
  /** What a block's product gives. */
  float* product(int64_t block) const { return products_.as<float>() + block * chunk_rows_ * model_->hidden_stride(); }

  /** Before all that lives in its memory. */
  std::shared_ptr<Model> model_;
  TrainerSpec spec_;
  /** Head by head: each block's matrix and bias, then the projection. */
  std::vector<TrainedWeight> weights_;
  /** Of the model's lm_head, where it is the projection. */
  Buffer shared_tiles_;
  PackedMatrix shared_transposed_;

  /** Rows that go through the heads together. Sums of gradients follow it, so nothing but the vocabulary and the backend may decide it. */
  int64_t chunk_rows_ = 0;
  int64_t operand_bytes_ = 0;
  std::vector<Piece> pieces_;
  // Of a chunk, in the backend's memory; padding is zero from the allocation on and never written.
  /** Rows after the final norm, and as given, in the model's dtype; their numbers, and a row of zeros. */
  Buffer rows_, given_, numbers_, zeros_;
  /** Of one head after the other: its residual stream; per block what its product gives; what each product takes. */
  Buffer residual_, products_, operands_;
  /** The same backwards: gradients by logits, by the residual stream, by a product. */
  Buffer logits_, logits_gradient_, residual_gradient_, product_gradient_;
  /** [medusa_heads, rows]. */
  Buffer targets_, losses_, ranks_;
  /** f64, per weight. */
  Buffer squares_;
};

}  // namespace gorgon
