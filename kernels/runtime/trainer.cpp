// The passes of training: texts become rows, rows go through one head after the other, forwards and back, a chunk at a time.
#include "runtime/trainer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "ops/adamw.h"
#include "ops/cross_entropy.h"
#include "ops/embed.h"
#include "ops/linear_gradient.h"
#include "ops/pack_weight.h"
#include "ops/residual_silu.h"
#include "ops/residual_silu_gradient.h"
#include "ops/sum_of_squares.h"
#include "ops/tree_attention.h"
#include "ops/unpack_weight.h"
#include "runtime/text_pass.h"

namespace gorgon {

namespace {

constexpr int64_t kFloat = sizeof(float);
constexpr int64_t kMostBlocks = 1024;
/** Chunks are whole blocks of rows, as products take them. */
constexpr int64_t kChunkBlock = 64;
/** Of a chunk's logits: a device is busy with thousands of rows only, since their products are as narrow as the model. */
constexpr int64_t kLogitBytes = int64_t{256} << 20, kDeviceLogitBytes = int64_t{1} << 30;
/** Hidden rows, f32, that are made bytes at a time: they stay in the processor's cache. */
constexpr int64_t kRowBytesTogether = int64_t{2} << 20;

/** As many as memory allows: weights and sums of gradients are gone through once for all of them. */
int64_t rows_of_chunk(const Model& model) {
  const int64_t bytes = model.memory().is_host() ? kLogitBytes : kDeviceLogitBytes;
  const int64_t rows = bytes / (model.shape().vocab * kFloat) / kChunkBlock * kChunkBlock;
  return std::clamp(rows, kChunkBlock, model.prompt_rows());
}

Status check_tokens(const Model& model, const std::vector<int32_t>& tokens) {
  const ModelShape& shape = model.shape();
  if (static_cast<int64_t>(tokens.size()) > shape.max_positions) {
    return {StatusCode::kArgument, "a text is " + std::to_string(tokens.size()) + " tokens long; the model takes " +
                                       std::to_string(shape.max_positions) + ": cut it into windows"};
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] >= 0 && tokens[i] < shape.vocab) continue;
    return {StatusCode::kArgument, "token id " + std::to_string(tokens[i]) + " of a text, at " + std::to_string(i) + ", is not in [0, " +
                                       std::to_string(shape.vocab) + ")"};
  }
  return {};
}

Status check_update(const UpdateSpec& spec) {
  const struct {
    const char* name;
    double value;
    bool good;
  } settings[] = {{"scale", spec.scale, spec.scale > 0.0f},
                  {"clip", spec.clip, spec.clip >= 0.0f},
                  {"learningRate", spec.rate, spec.rate >= 0.0f},
                  {"beta1", spec.beta1, spec.beta1 >= 0.0f && spec.beta1 < 1.0f},
                  {"beta2", spec.beta2, spec.beta2 >= 0.0f && spec.beta2 < 1.0f},
                  {"epsilon", spec.epsilon, spec.epsilon > 0.0f},
                  {"weightDecay", spec.decay, spec.decay >= 0.0f},
                  {"step", static_cast<double>(spec.step), spec.step >= 1}};
  for (const auto& [name, value, good] : settings) {
    if (!good || !std::isfinite(value)) return {StatusCode::kArgument, std::string(name) + " of an update is " + std::to_string(value)};
  }
  return {};
}

/** Rows of hidden states, f32, to the dtype they travel in, without their padding. */
void to_bytes(DType dtype, const float* rows, int64_t stride, int64_t width, int64_t count, std::byte* out) {
  for (int64_t row = 0; row < count; ++row, rows += stride, out += width * dtype_size(dtype)) {
    // Apart, so that the compiler sees one kind of loop.
    if (dtype == DType::kBf16) {
      for (int64_t i = 0; i < width; ++i) store_element(DType::kBf16, out, i, rows[i]);
    } else {
      for (int64_t i = 0; i < width; ++i) store_element(dtype, out, i, rows[i]);
    }
  }
}

