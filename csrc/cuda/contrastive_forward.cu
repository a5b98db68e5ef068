// Forward of the contrastive loss: one block per anchor. A warp computes 32 dot products together,
// then each of its lanes pushes one pair; states merge over lanes, then over warps.

#include "cuda/device.cuh"
#include "univa/reduction.h"

namespace univa::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

template <typename A>
__device__ __forceinline__ RowState<A> from_lane(const RowState<A>& state, int step) {
  RowState<A> other;
  other.maximum = __shfl_xor_sync(kAllLanes, state.maximum, step);
  other.sum_e = __shfl_xor_sync(kAllLanes, state.sum_e, step);
  other.sum_es = __shfl_xor_sync(kAllLanes, state.sum_es, step);
  other.sum_k = __shfl_xor_sync(kAllLanes, state.sum_k, step);
  other.sum_ks = __shfl_xor_sync(kAllLanes, state.sum_ks, step);
  return other;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    forward_kernel(const ContrastiveProblem problem, AccumulateType<T>* losses,
                   AccumulateType<T>* stats) {
  using A = AccumulateType<T>;
  const int lane = threadIdx.x % kWarp;
  const int warp = threadIdx.x / kWarp;
  const int64_t row = blockIdx.x;
  const T* anchor = static_cast<const T*>(problem.anchors) + row * problem.depth;
  const T* contrast = static_cast<const T*>(problem.contrast);

  const A inverse_temperature = inverse_temperature_of<A>(problem);

  RowState<A> state;
  for (int64_t begin = warp * kWarp; begin < problem.columns; begin += kThreads) {
    A dot = 0;
    for (int offset = 0; offset < kWarp && begin + offset < problem.columns; ++offset) {
      const A value =
          warp_dot(anchor, contrast + (begin + offset) * problem.depth, problem.depth, lane);
      dot = lane == offset ? value : dot;
    }
    const int64_t column = begin + lane;
    if (column < problem.columns) {
      const Pair<A> pair = make_pair(problem, row, column, dot, inverse_temperature);
      if (pair.counts) {
        state.push(pair.logit, pair.z, pair.positive);
      }
    }
  }

#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    state.merge(from_lane(state, step));
  }
  // One state per warp, a field at a time: RowState initialises itself, shared memory cannot.
  __shared__ A shared[5][kWarps];
  if (lane == 0) {
    shared[0][warp] = state.maximum;
    shared[1][warp] = state.sum_e;
    shared[2][warp] = state.sum_es;
    shared[3][warp] = state.sum_k;
    shared[4][warp] = state.sum_ks;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int other = 1; other < kWarps; ++other) {
      RowState<A> theirs;
      theirs.maximum = shared[0][other];
      theirs.sum_e = shared[1][other];
      theirs.sum_es = shared[2][other];
      theirs.sum_k = shared[3][other];
      theirs.sum_ks = shared[4][other];
      state.merge(theirs);
    }
    state.drop_vanishing_positives(least_count<A>());
    losses[row] = state.loss();
    stats[kLogZ * problem.rows + row] = state.log_z();
    stats[kCount * problem.rows + row] = state.sum_k;
    stats[kPositiveMean * problem.rows + row] = state.positive_mean();
    stats[kLogitGap * problem.rows + row] = state.logit_gap();
  }
}

}  // namespace

const char* launch_contrastive_forward(const ContrastiveProblem& problem, void* losses, void* stats,
                                       void* stream) {
  if (problem.rows == 0) {
    return nullptr;
  }
  return dispatch(problem.type, [&](auto* element) {
    using T = std::remove_pointer_t<decltype(element)>;
    using A = AccumulateType<T>;
    forward_kernel<T><<<static_cast<unsigned>(problem.rows), kThreads, 0,
                        static_cast<cudaStream_t>(stream)>>>(problem, static_cast<A*>(losses),
                                                             static_cast<A*>(stats));
    return launch_error();
  });
}

}  // namespace univa::cuda
