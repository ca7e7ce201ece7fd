// The phases. Each checks its whole list before it touches anything, so that a refused call changes nothing.
#include "runtime/session.h"

#include <algorithm>
#include <limits>

#include "ops/kv_gather.h"
#include "ops/top_k.h"
#include "ops/tree_attention.h"

namespace gorgon {

namespace {

/** Rows of a prompt that go through a layer together: weights are read once per chunk, and a call stays short enough to interleave. */
constexpr int64_t kPrefillRows = 512;
/** Rows of one decoding pass: larger batches are split, which changes nobody's numbers. */
constexpr int64_t kPassRows = 512;
/** Rows whose logits exist at once. */
constexpr int64_t kLogitRows = kMaxTreeNodes;
/** Rows a cache may grow by before it has to be moved again. */
constexpr int64_t kSpareRows = 256;

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

Session::Session(std::shared_ptr<Model> model) : model_(std::move(model)), cache_(model_->kv_shape()) {}

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
  if (spec.compression) {
    const CompressionSpec& c = *spec.compression;
    const int64_t protect = c.policy == KvPolicy::kStreaming ? c.sinks : c.window;
    if (c.budget < 1 || protect < 0 || c.window < 0 || protect >= c.budget || c.pool_size < 1 || c.pool_size % 2 == 0) {
      return {StatusCode::kArgument, "compression: budget " + std::to_string(c.budget) + ", window " + std::to_string(c.window) + ", pool size " +
                                         std::to_string(c.pool_size) + " do not go together"};
    }
    if (c.policy != KvPolicy::kStreaming && c.window < 1) return {StatusCode::kArgument, "compression needs a window of at least one token"};
  }

  Turn turn;
  const int64_t row_bytes = model_->hidden_stride() * static_cast<int64_t>(sizeof(float));
  if (hidden_.bytes() == 0) GORGON_TRY(hidden_.allocate(kMaxTreeNodes * row_bytes, "hidden rows"));
  GORGON_TRY(turn.hidden.allocate(count * row_bytes, "hidden rows"));
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
  const SamplingParams& asked = spec.sampling.params;
  const bool penalties = asked.repetition_penalty != 1.0f || asked.frequency_penalty != 0.0f || asked.presence_penalty != 0.0f;
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
  for (const auto& session : batch) GORGON_TRY(session->reserve_chunk());
  for (size_t i = 0; i < batch.size(); ++i) GORGON_TRY(batch[i]->prefill_chunk(&(*out)[i]));
  return {};
}

int64_t Session::chunk_of(const Turn& turn) { return std::min(kPrefillRows, static_cast<int64_t>(turn.tokens.size()) - turn.first); }

Status Session::reserve_chunk() {
  Turn& turn = *turn_;
  const int64_t tokens = static_cast<int64_t>(turn.tokens.size());
  GORGON_TRY(model_->reserve(chunk_of(turn), 1, 1, turn.medusa_heads));
  if (turn.first > 0) return {};
  GORGON_TRY(cache_.reserve(turn.layer, turn.rows_before[turn.layer] + tokens, turn.compression ? 0 : kSpareRows));
  return turn.compression ? turn.compression->begin_layer() : Status();
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
  const int64_t tokens = static_cast<int64_t>(turn.tokens.size()), layer = turn.layer, stride = model_->hidden_stride();
  float* x = turn.hidden.as<float>() + turn.first * stride;
  if (layer == 0) GORGON_TRY(model_->embed(turn.tokens.data() + turn.first, count, x));
  const int64_t first_position = position() + turn.first;
  std::vector<int32_t> positions(count);
  for (int64_t i = 0; i < count; ++i) positions[i] = static_cast<int32_t>(first_position + i);
  GORGON_TRY(model_->set_positions(positions.data(), count));

  // After the last layer only the prompt's last row is read.
  const bool last_layer = layer + 1 == model_->shape().layers;
  const int64_t needed = !last_layer ? count : turn.first + count == tokens ? 1 : 0;
  const RowSegment segment{&cache_, count, first_position, nullptr, nullptr, 0};
  GORGON_TRY(model_->forward_layer(layer, &segment, 1, count, needed, x));
  cache_.set_rows(layer, turn.rows_before[layer] + turn.first + count);
  if (turn.compression) GORGON_TRY(turn.compression->see_chunk(layer, cache_, position(), turn.first, count));
  return {};
}

Status Session::finish_prefill(Turn& turn, PrefillProgress* out) {
  const int64_t stride = model_->hidden_stride(), tokens = static_cast<int64_t>(turn.tokens.size());
  GORGON_TRY(model_->final_norm(turn.hidden.as<float>() + (tokens - 1) * stride, 1, hidden_.as<float>()));
  const float* logits;
  GORGON_TRY(model_->logits(hidden_.as<float>(), 1, &logits));
  tokens_.insert(tokens_.end(), turn.tokens.begin(), turn.tokens.end());

  Drafts drafts;
  PosteriorNode node = posterior_node(logits);
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
    GORGON_TRY(model_->drafts(hidden_.as<float>(), 1, turn.medusa_heads, turn.top_k, drafts.tokens.data()));
  }
  out->drafts = std::move(drafts);
  if (turn.compression) out->compression = turn.compression->report();
  return {};
}

