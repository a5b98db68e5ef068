// The ops on CUDA tensors: allocation, device and stream. The kernels are in the .cu files.

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>

#include "arguments.h"
#include "cuda/launch.h"
#include "cuda/stream.h"
#include "univa/positives.h"
#include "univa/reduction.h"

namespace univa::cuda {

namespace {

using torch::stable::accelerator::DeviceGuard;

Type type_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return Type::kDouble;
    case ScalarType::BFloat16:
      return Type::kBFloat16;
    case ScalarType::Half:
      return Type::kHalf;
    default:
      return Type::kFloat;
  }
}

void check(const char* error, const char* op) {
  STD_TORCH_CHECK(error == nullptr, "univa::", op, " on CUDA: ", error);
}

const int64_t* groups_data(const OptionalTensor& groups) {
  return groups.has_value() ? groups->const_data_ptr<int64_t>() : nullptr;
}

// Blocks along x are as many as rows.
constexpr int64_t kMaxRows = 2147483647;

ContrastiveProblem problem_of(const ContrastiveArguments& arguments) {
  STD_TORCH_CHECK(arguments.rows <= kMaxRows && arguments.columns <= kMaxRows,
                  "at most ", kMaxRows, " rows of embeddings on CUDA");
  const bool wide = arguments.anchor_coordinates.scalar_type() == ScalarType::Double;
  ContrastiveProblem problem{};
  problem.type = type_of(arguments.anchors);
  problem.anchors = arguments.anchors.const_data_ptr();
  problem.contrast = arguments.contrast.const_data_ptr();
  problem.double_coordinates = wide;
  problem.anchor_coordinates = arguments.anchor_coordinates.const_data_ptr();
  problem.contrast_coordinates = arguments.contrast_coordinates.const_data_ptr();
  problem.anchor_groups = groups_data(arguments.anchor_groups);
  problem.contrast_groups = groups_data(arguments.contrast_groups);
  problem.rows = arguments.rows;
  problem.columns = arguments.columns;
  problem.depth = arguments.depth;
  problem.dimensions = arguments.dimensions;
  problem.inverse_temperature = arguments.inverse_temperature;
  problem.squared_threshold = wide ? squared_threshold(arguments.radius)
                                   : squared_threshold(static_cast<float>(arguments.radius));
  problem.self_weight = arguments.self_weight;
  problem.log_self_weight = std::log(arguments.self_weight);
  problem.symmetric = arguments.symmetric;
  problem.has_self = arguments.has_self;
  problem.self_offset = arguments.self_offset;
  return problem;
}

PriorProblem problem_of(const PriorArguments& arguments) {
  STD_TORCH_CHECK(arguments.labels <= 46340, "at most 46340 labels on CUDA");  // pairs < 2^31
  return {type_of(arguments.predictions),
          arguments.predictions.const_data_ptr(),
          arguments.similarity.const_data_ptr(),
          arguments.rows,
          arguments.labels,
          arguments.form == PriorForm::kNorm};
}

Tensor pair_scratch(const PriorArguments& arguments) {
  return torch::stable::new_empty(arguments.predictions, {arguments.labels, arguments.labels},
                                  accumulate_type(arguments.predictions.scalar_type()));
}

}  // namespace

std::tuple<Tensor, Tensor> contrastive_forward(
    const Tensor& anchors, const OptionalTensor& contrast, const Tensor& anchor_coordinates,
    const OptionalTensor& contrast_coordinates, const OptionalTensor& anchor_groups,
    const OptionalTensor& contrast_groups, double temperature, double radius, double self_weight,
    std::optional<int64_t> self_offset) {
  const DeviceGuard guard(anchors.get_device_index());
  const ContrastiveArguments arguments =
      check_contrastive(anchors, contrast, anchor_coordinates, contrast_coordinates, anchor_groups,
                        contrast_groups, temperature, radius, self_weight, self_offset);
  const ScalarType type = accumulate_type(anchors.scalar_type());
  Tensor losses = torch::stable::new_empty(arguments.anchors, {arguments.rows}, type);
  Tensor stats = torch::stable::new_empty(arguments.anchors, {kStatsRows, arguments.rows}, type);
  check(launch_contrastive_forward(problem_of(arguments), losses.mutable_data_ptr(),
                                   stats.mutable_data_ptr(),
                                   current_stream(anchors.get_device_index())),
        "contrastive_forward");
  return {losses, stats};
}

std::tuple<Tensor, Tensor> contrastive_backward(
    const Tensor& grad_losses, const Tensor& anchors, const OptionalTensor& contrast,
    const Tensor& anchor_coordinates, const OptionalTensor& contrast_coordinates,
    const OptionalTensor& anchor_groups, const OptionalTensor& contrast_groups, const Tensor& stats,
    double temperature, double radius, double self_weight, std::optional<int64_t> self_offset) {
  const DeviceGuard guard(anchors.get_device_index());
  const ContrastiveArguments arguments =
      check_contrastive(anchors, contrast, anchor_coordinates, contrast_coordinates, anchor_groups,
                        contrast_groups, temperature, radius, self_weight, self_offset);
  const auto [upstream, kept] = check_contrastive_backward(arguments, grad_losses, stats);
  Tensor grad_anchors = torch::stable::empty_like(arguments.anchors);
  Tensor grad_contrast = torch::stable::new_empty(
      arguments.anchors, {arguments.symmetric ? 0 : arguments.columns, arguments.depth});
  check(launch_contrastive_backward(
            problem_of(arguments), upstream.const_data_ptr(), kept.const_data_ptr(),
            grad_anchors.mutable_data_ptr(), grad_contrast.mutable_data_ptr(),
            current_stream(anchors.get_device_index())),
        "contrastive_backward");
  return {grad_anchors, grad_contrast};
}

Tensor correlation_prior_forward(const Tensor& predictions, const Tensor& similarity,
                                 const std::string& form) {
  const DeviceGuard guard(predictions.get_device_index());
  const PriorArguments arguments = check_prior(predictions, similarity, form);
  Tensor squared = pair_scratch(arguments);
  Tensor eta = torch::stable::new_empty(arguments.predictions, {});
  check(launch_prior_forward(problem_of(arguments), squared.mutable_data_ptr(),
                             eta.mutable_data_ptr(),
                             current_stream(predictions.get_device_index())),
        "correlation_prior_forward");
  return eta;
}

std::tuple<Tensor, Tensor> correlation_prior_backward(const Tensor& grad, const Tensor& predictions,
                                                      const Tensor& similarity,
                                                      const std::string& form) {
  const DeviceGuard guard(predictions.get_device_index());
  const PriorArguments arguments = check_prior(predictions, similarity, form);
  const Tensor upstream = check_prior_backward(arguments, grad);
  Tensor squared = pair_scratch(arguments);
  Tensor grad_predictions = torch::stable::empty_like(arguments.predictions);
  Tensor grad_similarity = torch::stable::empty_like(arguments.similarity);
  check(launch_prior_backward(problem_of(arguments), upstream.const_data_ptr(),
                              squared.mutable_data_ptr(), grad_predictions.mutable_data_ptr(),
                              grad_similarity.mutable_data_ptr(),
                              current_stream(predictions.get_device_index())),
        "correlation_prior_backward");
  return {grad_predictions, grad_similarity};
}

}  // namespace univa::cuda
