// The phases. Each checks its whole list before it touches anything, so that a refused call changes nothing.
#include "runtime/session.h"

#include <algorithm>

#include "ops/attention_split.h"
#include "ops/kv_gather.h"
#include "ops/top_k.h"

namespace gorgon {

namespace {

/** Rows of one decoding pass: larger batches are split, which changes nobody's numbers. */
constexpr int64_t kPassRows = 512;
/** Bytes of the states of one pass's attention. */
constexpr int64_t kStateBytes = int64_t{1} << 30;
/** Rows whose logits exist at once. */
constexpr int64_t kLogitRows = kMaxTreeNodes;
Status bad_state(const char* phase) {
  return {StatusCode::kState, std::string(phase) + " cannot run now: a turn is beginPrefill, prefill until it has a result, then verify and commit in turns"};
}

/** So that the next `count` tokens are appended without allocating; capacity at least doubles where it grows. */
void make_room(std::vector<int32_t>& tokens, size_t count) {
  const size_t wanted = tokens.size() + count;
  if (tokens.capacity() < wanted) tokens.reserve(std::max(wanted, 2 * tokens.capacity()));
}

Status check_drafts(const Model& model, int64_t medusa_heads, int64_t top_k) {
  const int64_t heads = static_cast<int64_t>(model.weights().heads.size()), most = std::min<int64_t>(kMaxTopK, model.draft_vocab());
  if (medusa_heads >= 0 && medusa_heads <= heads && top_k >= 0 && top_k <= most) return {};
  return {StatusCode::kArgument, "the model has " + std::to_string(heads) + " Medusa heads with up to " + std::to_string(most) + " drafts each; " +
                                     std::to_string(medusa_heads) + " with " + std::to_string(top_k) + " were asked for"};
}

}  // namespace

Session::Session(std::shared_ptr<Model> model)
    : model_(std::move(model)), cache_(model_->make_cache()), hidden_(model_->memory()), path_(model_->memory()) {}

int64_t Session::cache_bytes() const {
  int64_t bytes = 0;
  for (int64_t layer = 0; layer < model_->shape().layers; ++layer) bytes += cache_.layer_bytes(cache_.rows(layer));
  return bytes;
}

// --- prefill

Status Session::begin_prefill(PrefillSpec spec) {
  const ModelShape& shape = model_->shape();
  if (state_ == State::kFailed) return bad_state("beginPrefill after a failed call");
  const int64_t count = static_cast<int64_t>(spec.tokens.size());
  if (count == 0) return {StatusCode::kArgument, "a prompt needs at least one token"};
  for (const int32_t token : spec.tokens) {
    if (token < 0 || token >= shape.vocab) {
      return {StatusCode::kArgument, "token id " + std::to_string(token) + " is not in [0, " + std::to_string(shape.vocab) + ")"};
    }
  }
  for (const std::vector<int32_t>* ids : {&spec.sampling.bias_ids, &spec.sampling.suppressed_ids}) {
    for (const int32_t id : *ids) {
      if (id < 0 || id >= shape.vocab) return {StatusCode::kArgument, "token id " + std::to_string(id) + " of the sampling options is out of range"};
    }
  }
  if (spec.sampling.bias_ids.size() != spec.sampling.bias_values.size()) return {StatusCode::kShape, "biasIds and biasValues differ in length"};
  if (spec.sampling.logprobs > kMaxTopK || spec.sampling.logprobs > shape.vocab) return {StatusCode::kArgument, "too many logprobs"};
  if (position() + count > shape.max_positions) {
    return {StatusCode::kArgument, "the session would be " + std::to_string(position() + count) + " tokens long; the model takes " +
                                       std::to_string(shape.max_positions)};
  }
  GORGON_TRY(check_drafts(*model_, spec.medusa_heads, spec.top_k));
  if (state_ == State::kPrefilling && turn_->compression && turn_->layer > 0) return bad_state("beginPrefill over a prompt that is half compressed");
  if (spec.compression) GORGON_TRY(check_compression(*spec.compression));

  Turn turn;
  turn.hidden = Buffer(model_->memory());
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    turn.rows_before.push_back(state_ == State::kPrefilling ? turn_->rows_before[layer] : cache_.rows(layer));
  }
  const int64_t rows = turn.rows_before[0];
  // A budget that is not smaller than the cache changes nothing.
  if (spec.compression && rows + count > spec.compression->budget) turn.compression = std::make_unique<Compression>(*model_, *spec.compression, rows, count);
  turn.medusa_heads = spec.medusa_heads;
  turn.top_k = spec.medusa_heads > 0 ? std::max<int64_t>(spec.top_k, 1) : 0;
  turn.tokens = std::move(spec.tokens);
  make_room(tokens_, turn.tokens.size());
  const bool penalties = has_penalties(spec.sampling.params);
  std::vector<uint8_t> in_prompt(penalties ? shape.vocab : 0);
  std::vector<int32_t> output_counts(in_prompt.size());
  if (penalties) {
    for (const int32_t token : tokens_) in_prompt[token] = 1;
    for (const int32_t token : turn.tokens) in_prompt[token] = 1;
  }