/** Positions of a text that some head learns from. */
struct LearntRows {
  int64_t first;
  int64_t end;
};

LearntRows learnt_rows(const TrainingText& text, int64_t medusa_heads) {
  const int64_t end = std::max<int64_t>(static_cast<int64_t>(text.tokens.size()) - 2, 0);
  return {std::min(std::max<int64_t>(text.from - 1 - medusa_heads, 0), end), end};
}

/** Texts through the frozen model, one after the other in the same memory. */
class FrozenPass {
 public:
  explicit FrozenPass(Model& model) : model_(model), cache_(model.make_cache()), hidden_(model.memory()) {}

  /** For texts of up to `tokens`. */
  Status reserve(int64_t tokens) {
    GORGON_TRY(model_.reserve(std::min(model_.prompt_rows(), tokens), 0, 0, 0));
    GORGON_TRY(model_.reserve_positions(tokens));
    for (int64_t layer = 0; layer < model_.shape().layers; ++layer) GORGON_TRY(cache_.reserve(layer, tokens, 0));
    return hidden_.allocate(model_.hidden_bytes(tokens), "hidden rows");
  }

  Status run(const std::vector<int32_t>& tokens) {
    const auto nothing = [](auto...) -> Status { return {}; };
    for (int64_t layer = 0; layer < model_.shape().layers; ++layer) cache_.set_rows(layer, 0);
    return run_text(model_, tokens.data(), static_cast<int64_t>(tokens.size()), model_.prompt_rows(), &hidden_, &cache_, nothing, nothing, nothing);
  }

  /** Of the text that ran last, as the last layer leaves it. */
  const float* row(int64_t position) const { return hidden_.as<float>() + position * model_.hidden_stride(); }

 private:
  Model& model_;
  KvCache cache_;
  Buffer hidden_;
};

}  // namespace

// --- opening

Trainer::Trainer(std::shared_ptr<Model> model, const TrainerSpec& spec)
    : model_(std::move(model)),
      spec_(spec),
      chunk_rows_(rows_of_chunk(*model_)),
      operand_bytes_(round_up(model_->backend().layout.operand_bytes(dtype(), chunk_rows_, width()), AlignedBuffer::kAlignment)) {}

Status Trainer::open(std::shared_ptr<Model> model, const TrainerSpec& spec, std::shared_ptr<Trainer>* out) {
  if (spec.medusa_heads < 1 || spec.medusa_heads > kMaxTreeNodes || spec.blocks < 0 || spec.blocks > kMostBlocks) {
    return {StatusCode::kArgument, std::to_string(spec.medusa_heads) + " heads of " + std::to_string(spec.blocks) + " blocks cannot be trained: 1 to " +
                                       std::to_string(kMaxTreeNodes) + " heads of up to " + std::to_string(kMostBlocks) + " blocks can"};
  }
  if (spec.blocks == 0 && !spec.private_projection) {
    return {StatusCode::kArgument, "heads without blocks that share the model's projection have nothing to learn: use 1 block or more, or private projections"};
  }
  GORGON_TRY(model->context().enter());
  std::shared_ptr<Trainer> trainer(new Trainer(std::move(model), spec));
  GORGON_TRY(trainer->make_weights());
  GORGON_TRY(trainer->make_projections());
  GORGON_TRY(trainer->make_workspace());
  GORGON_TRY(trainer->model_->context().finish());
  *out = std::move(trainer);
  return {};
}