PosteriorNode Session::posterior_node(const float* logits) const {
  PosteriorNode node{};
  node.logits = logits;
  node.sampling = &sampling_.params;
  node.in_prompt = in_prompt_.empty() ? nullptr : in_prompt_.data();
  node.output_counts = output_counts_.empty() ? nullptr : output_counts_.data();
  node.generated = generated_;
  node.logprobs = sampling_.logprobs;
  return node;
}

// --- verify

Status Session::check_verify(const VerifyItem& item) {
  if (state_ != State::kReady && state_ != State::kVerified) return bad_state("verify");
  const int64_t nodes = static_cast<int64_t>(item.tokens.size());
  if (nodes < 1 || nodes > kMaxTreeNodes) return {StatusCode::kShape, "a tree has 1 to 64 nodes, this one " + std::to_string(nodes)};
  if (item.parents.size() != item.tokens.size()) return {StatusCode::kShape, "tokens and parents differ in length"};
  int64_t depth = 0;
  std::vector<int64_t> depths(nodes, 0);
  for (int64_t n = 0; n < nodes; ++n) {
    if (item.tokens[n] < 0 || item.tokens[n] >= model_->shape().vocab) {
      return {StatusCode::kArgument, "node " + std::to_string(n) + " has token id " + std::to_string(item.tokens[n]) + ", out of range"};
    }
    if (n == 0 ? item.parents[0] != -1 : (item.parents[n] < 0 || item.parents[n] >= n)) {
      return {StatusCode::kShape, "node " + std::to_string(n) + " has parent " + std::to_string(item.parents[n]) + ": parents come before children"};
    }
    depths[n] = n == 0 ? 0 : depths[item.parents[n]] + 1;
    depth = std::max(depth, depths[n]);
  }
  if (position() + depth + 1 > model_->shape().max_positions) {
    return {StatusCode::kArgument, "the tree reaches position " + std::to_string(position() + depth) + "; the model takes " +
                                       std::to_string(model_->shape().max_positions)};
  }
  return {};
}

Session::Tree Session::tree_of(const VerifyItem& item) {
  Tree tree;
  tree.tokens = item.tokens;
  tree.parents = item.parents;
  const int64_t nodes = tree.nodes();
  tree.depths.assign(nodes, 0);
  for (int64_t n = 1; n < nodes; ++n) tree.depths[n] = tree.depths[tree.parents[n]] + 1;
  tree.path_stride = *std::max_element(tree.depths.begin(), tree.depths.end()) + 1;
  tree.paths.assign(nodes * tree.path_stride, 0);
  for (int64_t n = 0; n < nodes; ++n) {
    for (int64_t ancestor = n; ancestor >= 0; ancestor = tree.parents[ancestor]) {
      tree.paths[n * tree.path_stride + tree.depths[ancestor]] = static_cast<int32_t>(ancestor);
    }
  }
  return tree;
}

Status Session::verify(const std::vector<VerifyItem>& batch, std::vector<Posterior>* out) {
  for (const VerifyItem& item : batch) GORGON_TRY(item.session->check_verify(item));
  int64_t all_rows = 0, most_nodes = 0;
  for (const VerifyItem& item : batch) {
    KvCache& cache = item.session->cache_;
    const int64_t nodes = static_cast<int64_t>(item.tokens.size());
    for (int64_t layer = 0; layer < item.session->model_->shape().layers; ++layer) {
      GORGON_TRY(cache.reserve(layer, cache.rows(layer) + nodes, kSpareRows));
    }
    all_rows += nodes;
    most_nodes = std::max(most_nodes, nodes);
  }
  if (batch.empty()) return {};
  GORGON_TRY(batch[0].session->model_->reserve(std::min(all_rows, kPassRows), most_nodes, 0, 0));
  out->resize(batch.size());
  for (size_t first = 0; first < batch.size();) {
    size_t last = first;
    int64_t rows = 0;
    while (last < batch.size() && (last == first || rows + static_cast<int64_t>(batch[last].tokens.size()) <= kPassRows)) {
      rows += static_cast<int64_t>(batch[last++].tokens.size());
    }
    for (size_t i = first; i < last; ++i) batch[i].session->state_ = State::kFailed;  // until the pass is done
    GORGON_TRY(verify_pass(batch.data() + first, last - first, out->data() + first));
    for (size_t i = first; i < last; ++i) batch[i].session->state_ = State::kVerified;
    first = last;
  }
  return {};
}