  // Nothing fails from here on. A turn that was not finished is dropped.
  for (int64_t layer = 0; layer < shape.layers; ++layer) cache_.set_rows(layer, turn.rows_before[layer]);
  sampling_ = std::move(spec.sampling);
  SamplingParams& params = sampling_.params;
  params.bias_ids = sampling_.bias_ids.data();
  params.bias_values = sampling_.bias_values.data();
  params.bias_count = static_cast<int64_t>(sampling_.bias_ids.size());
  params.suppressed_ids = sampling_.suppressed_ids.data();
  params.suppressed_count = static_cast<int64_t>(sampling_.suppressed_ids.size());
  generated_ = 0;
  in_prompt_ = std::move(in_prompt);
  output_counts_ = std::move(output_counts);
  turn_ = std::move(turn);
  state_ = State::kPrefilling;
  return {};
}

Status Session::prefill(const std::vector<std::shared_ptr<Session>>& batch, std::vector<PrefillProgress>* out) {
  out->resize(batch.size());
  for (const auto& session : batch) {
    if (session->state_ != State::kPrefilling) return bad_state("prefill");
  }
  if (batch.empty()) return {};
  Context& context = batch[0]->model_->context();
  GORGON_TRY(context.enter());
  for (const auto& session : batch) GORGON_TRY(session->reserve_chunk());
  for (size_t i = 0; i < batch.size(); ++i) GORGON_TRY(batch[i]->prefill_chunk(&(*out)[i]));
  const Status done = context.finish();
  if (!done.ok()) {  // a device fails only now
    for (const auto& session : batch) session->state_ = State::kFailed;
  }
  return done;
}

int64_t Session::chunk_of(const Turn& turn) const { return std::min(model_->prompt_rows(), static_cast<int64_t>(turn.tokens.size()) - turn.first); }

Status Session::reserve_hidden() {
  if (hidden_.bytes() == 0) GORGON_TRY(hidden_.allocate(model_->hidden_bytes(kMaxTreeNodes), "hidden rows"));
  return path_.bytes() == 0 ? path_.allocate(kMaxTreeNodes * static_cast<int64_t>(sizeof(int32_t)), "hidden rows") : Status();
}

Status Session::reserve_chunk() {
  Turn& turn = *turn_;
  const int64_t tokens = static_cast<int64_t>(turn.tokens.size());
  GORGON_TRY(model_->reserve(chunk_of(turn), 1, 1, turn.medusa_heads));
  GORGON_TRY(model_->reserve_positions(position() + turn.first + chunk_of(turn)));
  if (turn.first > 0) return {};
  GORGON_TRY(reserve_hidden());
  if (turn.hidden.bytes() == 0) GORGON_TRY(turn.hidden.allocate(model_->hidden_bytes(tokens), "hidden rows"));
  if (turn.compression) {
    GORGON_TRY(cache_.reserve(turn.layer, turn.rows_before[turn.layer] + tokens, 0));
    return turn.compression->begin_layer();
  }
  // All layers before the first runs: a prompt that does not fit is refused at once, not minutes later.
  for (int64_t layer = turn.layer; layer < model_->shape().layers; ++layer) {
    GORGON_TRY(cache_.reserve(layer, turn.rows_before[layer] + tokens, kSpareRows));
  }
  return {};
}