Status Trainer::make_weights() {
  const auto add = [&](const std::string& name, TrainedWeight::Kind kind, int64_t columns) {
    return TrainedWeight::make(*model_, name, kind, columns, width(), &weights_.emplace_back());
  };
  for (int64_t head = 0; head < spec_.medusa_heads; ++head) {
    const std::string prefix = std::to_string(head) + ".";
    for (int64_t index = 0; index < spec_.blocks; ++index) {
      const std::string block = prefix + "block." + std::to_string(index);
      // What a first block was given is frozen: no gradient goes back through it.
      GORGON_TRY(add(block + ".weight", index > 0 ? TrainedWeight::Kind::kProductAndBack : TrainedWeight::Kind::kProduct, width()));
      GORGON_TRY(add(block + ".bias", TrainedWeight::Kind::kBias, width()));
    }
    if (!spec_.private_projection) continue;
    const bool back = spec_.blocks > 0;
    GORGON_TRY(add(prefix + "projection", back ? TrainedWeight::Kind::kProductAndBack : TrainedWeight::Kind::kProduct, model_->shape().vocab));
  }
  return {};
}

Status Trainer::make_projections() {
  const Backend& run = model_->backend();
  Context& context = model_->context();
  const PackedMatrix& lm_head = model_->weights().lm_head.matrix;
  const int64_t bytes = lm_head.columns * lm_head.depth * kFloat;
  if (spec_.private_projection) {
    float* first = projection(0).part(TrainingPart::kWeights);
    GORGON_TRY(run.unpack_weight({lm_head, first}, context));
    for (int64_t head = 1; head < spec_.medusa_heads; ++head) {
      GORGON_TRY(model_->memory().copy(projection(head).part(TrainingPart::kWeights), first, bytes));
    }
    return {};
  }
  Buffer plain(model_->memory());
  GORGON_TRY(plain.allocate(bytes, "heads in training"));
  GORGON_TRY(run.unpack_weight({lm_head, plain.as<float>()}, context));
  GORGON_TRY(allocate_packed(*model_, dtype(), lm_head.depth, lm_head.columns, &shared_tiles_, &shared_transposed_));
  return run.pack_weight({plain.as<float>(), lm_head.columns, lm_head.depth, true, dtype(), shared_tiles_.data()}, context);
}

std::vector<Trainer::Work> Trainer::workspace() const {
  const Layout& layout = model_->backend().layout;
  const int64_t vocab = model_->shape().vocab, hidden_bytes = model_->hidden_bytes(chunk_rows_), results = spec_.medusa_heads * chunk_rows_;
  constexpr int64_t kInt = sizeof(int32_t);
  return {{&Trainer::rows_, hidden_bytes},
          {&Trainer::given_, chunk_rows_ * width() * dtype_size(dtype())},
          {&Trainer::numbers_, chunk_rows_ * kInt},
          {&Trainer::zeros_, model_->hidden_bytes(1)},
          {&Trainer::residual_, hidden_bytes},
          {&Trainer::products_, spec_.blocks * hidden_bytes},
          {&Trainer::operands_, (spec_.blocks + 1) * operand_bytes_},
          {&Trainer::logits_, chunk_rows_ * vocab * kFloat},
          {&Trainer::logits_gradient_, layout.operand_bytes(dtype(), chunk_rows_, vocab)},
          {&Trainer::residual_gradient_, hidden_bytes},
          {&Trainer::product_gradient_, layout.operand_bytes(dtype(), chunk_rows_, width())},
          {&Trainer::targets_, results * kInt},
          {&Trainer::losses_, results * kFloat},
          {&Trainer::ranks_, results * kInt},
          {&Trainer::squares_, static_cast<int64_t>(weights_.size() * sizeof(double))}};
}

Status Trainer::make_workspace() {
  for (const auto& [buffer, bytes] : workspace()) {
    this->*buffer = Buffer(model_->memory());
    GORGON_TRY((this->*buffer).allocate(bytes, "activations of training"));
  }
  std::vector<int32_t> numbers(chunk_rows_);
  std::iota(numbers.begin(), numbers.end(), 0);
  return model_->memory().upload(numbers_.data(), numbers.data(), numbers_.bytes());
}

