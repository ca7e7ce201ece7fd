// Backend: the table of operations that an implementation fills, and the choice of one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/context.h"

namespace gorgon {

#define GORGON_OPERATIONS(operation)             \
  operation(embed, EmbedArgs)                    \
  operation(rms_norm, RmsNormArgs)               \
  operation(linear, LinearArgs)                  \
  operation(rope, RopeArgs)                      \
  operation(kv_append, KvAppendArgs)             \
  operation(kv_gather, KvGatherArgs)             \
  operation(causal_attention, CausalAttentionArgs) \
  operation(tree_attention, TreeAttentionArgs)   \
  operation(silu_mul, SiluMulArgs)               \
  operation(medusa_heads, MedusaHeadsArgs)       \
  operation(top_k, TopKArgs)                     \
  operation(posterior, PosteriorArgs)            \
  operation(attention_votes, AttentionVotesArgs) \
  operation(snapkv_select, SnapkvSelectArgs)     \
  operation(stream_read, StreamReadArgs)         \
  operation(multiply_add, MultiplyAddArgs)

#define GORGON_DECLARE_ARGS(name, Args) struct Args;
GORGON_OPERATIONS(GORGON_DECLARE_ARGS)
#undef GORGON_DECLARE_ARGS

struct Backend {
  const char* name;
  /** Instruction set; the only one of its name that this table was compiled for. */
  const char* isa;
  bool (*usable)();
  std::unique_ptr<Context> (*make_context)(int threads);
#define GORGON_DECLARE_OPERATION(name, Args) Status (*name)(const Args& args, Context& context);
  GORGON_OPERATIONS(GORGON_DECLARE_OPERATION)
#undef GORGON_DECLARE_OPERATION
};

/** Every table of this build, in order of preference. */
const std::vector<const Backend*>& backends();

/** The first usable table of backend `name` and instruction set `isa`, each or `auto`; an error lists what exists. */
Status select_backend(const std::string& name, const std::string& isa, const Backend** out);

/** Why there is no CUDA table in this build. */
const char* cuda_detail();

}  // namespace gorgon