Status Session::prefill_chunk(PrefillProgress* out) {
  Turn& turn = *turn_;
  const int64_t tokens = static_cast<int64_t>(turn.tokens.size()), layers = model_->shape().layers;
  const int64_t count = chunk_of(turn);
  state_ = State::kFailed;  // until the chunk is done
  GORGON_TRY(run_chunk(turn, count));
  out->total = tokens * layers;
  out->done = turn.layer * tokens + turn.first + count;
  turn.first += count;
  if (turn.first == tokens) {
    if (turn.compression) GORGON_TRY(turn.compression->finish_layer(turn.layer, cache_, position()));
    turn.first = 0;
    ++turn.layer;
  }
  if (turn.layer < layers) {
    state_ = State::kPrefilling;
    return {};
  }
  GORGON_TRY(finish_prefill(turn, out));
  turn_.reset();
  state_ = State::kReady;
  return {};
}

Status Session::run_chunk(Turn& turn, int64_t count) {
  const int64_t tokens = static_cast<int64_t>(turn.tokens.size()), layer = turn.layer, rows = turn.rows_before[layer] + turn.first;
  float* x = turn.hidden.as<float>() + turn.first * model_->hidden_stride();
  const RowSegment segment{&cache_, count, rows, position() + turn.first, turn.tokens.data() + turn.first, nullptr, nullptr, 0, 0};
  GORGON_TRY(model_->begin_pass(&segment, 1));
  if (layer == 0) GORGON_TRY(model_->embed(x));

  // After the last layer only the prompt's last row is read.
  const bool last_layer = layer + 1 == model_->shape().layers;
  const int64_t needed = !last_layer ? count : turn.first + count == tokens ? 1 : 0;
  GORGON_TRY(model_->forward_layer(layer, needed, x));
  cache_.set_rows(layer, rows + count);
  if (turn.compression) GORGON_TRY(turn.compression->see_chunk(layer, cache_, position(), turn.first, count));
  return {};
}

Status Session::finish_prefill(Turn& turn, PrefillProgress* out) {
  const int64_t tokens = static_cast<int64_t>(turn.tokens.size());
  const float* last = turn.hidden.as<float>() + (tokens - 1) * model_->hidden_stride();
  GORGON_TRY(model_->memory().copy(hidden_.data(), last, model_->hidden_bytes(1)));
  split_rows_ = attention_split_rows(rows());
  const float* logits;
  GORGON_TRY(model_->logits(last, 1, &logits));
  tokens_.insert(tokens_.end(), turn.tokens.begin(), turn.tokens.end());

  Drafts drafts;
  PosteriorNode node = posterior_prototype();
  node.logits = logits;
  node.position = position();
  Logprobs logprobs;
  if (node.logprobs >= 0) {
    logprobs.top_ids.resize(node.logprobs);
    logprobs.top_values.resize(node.logprobs);
    node.top_ids = logprobs.top_ids.data();
    node.top_values = logprobs.top_values.data();
  }
  GORGON_TRY(model_->backend().posterior({&node, 1, model_->shape().vocab}, model_->context()));
  drafts.root = node.chosen;
  if (node.logprobs >= 0) {
    logprobs.chosen = {node.chosen_logprob};
    drafts.logprobs = std::move(logprobs);
  }
  if (turn.medusa_heads > 0) {
    drafts.tokens.resize(turn.medusa_heads * turn.top_k);
    GORGON_TRY(model_->memory().copy(model_->draft_rows(), hidden_.data(), model_->hidden_bytes(1)));
    GORGON_TRY(model_->drafts(1, turn.medusa_heads, turn.top_k, drafts.tokens.data()));
  }
  out->drafts = std::move(drafts);
  if (turn.compression) out->compression = turn.compression->report();
  return {};
}

