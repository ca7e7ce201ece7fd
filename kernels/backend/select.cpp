// The tables of this build in order of preference, and the choice of one by name.
#include "backend/cpu.h"
#include "common/amx.h"
#include "common/context.h"
#include "ops/kv_layout.h"
#include "ops/linear.h"
#if defined(GORGON_CUDA)
#include "backend/cuda.h"
#endif

#include <cmath>

namespace gorgon {

namespace {

Status make_cpu_context(const ContextSpec& spec, std::unique_ptr<Context>* out) {
  *out = std::make_unique<CpuContext>(spec.threads > 0 ? spec.threads : physical_cores());
  return {};
}

int64_t operand_stride(int64_t depth) { return round_up(depth, kTileDepth); }
int64_t operand_bytes(DType, int64_t rows, int64_t depth) { return rows * operand_stride(depth) * static_cast<int64_t>(sizeof(float)); }
int64_t query_element_bytes(DType) { return sizeof(float); }
bool needs_gate_workspace(DType, const Context&) { return true; }
int64_t packed_bytes(DType dtype, int64_t columns, int64_t depth, bool) { return packed_weight_bytes(dtype, columns, depth); }

/** A gated weight's parts lie side by side. */
Status pack(const PackArgs& args, Context& context) {
  auto* tiles = static_cast<std::byte*>(args.tiles);
  static_cast<CpuContext&>(context).pool.run_ranges(divide_up(args.rows, kTileColumns), [&](int64_t begin, int64_t end, int) {
    const int64_t last = end * kTileColumns < args.rows ? end * kTileColumns : args.rows;
    pack_columns(args.source, args.from, tiles, args.to, args.depth, args.offset, begin * kTileColumns, last);
  });
  *args.bad_row = -1;
  if (args.to != DType::kInt8) return {};
  const PackedMatrix matrix = packed_weight(tiles, args.to, args.columns, args.depth);
  for (int64_t n = 0; n < args.rows && *args.bad_row < 0; ++n) {
    const int64_t column = args.offset + n;
    if (!std::isfinite(matrix.scales(column / kTileColumns)[column % kTileColumns])) *args.bad_row = n;
  }
  return {};
}

constexpr Layout kCpuLayout = {kRowGroup,    k_group_bytes, v_group_bytes, operand_bytes, operand_stride, operand_stride, query_element_bytes,
                               needs_gate_workspace, packed_bytes,  pack,          nullptr,       true,           512};

bool always() { return true; }
bool fits_always(int) { return true; }
#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq");
}
#endif
#if defined(GORGON_EMULATE_AMX)
bool has_amx_table() { return has_avx2() && has_amx(); }
#elif defined(GORGON_HAS_AMX_TABLE)
bool has_amx_table() { return has_avx512() && has_amx(); }
#endif

Backend cpu_table(const char* isa, bool (*usable)(), void (*fill)(Backend&)) {
  Backend table{};
  table.name = "cpu";
  table.isa = isa;
  table.usable = usable;
  table.fits = fits_always;
  table.make_context = make_cpu_context;
  table.layout = kCpuLayout;
  fill(table);
  return table;
}

}  // namespace

const std::vector<const Backend*>& backends() {
#if defined(GORGON_HAS_AMX_TABLE)
  static const Backend amx_table = cpu_table("amx", has_amx_table, amx::fill_cpu_table);
#endif
#if defined(__x86_64__)
  static const Backend avx512_table = cpu_table("avx512", has_avx512, avx512::fill_cpu_table);
  static const Backend avx2_table = cpu_table("avx2", has_avx2, avx2::fill_cpu_table);
#endif
  static const Backend portable_table = cpu_table("portable", always, portable::fill_cpu_table);
#if defined(GORGON_CUDA)
  static const Backend sm_80_table = cuda_table(false);
#if defined(GORGON_HAS_SM90A)
  static const Backend sm_90a_table = cuda_table(true);
#endif
#endif
  static const std::vector<const Backend*> tables = {
#if defined(GORGON_CUDA)
#if defined(GORGON_HAS_SM90A)
      &sm_90a_table,
#endif
      &sm_80_table,
#endif
#if defined(GORGON_HAS_AMX_TABLE) && !defined(GORGON_EMULATE_AMX)
      &amx_table,
#endif
#if defined(__x86_64__)
      &avx512_table,
      &avx2_table,
#endif
      &portable_table,
#if defined(GORGON_EMULATE_AMX)
      &amx_table,  // never chosen unless asked for
#endif
  };
  return tables;
}

Status select_backend(const std::string& name, const std::string& isa, int device, const Backend** out) {
  for (const Backend* table : backends()) {
    if ((name != "auto" && name != table->name) || (isa != "auto" && isa != table->isa)) continue;
    // Asked for by name, it says itself what is wrong with the device.
    if (table->usable() && (isa != "auto" || table->fits(device))) {
      *out = table;
      return {};
    }
    if (isa != "auto") {
      const bool is_cpu = table->name == std::string("cpu");
      return {StatusCode::kDevice, (is_cpu ? "This machine's processor does not have " : "This machine has no device for ") + isa +
                                       ". Use another instruction set, or auto."};
    }
  }
  std::string known;
  for (const Backend* table : backends()) {
    known += (known.empty() ? "" : ", ") + std::string(table->name) + "/" + table->isa + (table->usable() ? "" : " (not on this machine)");
  }
  return {StatusCode::kDevice, "Backend \"" + name + "\" with instruction set \"" + isa + "\" is not available. Available: " + known +
                                   ". CUDA: " + cuda_detail() + "."};
}

#if !defined(GORGON_CUDA)
std::vector<Device> cuda_devices() { return {}; }

std::string cuda_detail() { return "not built: CUDA was off or no CUDA compiler was found when this was built"; }
#endif

}  // namespace gorgon
