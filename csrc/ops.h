// The ops of the `univa` namespace, one implementation per device. Schemas: registration.cpp.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>

namespace univa {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

#define UNIVA_DECLARE_OPS                                                                       \
  std::tuple<Tensor, Tensor> contrastive_forward(                                               \
      const Tensor& anchors, const OptionalTensor& contrast, const Tensor& anchor_coordinates,  \
      const OptionalTensor& contrast_coordinates, const OptionalTensor& anchor_groups,          \
      const OptionalTensor& contrast_groups, double temperature, double radius,                 \
      double self_weight, std::optional<int64_t> self_offset);                                  \
  std::tuple<Tensor, Tensor> contrastive_backward(                                              \
      const Tensor& grad_losses, const Tensor& anchors, const OptionalTensor& contrast,         \
      const Tensor& anchor_coordinates, const OptionalTensor& contrast_coordinates,             \
      const OptionalTensor& anchor_groups, const OptionalTensor& contrast_groups,               \
      const Tensor& stats, double temperature, double radius, double self_weight,               \
      std::optional<int64_t> self_offset);                                                      \
  Tensor correlation_prior_forward(const Tensor& predictions, const Tensor& similarity,         \
                                   const std::string& form);                                    \
  std::tuple<Tensor, Tensor> correlation_prior_backward(                                        \
      const Tensor& grad, const Tensor& predictions, const Tensor& similarity,                  \
      const std::string& form);

namespace cpu {
UNIVA_DECLARE_OPS
}

#if defined(UNIVA_WITH_CUDA)
namespace cuda {
UNIVA_DECLARE_OPS
}
#endif

#undef UNIVA_DECLARE_OPS

}  // namespace univa