int64_t Trainer::bytes() const {
  int64_t total = shared_tiles_.bytes();
  for (const TrainedWeight& weight : weights_) total += weight.bytes();
  for (const auto& [buffer, bytes] : workspace()) total += bytes;
  return total;
}

// --- rows of texts

Status Trainer::hidden_rows(const std::vector<int32_t>& tokens, AlignedBuffer* rows) {
  GORGON_TRY(check_tokens(*model_, tokens));
  const int64_t count = static_cast<int64_t>(tokens.size()), stride = model_->hidden_stride(), row_bytes = width() * dtype_size(dtype());
  GORGON_TRY(rows->allocate(count * row_bytes, "hidden rows of a text"));
  if (count == 0) return {};
  GORGON_TRY(model_->context().enter());
  FrozenPass frozen(*model_);
  GORGON_TRY(frozen.reserve(count));
  GORGON_TRY(frozen.run(tokens));
  const int64_t together = std::clamp<int64_t>(kRowBytesTogether / model_->hidden_bytes(1), 1, chunk_rows_);
  std::vector<float> values(std::min(count, together) * stride);
  for (int64_t first = 0; first < count; first += together) {
    const int64_t now = std::min(together, count - first);
    GORGON_TRY(model_->final_rows(frozen.row(first), now, rows_.as<float>()));
    GORGON_TRY(model_->memory().download(values.data(), rows_.data(), model_->hidden_bytes(now)));
    to_bytes(dtype(), values.data(), stride, width(), now, rows->data() + first * row_bytes);
  }
  return model_->context().finish();
}

Status Trainer::place_given(const std::byte* given, int64_t row, int64_t rows) {
  GORGON_TRY(model_->memory().upload(given_.data(), given, rows * width() * dtype_size(dtype())));
  // Of an embedding table whose rows these are, all of them in order.
  return model_->backend().embed({numbers_.as<int32_t>(), rows, given_.data(), dtype(), width(), rows_.as<float>() + row * model_->hidden_stride(),
                                  model_->hidden_stride()},
                                 model_->context());
}

Status Trainer::place_computed(const float* x, int64_t row, int64_t rows) {
  float* out = rows_.as<float>() + row * model_->hidden_stride();
  GORGON_TRY(model_->final_rows(x, rows, out));
  if (dtype() != DType::kF16 || !model_->memory().is_host()) return {};
  // The CPU does not round to f16, but rows that travelled are: heads learn the same from both.
  std::vector<std::byte> rounded(rows * width() * dtype_size(dtype()));
  to_bytes(dtype(), out, model_->hidden_stride(), width(), rows, rounded.data());
  return place_given(rounded.data(), row, rows);
}

Status Trainer::check_text(const TrainingText& text) const {
  GORGON_TRY(check_tokens(*model_, text.tokens));
  const int64_t count = static_cast<int64_t>(text.tokens.size()), bytes = count * width() * dtype_size(dtype());
  if (text.from < 0 || text.from > count) {
    return {StatusCode::kArgument, "from is " + std::to_string(text.from) + " in a text of " + std::to_string(count) + " tokens"};
  }
  if (text.hidden && text.hidden->bytes() != bytes) {
    return {StatusCode::kShape, "hidden rows of a text of " + std::to_string(count) + " tokens are " + std::to_string(bytes) + " bytes here, not " +
                                    std::to_string(text.hidden->bytes())};
  }
  return {};
}

Status Trainer::score(const std::vector<TrainingText>& texts, std::vector<TextScores>* scores) { return run(texts, nullptr, scores); }

Status Trainer::accumulate(const std::vector<TrainingText>& texts, const std::vector<float>& scales, std::vector<TextScores>* scores) {
  if (static_cast<int64_t>(scales.size()) != spec_.medusa_heads) {
    return {StatusCode::kShape, std::to_string(scales.size()) + " scales were given for " + std::to_string(spec_.medusa_heads) + " heads"};
  }
  for (const float scale : scales) {
    if (!std::isfinite(scale)) return {StatusCode::kArgument, "a scale of a head is " + std::to_string(scale)};
  }
  return run(texts, scales.data(), scores);
}

