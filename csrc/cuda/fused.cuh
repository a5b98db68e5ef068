// What both directions of the one-launch objective share: the inner products of a block's rows, and
// the predictions that the prior sees.
//
// Block 0 has the classification term and the prior; the others have kFusedRows rows of one
// modality each, a warp per row. A block computes all inner products of its rows itself, in forward
// and backward, so that no block waits for another.
#pragma once

#include "cuda/classification.cuh"
#include "cuda/plan.h"
#include "univa/prior.h"
#include "univa/unit.h"

namespace univa::cuda {

constexpr int kFusedWarps = kFusedThreads / kWarp;
constexpr int kFusedColumns = 4;  // that a warp multiplies at a time
static_assert(kFusedRows == kFusedWarps && kFusedRows * kFusedColumns == kWarp);

// 32 sums over 32 lanes: at every step a lane hands half of its sums over, and ends with sum `lane`
// in place 0. The lanes of each sum are added in the same order, so that the inner products of
// (r, c) and (c, r) agree. Recursive, so that every place is known when this is compiled.
template <int step, typename A>
__device__ __forceinline__ void hand_over(A (&sums)[kWarp], int lane) {
  const bool upper = (lane & step) != 0;
#pragma unroll
  for (int i = 0; i < step; ++i) {
    const A sent = upper ? sums[i] : sums[i + step];
    const A kept = upper ? sums[i + step] : sums[i];
    sums[i] = kept + __shfl_xor_sync(kAllLanes, sent, step);
  }
  if constexpr (step > 1) {
    hand_over<step / 2>(sums, lane);
  }
}

// One block's rows of a modality and their inner products with all of its rows.
template <typename T>
struct FusedRows {
  using A = AccumulateType<T>;
  const ContrastiveProblem& problem;
  bool normalize;
  int64_t first;           // row
  Shared<A> rows;          // [kFusedRows, depth], scaled to unit length where `normalize`
  Shared<A> dots;          // [B, kFusedRows]
  Shared<double> lengths;  // [B], where `normalize`, and
  Shared<double> scales;   // [B], what scales a row to unit length

  // Block `block` of those of modality m.
  static __device__ FusedRows make(const FusedProblem& fused, int64_t m, int64_t block) {
    const ContrastiveProblem& own = fused.modalities[m];
    SharedPieces pieces;
    const auto rows = pieces.take<A>(static_cast<int>(kFusedRows * own.depth));
    const auto dots = pieces.take<A>(static_cast<int>(kFusedRows * own.rows));
    const auto lengths = pieces.take<double>(static_cast<int>(own.rows));
    const auto scales = pieces.take<double>(static_cast<int>(own.rows));
    return {own, fused.normalize, block * kFusedRows, rows, dots, lengths, scales};
  }

  __device__ const T* row(int64_t index) const {
    return static_cast<const T*>(problem.anchors) + index * problem.depth;
  }

  __device__ double scale_of(int64_t index) const {
    return normalize ? static_cast<double>(scales[static_cast<int>(index)]) : 1.0;
  }

  // An element of a row, scaled alike wherever it is met.
  __device__ A scaled(T value, double scale) const {
    return normalize ? static_cast<A>(widen(value) * scale) : widen(value);
  }

  // Fills rows, dots and lengths; complete for the whole block on return.
  __device__ void compute() const {
    const int lane = threadIdx.x % kWarp;
    const int warp = threadIdx.x / kWarp;
    const int depth = static_cast<int>(problem.depth);
    const int count = static_cast<int>(problem.rows);
    if (normalize) {
      for (int c = warp; c < count; c += kFusedWarps) {
        double squared = 0;
        for (int d = lane; d < depth; d += kWarp) {
          const double value = widen(row(c)[d]);
          squared += value * value;
        }
        squared = warp_sum(squared);
        if (lane == 0) {
          const double length = std::sqrt(squared);
          lengths[c] = length;
          scales[c] = 1.0 / unit_divisor(length);
        }
      }
      __syncthreads();
    }
    const int64_t own = first + warp;
    const double own_scale = own < count ? scale_of(own) : 1.0;
    for (int d = lane; d < depth; d += kWarp) {
      rows[warp * depth + d] = own < count ? scaled(row(own)[d], own_scale) : A(0);
    }
    __syncthreads();
    for (int begin = warp * kFusedColumns; begin < count; begin += kFusedWarps * kFusedColumns) {
      multiply(begin, count, depth, lane);
    }
    __syncthreads();
  }

  // This block's rows by kFusedColumns columns, by one warp.
  __device__ __forceinline__ void multiply(int begin, int count, int depth, int lane) const {
    const T* columns[kFusedColumns];
    double scales[kFusedColumns];
#pragma unroll
    for (int c = 0; c < kFusedColumns; ++c) {
      const int column = begin + c < count ? begin + c : begin;
      columns[c] = row(column);
      scales[c] = scale_of(column);
    }
    A sums[kFusedRows * kFusedColumns] = {};
#pragma unroll 2
    for (int d = lane; d < depth; d += kWarp) {
      A values[kFusedColumns];
#pragma unroll
      for (int c = 0; c < kFusedColumns; ++c) {
        values[c] = scaled(columns[c][d], scales[c]);
      }
#pragma unroll
      for (int r = 0; r < kFusedRows; ++r) {
        const A value = rows[r * depth + d];
#pragma unroll
        for (int c = 0; c < kFusedColumns; ++c) {
          sums[c * kFusedRows + r] += value * values[c];
        }
      }
    }
    hand_over<kWarp / 2>(sums, lane);
    if (begin + lane / kFusedRows < count) {
      dots[begin * kFusedRows + lane] = sums[0];
    }
  }
};

// Block 0's memory: predictions [B, L] and their gradients, and something for each pair of labels.
template <typename A>
struct FusedLabels {
  Shared<A> predictions;
  Shared<A> gradients;
  Shared<A> pairs;  // [L, L]

  static __device__ FusedLabels make(const ObjectiveProblem& problem) {
    SharedPieces pieces;
    const int elements = static_cast<int>(problem.rows * problem.columns);
    const auto predictions = pieces.take<A>(elements);
    const auto gradients = pieces.take<A>(elements);
    return {predictions, gradients,
            pieces.take<A>(static_cast<int>(problem.columns * problem.columns))};
  }

  // sum_i (y_ij - y_il)^2 of a pair of labels, the same in every lane of the warp.
  __device__ A squared(int pair, int rows, int columns, int lane) const {
    A sum = 0;
    for (int row = lane; row < rows; row += kWarp) {
      const A difference = static_cast<A>(predictions[row * columns + pair / columns]) -
                           static_cast<A>(predictions[row * columns + pair % columns]);
      sum += difference * difference;
    }
    return warp_sum(sum);
  }
};

// How many rows of a modality have positives; in thread 0.
template <typename A>
__device__ double count_positives(const A* stats, int64_t rows, const Shared<double>& shared) {
  double count = 0;
  for (int64_t row = threadIdx.x; row < rows; row += blockDim.x) {
    count += stats[kCount * rows + row] == A(0) ? 0.0 : 1.0;
  }
  return block_sum(count, shared);
}

}  // namespace univa::cuda
