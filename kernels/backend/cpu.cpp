// The CPU table of one instruction set: compiled once for each.
#include "backend/cpu.h"

#include "common/context.h"
#include "ops/adamw.h"
#include "ops/attention_votes.h"
#include "ops/causal_attention.h"
#include "ops/cross_entropy.h"
#include "ops/embed.h"
#include "ops/gated_linear.h"
#include "ops/kv_append.h"
#include "ops/kv_gather.h"
#include "ops/linear.h"
#include "ops/linear_gradient.h"
#include "ops/medusa_heads.h"
#include "ops/multiply_add.h"
#include "ops/pack_weight.h"
#include "ops/posterior.h"
#include "ops/residual_silu.h"
#include "ops/residual_silu_gradient.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/rope_angles.h"
#include "ops/rope_append.h"
#include "ops/silu_mul.h"
#include "ops/snapkv_select.h"
#include "ops/stream_read.h"
#include "ops/sum_of_squares.h"
#include "ops/top_k.h"
#include "ops/tree_attention.h"
#include "ops/unpack_weight.h"

namespace gorgon::GORGON_ISA {

namespace {

#define GORGON_FORWARD_OPERATION(name, Args) \
  Status name(const Args& args, Context& context) { return name##_cpu(args, static_cast<CpuContext&>(context)); }
GORGON_OPERATIONS(GORGON_FORWARD_OPERATION)
#undef GORGON_FORWARD_OPERATION

}  // namespace

void fill_cpu_table(Backend& table) {
#define GORGON_FILL_OPERATION(operation, Args) table.operation = operation;
  GORGON_OPERATIONS(GORGON_FILL_OPERATION)
#undef GORGON_FILL_OPERATION
}

}  // namespace gorgon::GORGON_ISA