Status Trainer::run(const std::vector<TrainingText>& texts, const float* scales, std::vector<TextScores>* scores) {
  int64_t longest = 0;
  scores->clear();
  for (const TrainingText& text : texts) {
    GORGON_TRY(check_text(text));
    const size_t results = spec_.medusa_heads * text.tokens.size();
    scores->push_back({std::vector<float>(results, 0.0f), std::vector<int32_t>(results, -1)});
    const LearntRows learnt = learnt_rows(text, spec_.medusa_heads);
    if (!text.hidden && learnt.first < learnt.end) longest = std::max<int64_t>(longest, text.tokens.size());
  }
  GORGON_TRY(model_->context().enter());
  FrozenPass frozen(*model_);
  if (longest > 0) GORGON_TRY(frozen.reserve(longest));
  for (TrainedWeight& weight : weights_) GORGON_TRY(weight.refresh(*model_));

  /** Gradients of half a call are worth nothing. */
  struct Forgetting {
    Trainer* trainer;
    ~Forgetting() {
      if (trainer != nullptr) static_cast<void>(trainer->forget_gradients());
    }
  } forgetting{scales != nullptr ? this : nullptr};
  pieces_.clear();
  int64_t filled = 0;
  for (size_t i = 0; i < texts.size(); ++i) {
    const TrainingText& text = texts[i];
    const LearntRows learnt = learnt_rows(text, spec_.medusa_heads);
    if (learnt.first == learnt.end) continue;
    if (!text.hidden) GORGON_TRY(frozen.run(text.tokens));
    for (int64_t first = learnt.first; first < learnt.end;) {
      const int64_t rows = std::min(learnt.end - first, chunk_rows_ - filled);
      GORGON_TRY(text.hidden ? place_given(text.hidden->data() + first * width() * dtype_size(dtype()), filled, rows)
                             : place_computed(frozen.row(first), filled, rows));
      pieces_.push_back({&text, &(*scores)[i], first, rows});
      first += rows;
      filled += rows;
      if (filled < chunk_rows_) continue;
      GORGON_TRY(run_chunk(filled, scales));
      filled = 0;
    }
  }
  if (filled > 0) GORGON_TRY(run_chunk(filled, scales));
  GORGON_TRY(model_->context().finish());
  forgetting.trainer = nullptr;
  return {};
}

// --- the heads

