// The ops' arguments, checked once and made contiguous, the same for every device.
#pragma once

#include "ops.h"

namespace univa {

using torch::headeronly::ScalarType;

// float32 for float32, bfloat16 and float16; float64 for float64.
ScalarType accumulate_type(ScalarType type);

struct ContrastiveArguments {
  Tensor anchors;               // [N, D]
  Tensor contrast;              // [M, D]; the anchors themselves where `symmetric`
  Tensor anchor_coordinates;    // [N, p]
  Tensor contrast_coordinates;  // [M, p]
  OptionalTensor anchor_groups;    // [N] int64
  OptionalTensor contrast_groups;  // [M] int64
  int64_t rows;        // N
  int64_t columns;     // M
  int64_t depth;       // D
  int64_t dimensions;  // p
  double inverse_temperature;
  double radius;
  double self_weight;
  bool symmetric;  // the contrast set is the anchors
  bool has_self;   // column i + self_offset can be the self pair of row i
  int64_t self_offset;
};

// Throws with the name of the offending argument.
ContrastiveArguments check_contrastive(
    const Tensor& anchors, const OptionalTensor& contrast, const Tensor& anchor_coordinates,
    const OptionalTensor& contrast_coordinates, const OptionalTensor& anchor_groups,
    const OptionalTensor& contrast_groups, double temperature, double radius, double self_weight,
    std::optional<int64_t> self_offset);

// grad_losses [N] and stats [4, N], contiguous and in the accumulate type.
std::tuple<Tensor, Tensor> check_contrastive_backward(const ContrastiveArguments& arguments,
                                                      const Tensor& grad_losses,
                                                      const Tensor& stats);

enum class PriorForm : int { kQuadratic, kNorm };

struct PriorArguments {
  Tensor predictions;  // [N, L]
  Tensor similarity;   // [L, L]
  int64_t rows;
  int64_t labels;
  PriorForm form;
};

PriorArguments check_prior(const Tensor& predictions, const Tensor& similarity,
                           const std::string& form);

// The upstream gradient, a contiguous scalar of the predictions' type.
Tensor check_prior_backward(const PriorArguments& arguments, const Tensor& grad);

}  // namespace univa
