// Loops compiled for several x86 processors, the best one chosen when the library is loaded.
//
// All versions do the same arithmetic (no fused multiply-add: see -ffp-contract=off), only wider;
// sums can differ in the last bit from one processor to another, not on one.
#pragma once

#if defined(__x86_64__) && defined(__ELF__) && defined(__GNUC__) && !defined(__clang__)
#define UNIVA_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define UNIVA_CLONES
#endif

// What a cloned function calls must be inlined into it to be compiled for its processor.
#define UNIVA_INLINE inline __attribute__((always_inline))