Status Session::assume_prefill(int64_t tokens) {
  if (state_ != State::kIdle) return bad_state("assumePrefill");
  const int64_t rows = round_up(tokens, cache_.row_group());
  if (tokens < 1 || rows > model_->shape().max_positions) {
    return {StatusCode::kArgument, "a prompt of " + std::to_string(tokens) + " tokens cannot be assumed; the model takes 1 to " +
                                       std::to_string(model_->shape().max_positions)};
  }
  GORGON_TRY(model_->context().enter());
  GORGON_TRY(reserve_hidden());
  for (int64_t layer = 0; layer < model_->shape().layers; ++layer) GORGON_TRY(cache_.reserve(layer, rows, kSpareRows));
  for (int64_t layer = 0; layer < model_->shape().layers; ++layer) GORGON_TRY(cache_.fill(layer, rows));
  GORGON_TRY(model_->context().finish());
  split_rows_ = attention_split_rows(rows);
  tokens_.assign(rows, 0);
  state_ = State::kReady;
  return {};
}

PosteriorNode Session::posterior_prototype() const {
  PosteriorNode node{};
  node.sampling = &sampling_.params;
  node.in_prompt = in_prompt_.empty() ? nullptr : in_prompt_.data();
  node.output_counts = output_counts_.empty() ? nullptr : output_counts_.data();
  node.generated = generated_;
  node.logprobs = sampling_.logprobs;
  return node;
}

// --- verify

Status Session::check_verify(const DraftTree& tree) const {
  if (state_ != State::kReady && state_ != State::kVerified) return bad_state("verify");
  if (position() + tree.depth() + 1 > model_->shape().max_positions) {
    return {StatusCode::kArgument, "the tree reaches position " + std::to_string(position() + tree.depth()) + "; the model takes " +
                                       std::to_string(model_->shape().max_positions)};
  }
  return {};
}

/** How much a pass takes, as sessions are added to it. */
class Session::PassSize {
 public:
  /** Whether it was added: anything is, if `alone`. */
  bool add(const Session& session, bool alone) {
    const int64_t tokens = tokens_ + session.tree_.nodes(), most_rows = std::max(most_rows_, session.rows() + session.tree_.nodes());
    const int64_t split_rows = alone ? session.split_rows_ : std::min(split_rows_, session.split_rows_);
    const ModelShape& shape = session.model_->shape();
    // A device's attention has a state for every query and split, of the longest cache by the smallest split.
    const int64_t states = tokens * shape.query_heads * (divide_up(most_rows, split_rows) + 1);
    const int64_t state_bytes = session.model_->memory().is_host() ? 0 : states * (shape.head_dim + 2) * static_cast<int64_t>(sizeof(float));
    if (!alone && (tokens > kPassRows || state_bytes > kStateBytes)) return false;
    tokens_ = tokens;
    most_rows_ = most_rows;
    split_rows_ = split_rows;
    return true;
  }

 private:
  int64_t tokens_ = 0;
  int64_t most_rows_ = 0;
  int64_t split_rows_ = 0;
};