Status Trainer::run_chunk(int64_t rows, const float* scales) {
  const Backend& run = model_->backend();
  Context& context = model_->context();
  Memory& memory = model_->memory();
  const int64_t heads = spec_.medusa_heads, vocab = model_->shape().vocab, results = heads * rows;
  std::vector<int32_t> targets, ranks(results);
  std::vector<float> losses(results);
  targets.reserve(results);
  for (int64_t head = 0; head < heads; ++head) {
    for (const Piece& piece : pieces_) {
      const std::vector<int32_t>& tokens = piece.text->tokens;
      for (int64_t t = piece.first + 2 + head; t < piece.first + piece.rows + 2 + head; ++t) {
        targets.push_back(t >= piece.text->from && t < static_cast<int64_t>(tokens.size()) ? tokens[t] : -1);
      }
    }
  }
  GORGON_TRY(memory.upload(targets_.data(), targets.data(), results * static_cast<int64_t>(sizeof(int32_t))));

  // The rows as an operand: they are what a block gives whose product is zero.
  GORGON_TRY(memory.copy(residual_.data(), rows_.data(), model_->hidden_bytes(rows)));
  GORGON_TRY(run.residual_silu({zeros_.as<float>(), 0, rows, width(), residual_.as<float>(), model_->hidden_stride(), dtype(), operand(0), operand_stride()},
                               context));
  for (int64_t head = 0; head < heads; ++head) {
    GORGON_TRY(forward(head, rows));
    GORGON_TRY(run.cross_entropy({logits_.as<float>(), vocab, rows, vocab, targets_.as<int32_t>() + head * rows, scales != nullptr ? scales[head] : 0.0f,
                                  losses_.as<float>() + head * rows, ranks_.as<int32_t>() + head * rows, dtype(),
                                  scales != nullptr ? logits_gradient_.data() : nullptr, model_->backend().layout.operand_stride(vocab)},
                                 context));
    if (scales != nullptr) GORGON_TRY(backward(head, rows));
  }

  GORGON_TRY(memory.download(losses.data(), losses_.data(), results * kFloat));
  GORGON_TRY(memory.download(ranks.data(), ranks_.data(), results * static_cast<int64_t>(sizeof(int32_t))));
  int64_t from = 0;
  for (int64_t head = 0; head < heads; ++head) {
    for (const Piece& piece : pieces_) {
      const int64_t to = head * static_cast<int64_t>(piece.text->tokens.size()) + piece.first;
      std::copy_n(losses.begin() + from, piece.rows, piece.scores->losses.begin() + to);
      std::copy_n(ranks.begin() + from, piece.rows, piece.scores->ranks.begin() + to);
      from += piece.rows;
    }
  }
  pieces_.clear();
  return {};
}

Status Trainer::forward(int64_t head, int64_t rows) {
  const Backend& run = model_->backend();
  Context& context = model_->context();
  const int64_t stride = model_->hidden_stride(), vocab = model_->shape().vocab;
  float* z = residual_.as<float>();
  if (spec_.blocks > 0) GORGON_TRY(model_->memory().copy(z, rows_.data(), model_->hidden_bytes(rows)));
  for (int64_t index = 0; index < spec_.blocks; ++index) {
    GORGON_TRY(run.linear({operand(index), operand_stride(), rows, block(head, index).matrix(), bias(head, index).rounded(), product(index), stride, false, true},
                          context));
    GORGON_TRY(run.residual_silu({product(index), stride, rows, width(), z, stride, dtype(), operand(index + 1), operand_stride()}, context));
  }
  const PackedMatrix& projection = spec_.private_projection ? this->projection(head).matrix() : model_->weights().lm_head.matrix;
  return run.linear({operand(spec_.blocks), operand_stride(), rows, projection, nullptr, logits_.as<float>(), vocab, false, true}, context);
}

Status Trainer::backward(int64_t head, int64_t rows) {
  const Backend& run = model_->backend();
  Context& context = model_->context();
  const int64_t stride = model_->hidden_stride(), vocab = model_->shape().vocab, vocab_stride = run.layout.operand_stride(vocab);
  if (spec_.private_projection) {
    float* gradient = projection(head).part(TrainingPart::kGradient);
    GORGON_TRY(run.linear_gradient({logits_gradient_.data(), vocab_stride, operand(spec_.blocks), operand_stride(), rows, vocab, width(), dtype(), gradient, nullptr},
                                   context));
  }
  if (spec_.blocks == 0) return {};
  const PackedMatrix& projection = spec_.private_projection ? this->projection(head).transposed() : shared_transposed_;
  float* dz = residual_gradient_.as<float>();
  GORGON_TRY(run.linear({logits_gradient_.data(), vocab_stride, rows, projection, nullptr, dz, stride, false, true}, context));
  for (int64_t index = spec_.blocks - 1; index >= 0; --index) {
    GORGON_TRY(run.residual_silu_gradient({product(index), stride, dz, stride, rows, width(), dtype(), product_gradient_.data(), operand_stride()}, context));
    GORGON_TRY(run.linear_gradient({product_gradient_.data(), operand_stride(), operand(index), operand_stride(), rows, width(), width(), dtype(),
                                    block(head, index).part(TrainingPart::kGradient), bias(head, index).part(TrainingPart::kGradient)},
                                   context));
    if (index == 0) break;
    GORGON_TRY(run.linear({product_gradient_.data(), operand_stride(), rows, block(head, index).transposed(), nullptr, dz, stride, true, true}, context));
  }
  return {};
}

