// The host shim's cuda_runtime.h: what csrc/cuda uses of CUDA, for the C++ compiler (see shim.h).
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>

#include "shim.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__
#define __grid_constant__

// Members named x and y that are asked of the running thread: cudaLaunchConfig_t has members of the
// same names, so these can be no macros.
#define UNIVA_SHIM_BUILTIN(name, value)                                   \
  struct name##_type {                                                    \
    struct X { operator unsigned() const { return (value).x; } } x;       \
    struct Y { operator unsigned() const { return (value).y; } } y;       \
  };                                                                      \
  constexpr name##_type name {}
UNIVA_SHIM_BUILTIN(threadIdx, univa_shim::now()->thread);
UNIVA_SHIM_BUILTIN(blockIdx, univa_shim::now()->block->index);
UNIVA_SHIM_BUILTIN(blockDim, univa_shim::now()->block->threads);
UNIVA_SHIM_BUILTIN(gridDim, univa_shim::now()->block->grid);
#undef UNIVA_SHIM_BUILTIN

#define __syncthreads() univa_shim::block_barrier(__FILE__, __LINE__)
#define __syncwarp(...) univa_shim::warp_barrier(0xffffffffu, __FILE__, __LINE__)
#define __barrier_sync_count(id, count) univa_shim::named_barrier(id, count, __FILE__, __LINE__)
#define __threadfence() static_cast<void>(0)

#define __shfl_xor_sync(mask, value, step) \
  univa_shim::shuffle(mask, value, univa_shim::lane() ^ (step), __FILE__, __LINE__)
#define __shfl_sync(mask, value, source) \
  univa_shim::shuffle(mask, value, source, __FILE__, __LINE__)
#define __ballot_sync(mask, vote) univa_shim::ballot(mask, vote, __FILE__, __LINE__)
#define __any_sync(mask, vote) (univa_shim::ballot(mask, vote, __FILE__, __LINE__) != 0)
#define __all_sync(mask, vote) (univa_shim::ballot(mask, vote, __FILE__, __LINE__) == (mask))

using cudaStream_t = void*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr {
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
  cudaDevAttrMultiProcessorCount,
};

using univa_shim::dim3;

struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  void* attrs = nullptr;
  unsigned numAttrs = 0;
};

inline cudaError_t cudaGetLastError() { return univa_shim::take_error(); }
inline const char* cudaGetErrorString(cudaError_t) { return univa_shim::message(); }
inline cudaError_t cudaGetDevice(int* device) { return *device = 0; }

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 132 : univa_shim::shared_limit();
  return cudaSuccess;
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  return univa_shim::allow_shared(reinterpret_cast<const void*>(kernel), bytes);
}

inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  std::tuple<std::decay_t<Parameters>...> copies(arguments...);
  return univa_shim::launch(reinterpret_cast<const void*>(kernel), config->gridDim,
                            config->blockDim, config->dynamicSmemBytes,
                            [&] { std::apply(kernel, copies); });
}

template <typename T, typename V>
T atomicAdd(T* address, V value) {
  const T before = *address;
  *address = before + static_cast<T>(value);
  return before;
}

template <typename T>
T __ldcg(const T* address) {
  return *address;
}

template <typename T>
T __ldg(const T* address) {
  return *address;
}
