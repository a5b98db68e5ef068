#include "cpu/clones.h"

#include <stdexcept>

namespace univa::cpu {

namespace {

struct Version {
  const char* name;
  Capability capability;
  bool supported;
};

}  // namespace

void choose_capability(const std::string& wanted) {
#if UNIVA_HAS_CLONES
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") != 0;
  const bool avx512 = __builtin_cpu_supports("avx512f") != 0;
#else
  const bool avx2 = false;
  const bool avx512 = false;
#endif
  // The widest first.
  const Version versions[] = {{"avx512", Capability::kAvx512, avx512},
                              {"avx2", Capability::kAvx2, avx2},
                              {"default", Capability::kDefault, true}};
  std::string usable;
  for (const Version& version : versions) {
    if (!version.supported) {
      continue;
    }
    if (wanted.empty() || wanted == version.name) {
      active_capability = version.capability;
      return;
    }
    usable = version.name + (usable.empty() ? "" : ", " + usable);
  }
  throw std::invalid_argument("UNIVA_CPU_CAPABILITY=" + wanted +
                              ": expected a version that this processor runs (" + usable +
                              "), or nothing for the widest");
}

std::string capability_name() {
  switch (active_capability) {
    case Capability::kAvx512:
      return "avx512";
    case Capability::kAvx2:
      return "avx2";
    default:
      return "default";
  }
}

}  // namespace univa::cpu