Status Session::verify_pass(const VerifyItem* items, size_t count, Posterior* out) {
  Model& model = *items[0].session->model_;
  const ModelShape& shape = model.shape();
  const int64_t stride = model.hidden_stride(), row_bytes = stride * static_cast<int64_t>(sizeof(float));

  std::vector<RowSegment> segments;
  std::vector<int32_t> tokens, positions;
  for (size_t i = 0; i < count; ++i) {
    Session& session = *items[i].session;
    session.tree_ = tree_of(items[i]);
    const Tree& tree = session.tree_;
    segments.push_back({&session.cache_, tree.nodes(), session.position(), tree.depths.data(), tree.paths.data(), tree.path_stride});
    for (int64_t n = 0; n < tree.nodes(); ++n) {
      tokens.push_back(tree.tokens[n]);
      positions.push_back(static_cast<int32_t>(session.position() + tree.depths[n]));
    }
  }
  const int64_t rows = static_cast<int64_t>(tokens.size());
  AlignedBuffer x;
  GORGON_TRY(x.allocate(rows * row_bytes, "hidden rows"));
  GORGON_TRY(model.embed(tokens.data(), rows, x.as<float>()));
  GORGON_TRY(model.set_positions(positions.data(), rows));
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    GORGON_TRY(model.forward_layer(layer, segments.data(), static_cast<int64_t>(count), rows, rows, x.as<float>()));
  }

  int64_t row = 0;
  for (size_t i = 0; i < count; ++i) {
    Session& session = *items[i].session;
    const Tree& tree = session.tree_;
    const int64_t nodes = tree.nodes();
    float* hidden = session.hidden_.as<float>();
    GORGON_TRY(model.final_norm(x.as<float>() + row * stride, nodes, hidden));
    const float* logits;
    static_assert(kLogitRows >= kMaxTreeNodes, "one session's logits exist at once");
    GORGON_TRY(model.logits(hidden, nodes, &logits));

    // Children in node order: a child's place in its parent's list is found again when the results are spread.
    const int64_t logprobs = session.sampling_.logprobs, tops = std::max<int64_t>(logprobs, 0);
    std::vector<std::vector<int32_t>> children(nodes), child_tokens(nodes);
    std::vector<int32_t> path_tokens(nodes * tree.path_stride);
    for (int64_t n = 0; n < nodes; ++n) {
      if (n > 0) {
        children[tree.parents[n]].push_back(static_cast<int32_t>(n));
        child_tokens[tree.parents[n]].push_back(tree.tokens[n]);
      }
      for (int64_t d = 0; d <= tree.depths[n]; ++d) path_tokens[n * tree.path_stride + d] = tree.tokens[tree.paths[n * tree.path_stride + d]];
    }
    Posterior posterior;
    Logprobs lists;
    lists.top_ids.resize(nodes * tops);
    lists.top_values.resize(nodes * tops);
    std::vector<float> child_prob(nodes), child_logprob(nodes);
    std::vector<PosteriorNode> requests(nodes);
    int64_t child = 0;
    for (int64_t n = 0; n < nodes; ++n) {
      PosteriorNode& request = requests[n];
      request = session.posterior_node(logits + n * shape.vocab);
      request.position = session.position() + tree.depths[n] + 1;
      request.path_tokens = path_tokens.data() + n * tree.path_stride;
      request.path_count = tree.depths[n] + 1;
      request.child_tokens = child_tokens[n].data();
      request.child_count = static_cast<int64_t>(child_tokens[n].size());
      request.typical = items[i].typical;
      request.child_prob = child_prob.data() + child;
      request.child_logprob = child_logprob.data() + child;
      request.top_ids = lists.top_ids.data() + n * tops;
      request.top_values = lists.top_values.data() + n * tops;
      child += request.child_count;
    }
    GORGON_TRY(model.backend().posterior({requests.data(), nodes, shape.vocab}, model.context()));

    posterior.chosen.resize(nodes);
    if (items[i].typical) {
      posterior.entropy.resize(nodes);
      posterior.token_prob.assign(nodes, 1.0f);
    }
    if (logprobs >= 0) {
      lists.chosen.resize(nodes);
      posterior.token_logprob.assign(nodes, std::numeric_limits<float>::quiet_NaN());
    }
    for (int64_t n = 0; n < nodes; ++n) {
      const PosteriorNode& result = requests[n];
      posterior.chosen[n] = result.chosen;
      if (items[i].typical) posterior.entropy[n] = result.entropy;
      if (logprobs >= 0) lists.chosen[n] = result.chosen_logprob;
      for (size_t c = 0; c < children[n].size(); ++c) {
        if (items[i].typical) posterior.token_prob[children[n][c]] = result.child_prob[c];
        if (logprobs >= 0) posterior.token_logprob[children[n][c]] = result.child_logprob[c];
      }
    }
    if (logprobs >= 0) posterior.logprobs = std::move(lists);
    session.tree_.posterior = posterior;
    out[i] = std::move(posterior);
    row += nodes;
  }
  return {};
}

