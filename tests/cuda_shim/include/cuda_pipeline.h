// The shim's cp.async: copies happen when the thread waits for them.
#pragma once

#include "cuda_runtime.h"

inline void __pipeline_memcpy_async(void* to, const void* from, size_t bytes, size_t zeros = 0) {
  univa_shim::copy_async(to, from, bytes, zeros);
}
inline void __pipeline_commit() { univa_shim::commit_copies(); }
inline void __pipeline_wait_prior(size_t batches_left) { univa_shim::wait_for_copies(batches_left); }
