// The tables of this build in order of preference, and the choice of one by name.
#include "backend/cpu.h"
#include "common/amx.h"
#include "common/context.h"

namespace gorgon {

namespace {

std::unique_ptr<Context> make_cpu_context(int threads) {
  return std::make_unique<CpuContext>(threads > 0 ? threads : physical_cores());
}

bool always() { return true; }
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
  table.make_context = make_cpu_context;
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
  static const std::vector<const Backend*> tables = {
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

Status select_backend(const std::string& name, const std::string& isa, const Backend** out) {
  std::string known;
  for (const Backend* table : backends()) {
    const std::string label = std::string(table->name) + "/" + table->isa;
    if ((name == "auto" || name == table->name) && (isa == "auto" || isa == table->isa)) {
      if (table->usable()) {
        *out = table;
        return {};
      }
      if (isa != "auto") {
        return {StatusCode::kDevice, "This machine's processor does not have " + isa + ". Use another instruction set, or auto."};
      }
    }
    known += (known.empty() ? "" : ", ") + label + (table->usable() ? "" : " (not on this processor)");
  }
  return {StatusCode::kDevice, "Backend \"" + name + "\" with instruction set \"" + isa + "\" is not available. Available: " + known +
                                   ". CUDA: " + cuda_detail() + "."};
}

const char* cuda_detail() {
#if defined(GORGON_CUDA)
  return "a CUDA compiler was found when this was built, but this version has no CUDA kernels yet";
#else
  return "not built: CUDA was off or no CUDA compiler was found when this was built";
#endif
}

}  // namespace gorgon
