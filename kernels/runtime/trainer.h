// Trainer: Medusa heads in training on a frozen model: their weights in f32, gradients, AdamW's moments, and the passes over texts.
//
// A head h at position t stands for the token at t + 2 + h. Its loss there is the cross entropy of its distribution and that token; positions
// whose token does not exist, or comes before a text's `from`, have no loss.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/model.h"

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
  /** Hidden rows as Trainer::hidden_rows gave them; empty: the model computes them. */
  std::vector<std::byte> hidden;
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

/** What is kept of each weight. */
enum class TrainingPart { kWeights, kMean, kVariance, kGradient };

class Trainer {
 public:
  /** Blocks begin as zeros, which make a head the model's own guess. ERR_OUT_OF_MEMORY leaves nothing behind. */
  static Status open(std::shared_ptr<Model> model, const TrainerSpec& spec, std::shared_ptr<Trainer>* out);

  Model& model() const { return *model_; }

  // What follows needs the model's mutex.

  /** [T, C] of the model's dtype: a text's rows after the final norm, as heads take them. */
  Status hidden_rows(const std::vector<int32_t>& tokens, std::vector<std::byte>* rows);
  /** Losses and ranks of texts as the heads are now. */
  Status score(const std::vector<TrainingText>& texts, std::vector<TextScores>* scores);
  /** The same; and adds to the gradients, of head h times scales[h]. */
  Status accumulate(const std::vector<TrainingText>& texts, const std::vector<float>& scales, std::vector<TextScores>* scores);
  /**
   * One step of AdamW by the gradients gathered, which are zero afterwards. `norm` is theirs, scaled, before clipping. If it is not finite
   * nothing changes but the gradients, which are forgotten.
   */
  Status update(const UpdateSpec& spec, double* norm);

  /** Elements of a tensor by its role in HeadsSpec (`H.block.R.weight`, `H.block.R.bias`, `H.projection`); -1 if there is none. */
  int64_t elements(const std::string& tensor) const;
  /** Elements [first, first + count) of a tensor's part. */
  Status read(const std::string& tensor, TrainingPart part, int64_t first, int64_t count, float* values);
  Status write(const std::string& tensor, TrainingPart part, int64_t first, int64_t count, const float* values);

  /** Bytes of the heads' weights, gradients and moments, and of what the passes work in. */
  int64_t bytes() const;

 private:
  Trainer() = default;
  std::shared_ptr<Model> model_;
};

}  // namespace gorgon
