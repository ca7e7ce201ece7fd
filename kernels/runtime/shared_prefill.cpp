// Layer by layer: the rows run over a cache of their own; then each branch copies the layer and compresses its copy.
#include "runtime/shared_prefill.h"

#include <algorithm>
#include <memory>

#include "ops/attention_split.h"
#include "runtime/text_pass.h"

namespace gorgon {

namespace {

/** A branch at work. */
struct Runner {
  Branch* branch;
  KvCache cache;
  /** Null when all rows stay. */
  std::unique_ptr<Compression> compression;
};

Status check(const Model& model, const std::vector<int32_t>& prompt, int64_t chunk, int64_t count, const std::vector<Branch>& branches) {
  const int64_t tokens = static_cast<int64_t>(prompt.size());
  if (tokens < 1 || chunk < 1 || count < 1 || tokens + count > model.shape().max_positions) {
    return {StatusCode::kArgument, "a prompt of " + std::to_string(tokens) + " tokens and " + std::to_string(count) + " after it, in chunks of " +
                                       std::to_string(chunk) + ", cannot run"};
  }
  for (const int32_t token : prompt) {
    if (token < 0 || token >= model.shape().vocab) return {StatusCode::kArgument, "token id " + std::to_string(token) + " is out of range"};
  }
  for (const Branch& branch : branches) {
    if (branch.compression) GORGON_TRY(check_compression(*branch.compression));
  }
  return {};
}

Status run_prompt(Model& model, const std::vector<int32_t>& prompt, int64_t chunk, std::vector<Runner>& runners, int32_t* root) {
  const int64_t tokens = static_cast<int64_t>(prompt.size());
  KvCache rows = model.make_cache();
  Buffer hidden(model.memory());
  const auto begin_layer = [&](int64_t) -> Status {
    for (Runner& runner : runners) {
      if (runner.compression) GORGON_TRY(runner.compression->begin_layer());
    }
    return {};
  };
  const auto after_chunk = [&](int64_t layer, int64_t first, int64_t count) -> Status {
    for (Runner& runner : runners) {
      if (runner.compression) GORGON_TRY(runner.compression->see_chunk(layer, rows, 0, first, count));
    }
    return {};
  };
  const auto after_layer = [&](int64_t layer) -> Status {
    for (Runner& runner : runners) {
      GORGON_TRY(runner.cache.copy_layer(rows, layer, runner.compression ? 0 : kSpareRows));
      if (runner.compression) GORGON_TRY(runner.compression->finish_layer(layer, runner.cache, 0));
    }
    rows.set_rows(layer, 0);
    return rows.shrink(layer, 0);
  };
  GORGON_TRY(run_text(model, prompt.data(), tokens, chunk, &hidden, &rows, begin_layer, after_chunk, after_layer));
  const float* logits;
  GORGON_TRY(model.logits(hidden.as<float>() + (tokens - 1) * model.hidden_stride(), 1, &logits));
  return model.likeliest(logits, 1, root);
}

/** One more token for each: a tree of one node per branch, all in one pass. */
Status step(Model& model, const std::vector<Runner*>& running, int64_t position) {
  static constexpr int32_t kRoot = 0;
  const int64_t count = static_cast<int64_t>(running.size());
  std::vector<RowSegment> segments;
  for (Runner* runner : running) {
    const int64_t rows = runner->cache.rows(0);
    for (int64_t layer = 0; layer < model.shape().layers; ++layer) GORGON_TRY(runner->cache.reserve(layer, rows + 1, kSpareRows));
    segments.push_back({&runner->cache, 1, rows, position, &runner->branch->tokens.back(), &kRoot, &kRoot, 1, attention_split_rows(runner->branch->rows_kept)});
  }
  GORGON_TRY(model.begin_pass(segments.data(), count));
  const float* logits;
  GORGON_TRY(model.decode(&logits));
  for (Runner* runner : running) {
    for (int64_t layer = 0; layer < model.shape().layers; ++layer) runner->cache.set_rows(layer, runner->cache.rows(layer) + 1);
  }
  std::vector<int32_t> ids(count);
  GORGON_TRY(model.likeliest(logits, count, ids.data()));
  for (int64_t i = 0; i < count; ++i) running[i]->branch->tokens.push_back(ids[i]);
  return {};
}

}  // namespace

Status continue_greedily(Model& model, const std::vector<int32_t>& prompt, int64_t chunk, int64_t count, const std::vector<int32_t>& stop_ids,
                         std::vector<Branch>* branches) {
  GORGON_TRY(check(model, prompt, chunk, count, *branches));
  GORGON_TRY(model.context().enter());
  const int64_t tokens = static_cast<int64_t>(prompt.size());
  std::vector<Runner> runners;
  for (Branch& branch : *branches) {
    // A budget that is not smaller than the prompt changes nothing.
    const bool compresses = branch.compression && tokens > branch.compression->budget;
    runners.push_back({&branch, model.make_cache(), compresses ? std::make_unique<Compression>(model, *branch.compression, 0, tokens) : nullptr});
  }
  GORGON_TRY(model.reserve(std::min(chunk, tokens), 1, 0, 0));
  int32_t root = 0;
  GORGON_TRY(run_prompt(model, prompt, chunk, runners, &root));
  for (Runner& runner : runners) {
    runner.branch->rows_kept = runner.cache.rows(0);
    runner.branch->tokens = {root};
  }
  const int64_t branch_count = static_cast<int64_t>(runners.size());
  GORGON_TRY(model.reserve(branch_count, branch_count, 0, 0));
  for (int64_t made = 1; made < count; ++made) {
    std::vector<Runner*> running;
    for (Runner& runner : runners) {
      const int32_t last = runner.branch->tokens.back();
      if (std::find(stop_ids.begin(), stop_ids.end(), last) == stop_ids.end()) running.push_back(&runner);
    }
    // Those that have stopped have fewer tokens; the others are all equally far.
    if (running.empty()) break;
    GORGON_TRY(step(model, running, tokens + made - 1));
  }
  return {};
}

}  // namespace gorgon