Status Session::verify(const std::vector<VerifyItem>& batch, std::vector<Posterior>* out) {
  if (batch.empty()) return {};
  Model& model = *batch[0].session->model_;
  GORGON_TRY(model.context().enter());
  std::vector<DraftTree> trees(batch.size());
  int64_t all_rows = 0;
  for (size_t i = 0; i < batch.size(); ++i) {
    GORGON_TRY(DraftTree::make(batch[i].tokens, batch[i].parents, model.shape().vocab, &trees[i]));
    GORGON_TRY(batch[i].session->check_verify(trees[i]));
    all_rows += trees[i].nodes();
  }
  for (size_t i = 0; i < batch.size(); ++i) {
    GORGON_TRY(model.reserve_positions(batch[i].session->position() + trees[i].depth() + 1));
    KvCache& cache = batch[i].session->cache_;
    for (int64_t layer = 0; layer < model.shape().layers; ++layer) {
      // A quarter more than it has, so that a long text is not copied over and over.
      GORGON_TRY(cache.reserve(layer, cache.rows(layer) + trees[i].nodes(), kSpareRows + cache.rows(layer) / 4));
    }
  }
  GORGON_TRY(model.reserve(std::min(all_rows, kPassRows), std::min(all_rows, kLogitRows), 0, 0));
  out->resize(batch.size());
  for (size_t i = 0; i < batch.size(); ++i) batch[i].session->tree_ = std::move(trees[i]);
  for (size_t first = 0; first < batch.size();) {
    size_t last = first;
    PassSize size;
    while (last < batch.size() && size.add(*batch[last].session, last == first)) ++last;
    for (size_t i = first; i < last; ++i) batch[i].session->state_ = State::kFailed;  // until the pass is done
    GORGON_TRY(verify_pass(batch.data() + first, last - first, out->data() + first));
    for (size_t i = first; i < last; ++i) batch[i].session->state_ = State::kVerified;
    first = last;
  }
  return {};
}

Status Session::verify_pass(const VerifyItem* items, size_t count, Posterior* out) {
  Model& model = *items[0].session->model_;
  std::vector<RowSegment> segments;
  for (size_t i = 0; i < count; ++i) {
    Session& session = *items[i].session;
    const DraftTree& tree = session.tree_;
    segments.push_back({&session.cache_, tree.nodes(), session.rows(), session.position(), tree.tokens.data(), tree.depths.data(), tree.paths.data(),
                        tree.path_stride, session.split_rows_});
  }
  GORGON_TRY(model.begin_pass(segments.data(), static_cast<int64_t>(count)));
  const float* logits;
  GORGON_TRY(model.decode(&logits));
  const float* x = model.residual();
  for (size_t i = 0; i < count; ++i) {
    Session& session = *items[i].session;
    const int64_t nodes = session.tree_.nodes();
    GORGON_TRY(model.memory().copy(session.hidden_.data(), x, model.hidden_bytes(nodes)));
    x += nodes * model.hidden_stride();
  }
  if (logits != nullptr) return answer_nodes(items, count, logits, out);

  // More rows than logits may exist at once: some sessions at a time.
  x = model.residual();
  for (size_t first = 0; first < count;) {
    size_t last = first;
    int64_t group_rows = 0;
    while (last < count && (last == first || group_rows + items[last].session->tree_.nodes() <= kLogitRows)) {
      group_rows += items[last++].session->tree_.nodes();
    }
    GORGON_TRY(model.logits(x, group_rows, &logits));
    GORGON_TRY(answer_nodes(items + first, last - first, logits, out + first));
    x += group_rows * model.hidden_stride();
    first = last;
  }
  return {};
}

Status Session::answer_nodes(const VerifyItem* items, size_t count, const float* logits, Posterior* out) {
  Model& model = *items[0].session->model_;
  const int64_t vocab = model.shape().vocab;
  std::vector<TreePosterior> trees;
  trees.reserve(count);  // requests point into them
  std::vector<PosteriorNode> nodes;
  for (size_t i = 0; i < count; ++i) {
    Session& session = *items[i].session;
    trees.emplace_back(session.tree_, session.posterior_prototype(), session.position(), items[i].typical);
    trees.back().append_requests(logits + static_cast<int64_t>(nodes.size()) * vocab, vocab, &nodes);
  }
  GORGON_TRY(model.backend().posterior({nodes.data(), static_cast<int64_t>(nodes.size()), vocab}, model.context()));
  const PosteriorNode* answers = nodes.data();
  for (size_t i = 0; i < count; ++i) {
    Session& session = *items[i].session;
    out[i] = session.posterior_ = trees[i].collect(answers);
    answers += session.tree_.nodes();
  }
  return {};
}