// --- commit

Status Session::check_commit(const CommitItem& item) const {
  if (state_ != State::kVerified) return bad_state("commit");
  if (item.path.empty() || item.path[0] != 0) return {StatusCode::kShape, "a path starts at node 0"};
  for (size_t i = 1; i < item.path.size(); ++i) {
    const int32_t node = item.path[i];
    if (node < 0 || node >= tree_.nodes() || tree_.parents[node] != item.path[i - 1]) {
      return {StatusCode::kShape, "node " + std::to_string(node) + " does not continue the path"};
    }
  }
  return check_drafts(*model_, item.medusa_heads, item.top_k);
}

void Session::count_output(int32_t token) {
  tokens_.push_back(token);
  ++generated_;
  if (!output_counts_.empty()) ++output_counts_[token];
}

Status Session::commit(const std::vector<CommitItem>& batch, std::vector<Drafts>* out) {
  for (const CommitItem& item : batch) GORGON_TRY(item.session->check_commit(item));
  if (batch.empty()) return {};
  Model& model = *batch[0].session->model_;
  const ModelShape& shape = model.shape();
  const int64_t stride = model.hidden_stride();
  int64_t to_draft = 0, medusa_heads = 0, top_k = 1;
  for (const CommitItem& item : batch) {
    make_room(item.session->tokens_, item.path.size());
    if (item.medusa_heads == 0) continue;
    ++to_draft;
    medusa_heads = std::max(medusa_heads, item.medusa_heads);
    top_k = std::max(top_k, item.top_k);
  }
  AlignedBuffer rows;  // the surviving hidden rows of the sessions that draft
  GORGON_TRY(rows.allocate(to_draft * stride * static_cast<int64_t>(sizeof(float)), "hidden rows"));
  GORGON_TRY(model.reserve(0, 0, to_draft, medusa_heads));
  std::vector<int32_t> ids(medusa_heads * to_draft * top_k);
  int64_t drafting = 0;
  out->resize(batch.size());
  for (size_t i = 0; i < batch.size(); ++i) {
    Session& session = *batch[i].session;
    const std::vector<int32_t>& path = batch[i].path;
    const int64_t length = static_cast<int64_t>(path.size());
    session.state_ = State::kFailed;  // until the rows are in place
    for (int64_t layer = 0; layer < shape.layers; ++layer) {
      GORGON_TRY(model.backend().kv_gather({session.cache_.heads(layer), shape.kv_heads, shape.head_dim, model.weights().dtype,
                                            session.cache_.rows(layer), path.data(), 0, length},
                                           model.context()));
      session.cache_.set_rows(layer, session.cache_.rows(layer) + length);
    }
    for (const int32_t node : path) session.count_output(session.tree_.tokens[node]);

    const int32_t last = path.back();
    const Posterior& posterior = session.tree_.posterior;
    Drafts& drafts = (*out)[i];
    drafts.root = posterior.chosen[last];
    if (posterior.logprobs) {
      const int64_t tops = session.sampling_.logprobs;
      Logprobs logprobs;
      logprobs.chosen = {posterior.logprobs->chosen[last]};
      logprobs.top_ids.assign(posterior.logprobs->top_ids.begin() + last * tops, posterior.logprobs->top_ids.begin() + (last + 1) * tops);
      logprobs.top_values.assign(posterior.logprobs->top_values.begin() + last * tops, posterior.logprobs->top_values.begin() + (last + 1) * tops);
      drafts.logprobs = std::move(logprobs);
    }
    if (batch[i].medusa_heads > 0) {
      std::memcpy(rows.as<float>() + drafting++ * stride, session.hidden_.as<float>() + last * stride, stride * sizeof(float));
    }
    session.state_ = State::kReady;
  }
  if (drafting == 0) return {};

  // Every session gets as many heads and ranks as the hungriest; each takes what it asked for.
  GORGON_TRY(model.drafts(rows.as<float>(), drafting, medusa_heads, top_k, ids.data()));
  int64_t row = 0;
  for (size_t i = 0; i < batch.size(); ++i) {
    if (batch[i].medusa_heads == 0) continue;
    const int64_t k = std::max<int64_t>(batch[i].top_k, 1);
    for (int64_t h = 0; h < batch[i].medusa_heads; ++h) {
      const int32_t* best = ids.data() + (h * drafting + row) * top_k;
      (*out)[i].tokens.insert((*out)[i].tokens.end(), best, best + k);
    }
    ++row;
  }
  return {};
}

}  // namespace gorgon
