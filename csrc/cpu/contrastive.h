// The contrastive loss on the CPU, as its own op and as a term of the objective. T is the
// accumulate type of the embeddings.
#pragma once

#include <cmath>
#include <memory>
#include <tuple>

#include "arguments.h"

namespace univa::cpu {

// Work that is ready: everything that needs torch's dispatcher is done, or left to the thread that
// made it, so that `run` may be called on any thread.
class Task {
 public:
  virtual ~Task() = default;
  virtual void run() = 0;
};

// Fills losses [N] and stats [4, N].
template <typename T>
std::unique_ptr<Task> losses_task(const ContrastiveArguments& arguments, T* losses, T* stats);

class GradientsTask : public Task {
 public:
  // After `run`: gradients of the anchors and of the contrast set, in the embeddings' type. Without
  // rows: what was not asked for, and that of a contrast set that is the anchors.
  virtual std::tuple<Tensor, Tensor> gradients() = 0;
};

// From the gradients of the losses [N].
template <typename T>
std::unique_ptr<GradientsTask> gradients_task(const ContrastiveArguments& arguments,
                                              const T* upstream, const T* stats,
                                              bool of_anchors = true, bool of_contrast = true);

// 1 / temperature, which may be a tensor; then it is looked at here, where that costs nothing.
template <typename T>
T inverse_temperature(const ContrastiveOptions& options) {
  if (!options.learned_temperature.has_value()) {
    return static_cast<T>(1.0 / options.temperature);
  }
  const T temperature = *options.learned_temperature->const_data_ptr<T>();
  STD_TORCH_CHECK(!(temperature <= T(0)) && !std::isinf(temperature),
                  "temperature must be positive and finite, got ", temperature,
                  "; learn its logarithm, as VASupConLoss(learn_temperature=True) does");
  return T(1) / temperature;
}

}  // namespace univa::cpu
