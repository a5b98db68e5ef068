// Shared memory as arrays of known length. On a GPU they are plain pointers; the host shim of the
// tests (tests/cuda_shim) puts arrays in their place that check every access.
#pragma once

#if defined(UNIVA_CUDA_SHIM)
#include "shim_shared.h"
#else

#include <cuda_runtime.h>

namespace univa::cuda {

template <typename T>
class Shared {
 public:
  __device__ __forceinline__ Shared(T* data, int /*count*/) : data_(data) {}

  __device__ __forceinline__ T& operator[](int index) const { return data_[index]; }

  // Where elements [index, index + count) begin.
  __device__ __forceinline__ T* range(int index, int /*count*/) const { return data_ + index; }

  __device__ __forceinline__ Shared part(int index, int count) const {
    return Shared(data_ + index, count);
  }

 private:
  T* data_;
};

extern __shared__ __align__(128) unsigned char univa_dynamic_memory[];
__device__ __forceinline__ unsigned char* dynamic_shared() { return univa_dynamic_memory; }

// Declares `const Shared<Type> name`, an array of the kernel's own.
#define UNIVA_SHARED(Type, name, count) \
  __shared__ Type name##_storage[count]; \
  const ::univa::cuda::Shared<Type> name(name##_storage, count)

}  // namespace univa::cuda

#endif

namespace univa::cuda {

// Hands out dynamic shared memory piece by piece; every piece starts at a multiple of 32 bytes.
// The host adds up the same pieces with `padded`.
class SharedPieces {
 public:
  template <typename T>
  __device__ Shared<T> take(int count) {
    T* start = reinterpret_cast<T*>(dynamic_shared() + used_);
    used_ += (count * static_cast<int>(sizeof(T)) + 31) / 32 * 32;
    return Shared<T>(start, count);
  }

 private:
  int used_ = 0;
};

constexpr int64_t padded(int64_t bytes) { return (bytes + 31) / 32 * 32; }

}  // namespace univa::cuda