// --- commit

Status Session::check_commit(const CommitItem& item) const {
  if (state_ != State::kVerified) return bad_state("commit");
  GORGON_TRY(tree_.check_path(item.path));
  return check_drafts(*model_, item.medusa_heads, item.top_k);
}

void Session::count_output(int32_t token) {
  tokens_.push_back(token);
  ++generated_;
  if (!output_counts_.empty()) ++output_counts_[token];
}

Status Session::keep_path(const std::vector<int32_t>& path, Drafts* out) {
  const ModelShape& shape = model_->shape();
  const int64_t length = static_cast<int64_t>(path.size());
  bool moved = false;
  for (int64_t i = 0; i < length; ++i) moved = moved || path[i] != i;
  if (moved) {  // in all layers at once: they have equally many rows
    GORGON_TRY(model_->memory().upload(path_.data(), path.data(), length * static_cast<int64_t>(sizeof(int32_t))));
    GORGON_TRY(model_->backend().kv_gather({cache_.heads(), shape.layers * shape.kv_heads, shape.head_dim, model_->weights().dtype, rows(),
                                            path_.as<int32_t>(), 0, length},
                                           model_->context()));
  }
  for (int64_t layer = 0; layer < shape.layers; ++layer) cache_.set_rows(layer, cache_.rows(layer) + length);
  for (const int32_t node : path) count_output(tree_.tokens[node]);
  out->root = posterior_.chosen[path.back()];
  if (posterior_.logprobs) out->logprobs = posterior_.logprobs->row(path.back(), sampling_.logprobs);
  return {};
}

Status Session::commit(const std::vector<CommitItem>& batch, std::vector<Drafts>* out) {
  for (const CommitItem& item : batch) GORGON_TRY(item.session->check_commit(item));
  if (batch.empty()) return {};
  Model& model = *batch[0].session->model_;
  GORGON_TRY(model.context().enter());
  int64_t drafting = 0, medusa_heads = 0, top_k = 1;
  for (const CommitItem& item : batch) {
    make_room(item.session->tokens_, item.path.size());
    if (item.medusa_heads == 0) continue;
    ++drafting;
    medusa_heads = std::max(medusa_heads, item.medusa_heads);
    top_k = std::max(top_k, item.top_k);
  }
  GORGON_TRY(model.reserve(0, 0, drafting, medusa_heads));
  std::vector<int32_t> ids(medusa_heads * drafting * top_k);
  out->resize(batch.size());

  int64_t row = 0;
  for (size_t i = 0; i < batch.size(); ++i) {
    Session& session = *batch[i].session;
    session.state_ = State::kFailed;  // until all is done
    GORGON_TRY(session.keep_path(batch[i].path, &(*out)[i]));
    if (batch[i].medusa_heads > 0) {
      float* survivor = model.draft_rows() + row++ * model.hidden_stride();
      GORGON_TRY(model.memory().copy(survivor, session.hidden_.as<float>() + batch[i].path.back() * model.hidden_stride(), model.hidden_bytes(1)));
    }
  }
  // Every session gets as many heads and ranks as the hungriest; each takes what it asked for.
  if (drafting > 0) GORGON_TRY(model.drafts(drafting, medusa_heads, top_k, ids.data()));
  row = 0;
  for (size_t i = 0; i < batch.size(); ++i) {
    if (batch[i].medusa_heads > 0) {
      const int64_t k = std::max<int64_t>(batch[i].top_k, 1);
      for (int64_t h = 0; h < batch[i].medusa_heads; ++h) {
        const int32_t* best = ids.data() + (h * drafting + row) * top_k;
        (*out)[i].tokens.insert((*out)[i].tokens.end(), best, best + k);
      }
      ++row;
    }
    batch[i].session->state_ = State::kReady;
  }
  return {};
}

}  // namespace gorgon
