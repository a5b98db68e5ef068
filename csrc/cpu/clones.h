// Loops compiled for several x86 processors; the widest that this one has runs.
//
// All versions do the same arithmetic (no fused multiply-add: see -ffp-contract=off), only wider;
// sums can differ in the last bit from one version to another, not within one.
#pragma once

#include <string>

namespace univa::cpu {

enum class Capability { kDefault, kAvx2, kAvx512 };

// The version that runs: set once by `choose_capability`, before the first call of any loop.
inline Capability active_capability = Capability::kDefault;

// Sets the version: the widest, or with `wanted` not empty the one of that name, "default", "avx2"
// or "avx512". Throws std::invalid_argument for another name and where the processor lacks it.
void choose_capability(const std::string& wanted);

// The name of the version that runs.
std::string capability_name();

}  // namespace univa::cpu

#if defined(__x86_64__) && defined(__GNUC__)
#define UNIVA_HAS_CLONES 1
#else
#define UNIVA_HAS_CLONES 0
#endif

// What a cloned function calls must be inlined into it to be compiled for its processor.
#define UNIVA_INLINE inline __attribute__((always_inline))

// Defines RESULT NAME PARAMETERS { return EXPRESSION; } for every processor. PARAMETERS and
// ARGUMENTS, the parameters' names, are in parentheses; EXPRESSION comes last: it has commas.
#if UNIVA_HAS_CLONES
#define UNIVA_CLONES(RESULT, NAME, PARAMETERS, ARGUMENTS, ...)                          \
  __attribute__((target("avx512f"))) static RESULT NAME##_avx512 PARAMETERS {           \
    return __VA_ARGS__;                                                                 \
  }                                                                                     \
  __attribute__((target("avx2"))) static RESULT NAME##_avx2 PARAMETERS {                \
    return __VA_ARGS__;                                                                 \
  }                                                                                     \
  static RESULT NAME##_default PARAMETERS { return __VA_ARGS__; }                       \
  RESULT NAME PARAMETERS {                                                              \
    switch (active_capability) {                                                        \
      case Capability::kAvx512:                                                         \
        return NAME##_avx512 ARGUMENTS;                                                 \
      case Capability::kAvx2:                                                           \
        return NAME##_avx2 ARGUMENTS;                                                   \
      default:                                                                          \
        return NAME##_default ARGUMENTS;                                                \
    }                                                                                   \
  }
#else
#define UNIVA_CLONES(RESULT, NAME, PARAMETERS, ARGUMENTS, ...) \
  RESULT NAME PARAMETERS { return __VA_ARGS__; }
#endif
