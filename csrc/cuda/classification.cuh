// Rows of logits and labels, a warp each: the classification term and what the prior sees.
#pragma once

#include "cuda/device.cuh"
#include "univa/objective.h"

namespace univa::cuda {

// Labels of any type, read in the accumulate type.
struct Labels {
  const void* data;
  LabelType type;

  template <typename A>
  __device__ A at(int64_t index) const {
    switch (type) {
      case LabelType::kDouble:
        return static_cast<A>(static_cast<const double*>(data)[index]);
      case LabelType::kFloat:
        return static_cast<A>(static_cast<const float*>(data)[index]);
      case LabelType::kBFloat16:
        return static_cast<A>(static_cast<float>(static_cast<const __nv_bfloat16*>(data)[index]));
      case LabelType::kHalf:
        return static_cast<A>(static_cast<float>(static_cast<const __half*>(data)[index]));
      case LabelType::kInt64:
        return static_cast<A>(static_cast<const int64_t*>(data)[index]);
      case LabelType::kInt32:
        return static_cast<A>(static_cast<const int32_t*>(data)[index]);
      case LabelType::kInt16:
        return static_cast<A>(static_cast<const int16_t*>(data)[index]);
      case LabelType::kInt8:
        return static_cast<A>(static_cast<const int8_t*>(data)[index]);
      default:
        return static_cast<A>(static_cast<const uint8_t*>(data)[index]);
    }
  }
};

// log sum_j exp x_j, the same in every lane; a maximum that is infinite is what comes out.
template <typename A, typename Value>
__device__ A warp_log_sum_exp(const Value& value, int64_t count, int lane) {
  A maximum = negative_infinity<A>();
  for (int64_t j = lane; j < count; j += kWarp) {
    const A own = value(j);
    maximum = own > maximum ? own : maximum;
  }
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const A other = __shfl_xor_sync(kAllLanes, maximum, step);
    maximum = other > maximum ? other : maximum;
  }
  const A shift = maximum - maximum == A(0) ? maximum : A(0);
  A sum = 0;
  for (int64_t j = lane; j < count; j += kWarp) {
    sum += std::exp(value(j) - shift);
  }
  return shift + std::log(warp_sum(sum));
}

// One row of logits and labels, for the warp that has it.
template <typename T>
struct Row {
  using A = AccumulateType<T>;
  const T* logits;
  Labels labels;
  int64_t start;
  A log_sum;
  A label_log_sum;

  static __device__ Row make(const ObjectiveProblem& problem, int64_t row, int lane) {
    const T* logits = static_cast<const T*>(problem.logits) + row * problem.columns;
    const Labels labels{problem.labels, problem.label_type};
    const int64_t start = row * problem.columns;
    const A log_sum = warp_log_sum_exp<A>(
        [&](int64_t j) { return widen(logits[j]); }, problem.columns, lane);
    const A label_log_sum = problem.classification == Classification::kKl
                                ? warp_log_sum_exp<A>(
                                      [&](int64_t j) { return labels.template at<A>(start + j); },
                                      problem.columns, lane)
                                : A(0);
    return {logits, labels, start, log_sum, label_log_sum};
  }

  __device__ Score<A> score(int64_t j) const { return Score<A>::make(widen(logits[j]), log_sum); }

  __device__ A target(int64_t j) const { return labels.template at<A>(start + j) - label_log_sum; }
};

}  // namespace univa::cuda