// --- the weights

Status Trainer::forget_gradients() {
  for (const TrainedWeight& weight : weights_) {
    GORGON_TRY(model_->memory().fill(weight.part(TrainingPart::kGradient), 0, weight.elements() * kFloat));
  }
  return {};
}

Status Trainer::update(const UpdateSpec& spec, double* norm) {
  GORGON_TRY(check_update(spec));
  const Backend& run = model_->backend();
  Context& context = model_->context();
  GORGON_TRY(context.enter());
  std::vector<double> squares(weights_.size());
  for (size_t i = 0; i < weights_.size(); ++i) {
    GORGON_TRY(run.sum_of_squares({weights_[i].part(TrainingPart::kGradient), weights_[i].elements(), squares_.as<double>() + i}, context));
  }
  GORGON_TRY(model_->memory().download(squares.data(), squares_.data(), squares_.bytes()));
  *norm = std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0)) * spec.scale;
  if (!std::isfinite(*norm)) {
    GORGON_TRY(forget_gradients());
    return context.finish();
  }
  const double clipped = spec.clip > 0.0f && *norm > spec.clip ? spec.clip / *norm : 1.0;
  const auto correction = [&](float beta) { return static_cast<float>(1.0 - std::pow(static_cast<double>(beta), static_cast<double>(spec.step))); };
  for (TrainedWeight& weight : weights_) {
    GORGON_TRY(run.adamw({weight.part(TrainingPart::kWeights), weight.part(TrainingPart::kMean), weight.part(TrainingPart::kVariance),
                          weight.part(TrainingPart::kGradient), weight.elements(), static_cast<float>(spec.scale * clipped), spec.rate, spec.beta1, spec.beta2,
                          spec.epsilon, weight.is_bias() ? 0.0f : spec.decay, correction(spec.beta1), correction(spec.beta2)},
                         context));
    weight.values_changed();
  }
  return context.finish();
}

int64_t Trainer::index_of(const std::string& tensor) const {
  for (size_t i = 0; i < weights_.size(); ++i) {
    if (weights_[i].name() == tensor) return static_cast<int64_t>(i);
  }
  return -1;
}

Status Trainer::check(const std::string& tensor, int64_t first, int64_t count) const {
  const int64_t index = index_of(tensor);
  if (index < 0) return {StatusCode::kArgument, "\"" + tensor + "\" is not a tensor of the heads in training"};
  if (first >= 0 && count >= 0 && first <= weights_[index].elements() - count) return {};
  return {StatusCode::kShape, std::to_string(count) + " elements from " + std::to_string(first) + " on were asked for of \"" + tensor + "\", which has " +
                                  std::to_string(weights_[index].elements())};
}

Status Trainer::read(const std::string& tensor, TrainingPart part, int64_t first, int64_t count, float* values) {
  GORGON_TRY(check(tensor, first, count));
  GORGON_TRY(model_->context().enter());
  return model_->memory().download(values, weights_[index_of(tensor)].part(part) + first, count * kFloat);
}

Status Trainer::write(const std::string& tensor, TrainingPart part, int64_t first, int64_t count, const float* values) {
  GORGON_TRY(check(tensor, first, count));
  GORGON_TRY(model_->context().enter());
  TrainedWeight& weight = weights_[index_of(tensor)];
  GORGON_TRY(model_->memory().upload(weight.part(part) + first, values, count * kFloat));
  if (part == TrainingPart::kWeights) weight.values_changed();
  return model_->context().finish();
}

}  // namespace gorgon
