// gated_linear on the CPU: one product over both weights, then the gate.
#include "ops/gated_linear.h"

#include "ops/linear.h"
#include "ops/silu_mul.h"

namespace gorgon::GORGON_ISA {

Status gated_linear_cpu(const GatedLinearArgs& args, CpuContext& context) {
  const int64_t columns = args.w.columns;
  GORGON_TRY(linear_cpu({args.x, args.x_stride, args.rows, args.w, args.bias, args.workspace, columns, false, args.prompt}, context));
  return silu_mul_cpu({args.workspace, columns, args.rows, columns / 2, args.dtype, args.out, args.out_stride}, context);
}

}  // namespace gorgon::GORGON_ISA
