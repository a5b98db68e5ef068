// The ops of the `univa` namespace, one implementation per device. Schemas: registration.cpp.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace univa {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

#define UNIVA_DECLARE_OPS                                                                         \
  std::tuple<Tensor, Tensor> contrastive_forward(                                                 \
      const Tensor& anchors, const OptionalTensor& contrast, const Tensor& anchor_coordinates,    \
      const OptionalTensor& contrast_coordinates, const OptionalTensor& anchor_groups,            \
      const OptionalTensor& contrast_groups, const OptionalTensor& learned_temperature,           \
      double temperature, double radius, double sigma, double self_weight,                        \
      std::optional<int64_t> self_offset, bool exclude_groups, bool normalize);                   \
  std::tuple<Tensor, Tensor> contrastive_backward(                                                \
      const Tensor& grad_losses, const Tensor& anchors, const OptionalTensor& contrast,           \
      const Tensor& anchor_coordinates, const OptionalTensor& contrast_coordinates,               \
      const OptionalTensor& anchor_groups, const OptionalTensor& contrast_groups,                 \
      const OptionalTensor& learned_temperature, const Tensor& stats, double temperature,         \
      double radius, double sigma, double self_weight, std::optional<int64_t> self_offset,        \
      bool exclude_groups, bool normalize, bool of_anchors, bool of_contrast);                    \
  Tensor correlation_prior_forward(const Tensor& predictions, const Tensor& similarity,           \
                                   const std::string& form);                                      \
  std::tuple<Tensor, Tensor> correlation_prior_backward(                                          \
      const Tensor& grad, const Tensor& predictions, const Tensor& similarity,                    \
      const std::string& form);                                                                   \
  std::tuple<Tensor, Tensor> objective_forward(                                                   \
      const Tensor& logits, const Tensor& labels, const OptionalTensor& similarity,               \
      const std::vector<Tensor>& embeddings, const std::vector<Tensor>& coordinates,              \
      const std::vector<double>& weights, const OptionalTensor& learned_temperature,              \
      double temperature, double radius, double sigma, double alpha, double self_weight,          \
      bool skip_rows, bool normalize, const std::string& classification,                          \
      const std::string& prior);                                                                  \
  std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> objective_backward(                     \
      const Tensor& grad_terms, const Tensor& logits, const Tensor& labels,                       \
      const OptionalTensor& similarity, const std::vector<Tensor>& embeddings,                    \
      const std::vector<Tensor>& coordinates, const OptionalTensor& learned_temperature,          \
      const Tensor& stats, const std::vector<double>& weights, double temperature, double radius, \
      double sigma, double alpha, double self_weight, bool skip_rows, bool normalize,             \
      const std::string& classification, const std::string& prior);

namespace cpu {
UNIVA_DECLARE_OPS
}

namespace cuda {
UNIVA_DECLARE_OPS
}

#undef UNIVA_DECLARE_OPS

}  // namespace univa
