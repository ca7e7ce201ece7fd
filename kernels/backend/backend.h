// Backend: the table of operations that an implementation fills, how it lays out what they share, and the choice of one.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/context.h"
#include "common/packed.h"

namespace gorgon {

#define GORGON_SHARED_OPERATIONS(operation)      \
  operation(embed, EmbedArgs)                    \
  operation(rms_norm, RmsNormArgs)               \
  operation(linear, LinearArgs)                  \
  operation(gated_linear, GatedLinearArgs)       \
  operation(rope_angles, RopeAnglesArgs)         \
  operation(rope_append, RopeAppendArgs)         \
  operation(kv_gather, KvGatherArgs)             \
  operation(causal_attention, CausalAttentionArgs) \
  operation(tree_attention, TreeAttentionArgs)   \
  operation(silu_mul, SiluMulArgs)               \
  operation(medusa_heads, MedusaHeadsArgs)       \
  operation(top_k, TopKArgs)                     \
  operation(posterior, PosteriorArgs)            \
  operation(attention_votes, AttentionVotesArgs) \
  operation(snapkv_select, SnapkvSelectArgs)     \
  operation(cross_entropy, CrossEntropyArgs)     \
  operation(linear_gradient, LinearGradientArgs) \
  operation(residual_silu, ResidualSiluArgs)     \
  operation(residual_silu_gradient, ResidualSiluGradientArgs) \
  operation(pack_weight, PackWeightArgs)         \
  operation(unpack_weight, UnpackWeightArgs)     \
  operation(adamw, AdamwArgs)                    \
  operation(sum_of_squares, SumOfSquaresArgs)    \
  operation(stream_read, StreamReadArgs)

/** Parts of others on the CPU, and a yardstick of processors: null in CUDA's table. */
#define GORGON_CPU_OPERATIONS(operation) \
  operation(rope, RopeArgs)              \
  operation(kv_append, KvAppendArgs)     \
  operation(multiply_add, MultiplyAddArgs)

#define GORGON_OPERATIONS(operation)   \
  GORGON_SHARED_OPERATIONS(operation) \
  GORGON_CPU_OPERATIONS(operation)

#define GORGON_DECLARE_ARGS(name, Args) struct Args;
GORGON_OPERATIONS(GORGON_DECLARE_ARGS)
#undef GORGON_DECLARE_ARGS

/** What a context is made for. */
struct ContextSpec {
  /** Of the CPU; 0: one per physical core. */
  int threads = 0;
  /** Of CUDA: its number, and bytes of its memory that may be used; 0: all that is free. */
  int device = 0;
  int64_t memory_budget = 0;
};

/** Rows of a row-major weight in the process's memory, to be packed as rows of a larger one. */
struct PackArgs {
  /** May be unaligned; not int8. */
  const void* source;
  DType from;
  int64_t rows;
  int64_t depth;
  /** The packed weight, zeroed before its first rows came; `columns` is all of its rows, both parts' of a gated one. */
  void* tiles;
  DType to;
  int64_t columns;
  /** Its row that the first one becomes; of a gated weight's up projection `columns` / 2. */
  int64_t offset;
  bool gated;
  /** The first row with a value that is NaN or infinite, which int8 has not; -1 if there is none. */
  int64_t* bad_row;
};

/** How a backend lays out what its operations hand to each other. */
struct Layout {
  /** Rows of a cache that are reserved together, and the bytes of their K and V. */
  int64_t kv_row_group;
  int64_t (*k_group_bytes)(DType dtype, int64_t head_dim);
  int64_t (*v_group_bytes)(DType dtype, int64_t head_dim);
  /** Operand rows (common/operand.h): their bytes, and the stride that operations are told. */
  int64_t (*operand_bytes)(DType dtype, int64_t rows, int64_t depth);
  int64_t (*operand_stride)(int64_t depth);
  /** Query rows: elements of a head, and bytes of an element. */
  int64_t (*query_width)(int64_t head_dim);
  int64_t (*query_element_bytes)(DType dtype);
  /** Whether gated_linear needs its workspace. */
  bool (*needs_gate_workspace)(DType packed, const Context& context);
  int64_t (*packed_bytes)(DType dtype, int64_t columns, int64_t depth, bool gated);
  Status (*pack)(const PackArgs& args, Context& context);
  /** A packed weight, or any array, of random numbers of about this deviation; null where synthetic models cannot be made. */
  Status (*fill_random)(void* values, DType dtype, int64_t columns, int64_t depth, bool gated, float deviation, uint64_t seed, Context& context);
  /** Whether embedding tables are read where the file is mapped. */
  bool maps_embeddings;
  /** Rows of a prompt that go through a layer together: weights are read once for them. */
  int64_t prompt_rows;
};

struct Backend {
  const char* name;
  /** Instruction set; the only one of its name that this table was compiled for. */
  const char* isa;
  bool (*usable)();
  /** Whether its code runs on this device; of the CPU always, and of a device that does not exist, which make_context refuses. */
  bool (*fits)(int device);
  Status (*make_context)(const ContextSpec& spec, std::unique_ptr<Context>* out);
  Layout layout;
#define GORGON_DECLARE_OPERATION(name, Args) Status (*name)(const Args& args, Context& context);
  GORGON_OPERATIONS(GORGON_DECLARE_OPERATION)
#undef GORGON_DECLARE_OPERATION
};

/** Every table of this build, in order of preference. */
const std::vector<const Backend*>& backends();

/** The first usable table of backend `name` and instruction set `isa`, each or `auto`, that fits the device; an error lists what exists. */
Status select_backend(const std::string& name, const std::string& isa, int device, const Backend** out);

/** A GPU. */
struct Device {
  std::string name;
  int64_t memory_bytes = 0;
  int major = 0;
  int minor = 0;
  int multiprocessors = 0;
};

/** This machine's GPUs by number, those that are too old included; empty where CUDA cannot be started. */
std::vector<Device> cuda_devices();

/** What CUDA runs on here, or why it cannot. */
std::string cuda_detail();

}  // namespace gorgon
