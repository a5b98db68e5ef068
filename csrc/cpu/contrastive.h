// The contrastive loss on the CPU, as its own op and as a term of the objective. T is the
// accumulate type of the embeddings.
#pragma once

#include "arguments.h"

namespace univa::cpu {

// losses [N] and stats [4, N].
template <typename T>
void contrastive_losses(const ContrastiveArguments& arguments, T* losses, T* stats);

// Gradients of the anchors and of the contrast set (which has no rows where it is the anchors),
// in the embeddings' type, from the gradients of the losses [N].
template <typename T>
std::tuple<Tensor, Tensor> contrastive_gradients(const ContrastiveArguments& arguments,
                                                 const T* upstream, const T* stats);

// 1 / temperature, which may be a tensor.
template <typename T>
T inverse_temperature(const ContrastiveOptions& options) {
  return options.learned_temperature.has_value()
             ? T(1) / *options.learned_temperature->const_data_ptr<T>()
             : static_cast<T>(1.0 / options.temperature);
}

}  // namespace univa::cpu
