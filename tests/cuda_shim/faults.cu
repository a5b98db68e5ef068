// Kernels that each do one thing wrong, and one that does everything right.

#include <cuda_pipeline.h>
#include <mma.h>

#include "cuda/device.cuh"

namespace univa_shim {

namespace {

using univa::cuda::Shared;
using univa::cuda::SharedPieces;
constexpr int kThreads = 64;

enum Fault : int {
  kNone,
  kHalfAtBarrier,
  kDifferentBarriers,
  kHalfOfAWarp,
  kOutOfBounds,
  kBeyondTheMemory,
  kUninitialised,
  kReadRace,
  kWriteRace,
  kCopyNotWaitedFor,
  kCopyWithoutBarrier,
  kUnalignedCopy,
  kNamedBarrierTooFew,
  kTooMuchShared,
  kPartialBlock,
};

__global__ void faulty(int which, const float* input) {
  SharedPieces pieces;
  const Shared<float> values = pieces.take<float>(kThreads);
  const int own = threadIdx.x;
  const int other = (own + 1) % kThreads;
  if (which == kHalfAtBarrier) {
    if (own < 32) {
      __syncthreads();
    }
  } else if (which == kDifferentBarriers) {
    if (own < 32) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  } else if (which == kHalfOfAWarp) {
    if (own % 32 < 16) {
      __shfl_xor_sync(0xffffffffu, own, 1);
    }
  } else if (which == kOutOfBounds) {
    values[own + 1] = 1.0f;
  } else if (which == kBeyondTheMemory) {
    pieces.take<float>(1000)[500] = 1.0f;
  } else if (which == kUninitialised) {
    values[other] = static_cast<float>(values[own]);
  } else if (which == kReadRace) {
    values[own] = 1.0f;
    const float read = values[own == 0 ? 0 : own - 1];
    static_cast<void>(read);
  } else if (which == kWriteRace) {
    values[own / 2] = 1.0f;
  } else if (which == kCopyNotWaitedFor || which == kCopyWithoutBarrier) {
    if (own < kThreads / 4) {
      __pipeline_memcpy_async(values.range(4 * own, 4), input + 4 * own, 16);
    }
    __pipeline_commit();
    __pipeline_wait_prior(which == kCopyNotWaitedFor ? 1 : 0);
    if (which == kCopyNotWaitedFor) {
      __syncthreads();
    }
    const float read = values[other];
    static_cast<void>(read);
  } else if (which == kUnalignedCopy) {
    __pipeline_memcpy_async(values.range(4, 4), input + 1, 16);
  } else if (which == kNamedBarrierTooFew) {
    if (own < 32) {
      __barrier_sync_count(1, kThreads);
    }
  }
}

// Every means of passing on a value, right; the sum of all comes out.
__global__ void faultless(const float* input, float* output) {
  SharedPieces pieces;
  const Shared<float> values = pieces.take<float>(kThreads);
  UNIVA_SHARED(float, warps, 2);
  const int own = threadIdx.x;
  if (own < kThreads / 4) {
    __pipeline_memcpy_async(values.range(4 * own, 4), input + 4 * own, 16, own == 0 ? 4 : 0);
  }
  __pipeline_commit();
  __pipeline_wait_prior(0);
  __syncthreads();
  float sum = univa::cuda::warp_sum<float>(values[kThreads - 1 - own]);
  sum += static_cast<float>(__ballot_sync(0xffffffffu, own % 32 < 2) + __any_sync(0xffffffffu, 0) +
                            __all_sync(0xffffffffu, 1));
  if (own % 32 == 0) {
    warps[own / 32] = sum;
  }
  __barrier_sync_count(1, kThreads);
  if (own == 1) {
    atomicAdd(output, warps[0] + warps[1]);
  }
}

}  // namespace

// What the shim says of a fault, null where it sees none.
const char* run_faulty(int which) {
  alignas(16) float input[kThreads];
  for (int i = 0; i < kThreads; ++i) {
    input[i] = static_cast<float>(i);
  }
  if (which != kNone) {
    const int64_t bytes = which == kTooMuchShared ? shared_limit() + 1 : kThreads * sizeof(float);
    const int threads = which == kPartialBlock ? 40 : kThreads;
    return univa::cuda::launch_kernel(faulty, 1, threads, bytes, nullptr, which,
                                      static_cast<const float*>(input));
  }
  float output = 0;
  const char* error =
      univa::cuda::launch_kernel(faultless, dim3(2, 3), kThreads, kThreads * sizeof(float), nullptr,
                                 static_cast<const float*>(input), &output);
  // Element 3 was left out; 3 + 0 + 1 of the votes in each warp; 6 blocks.
  const float expected = 6 * (63 * 64 / 2 - 3 + 2 * 4);
  return error != nullptr ? error : output == expected ? nullptr : "the wrong sum";
}

}  // namespace univa_shim
