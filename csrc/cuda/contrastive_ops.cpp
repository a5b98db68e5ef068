// The contrastive loss on CUDA tensors: allocation, device and stream.

#include <cmath>

#include "cuda/tensors.h"
#include "univa/positives.h"
#include "univa/reduction.h"

namespace univa::cuda {

namespace {

// The embeddings that the kernels see: those of the arguments or, scaled to unit length, their
// copies in the accumulate type.
struct Embeddings {
  Tensor anchors;
  Tensor contrast;
};

Tensor scaled(const Tensor& rows, void* stream) {
  Tensor unit = torch::stable::new_empty(rows, {rows.size(0), rows.size(1)},
                                         accumulate_type(rows.scalar_type()));
  check(launch_unit_rows(type_of(rows), rows.const_data_ptr(), rows.size(0), rows.size(1),
                         unit.mutable_data_ptr(), stream),
        "contrastive_forward");
  return unit;
}

Embeddings embeddings_of(const ContrastiveArguments& arguments, void* stream) {
  STD_TORCH_CHECK(arguments.rows <= kMaxRows && arguments.columns <= kMaxRows, "at most ",
                  kMaxRows, " rows of embeddings on CUDA");
  if (!arguments.options.normalize) {
    return {arguments.anchors, arguments.contrast};
  }
  Tensor anchors = scaled(arguments.anchors, stream);
  return {anchors, arguments.symmetric ? anchors : scaled(arguments.contrast, stream)};
}

// Elements of the accumulate type.
Tensor scratch_of(const ContrastiveArguments& arguments, int64_t elements) {
  return torch::stable::new_empty(arguments.anchors, {elements},
                                  accumulate_type(arguments.anchors.scalar_type()));
}

// The gradient of the rows, from that of the scaled rows `unit`.
Tensor through_scaling(const Tensor& rows, const Tensor& unit, const Tensor& grad_unit,
                       void* stream) {
  Tensor gradient = torch::stable::empty_like(rows);
  check(launch_unit_rows_backward(type_of(rows), rows.const_data_ptr(), unit.const_data_ptr(),
                                  grad_unit.const_data_ptr(), rows.size(0), rows.size(1),
                                  gradient.mutable_data_ptr(), stream),
        "contrastive_backward");
  return gradient;
}

}  // namespace

ContrastiveProblem problem_of(const ContrastiveArguments& arguments, const Tensor& anchors,
                              const Tensor& contrast) {
  const ContrastiveOptions& options = arguments.options;
  const bool wide = arguments.anchor_coordinates.scalar_type() == ScalarType::Double;
  ContrastiveProblem problem{};
  problem.type = type_of(anchors);
  problem.anchors = anchors.const_data_ptr();
  problem.contrast = contrast.const_data_ptr();
  problem.double_coordinates = wide;
  problem.anchor_coordinates = arguments.anchor_coordinates.const_data_ptr();
  problem.contrast_coordinates = arguments.contrast_coordinates.const_data_ptr();
  problem.anchor_groups = static_cast<const int64_t*>(data_or_null(arguments.anchor_groups));
  problem.contrast_groups = static_cast<const int64_t*>(data_or_null(arguments.contrast_groups));
  problem.rows = arguments.rows;
  problem.columns = arguments.columns;
  problem.depth = arguments.depth;
  problem.dimensions = arguments.dimensions;
  problem.learned_temperature = data_or_null(options.learned_temperature);
  problem.inverse_temperature = 1.0 / options.temperature;
  problem.gaussian = options.sigma > 0;
  if (problem.gaussian) {
    problem.gaussian_factor = problem.type == Type::kDouble
                                  ? gaussian_factor<double>(options.sigma)
                                  : gaussian_factor<float>(options.sigma);
  } else {
    problem.squared_threshold = wide ? squared_threshold(options.radius)
                                     : squared_threshold(static_cast<float>(options.radius));
  }
  problem.exclude_groups = options.exclude_groups;
  problem.self_weight = options.self_weight;
  problem.log_self_weight = std::log(options.self_weight);
  problem.symmetric = arguments.symmetric;
  problem.has_self = arguments.has_self;
  problem.self_offset = arguments.self_offset;
  problem.tensor_float32 =
      arguments.anchors.scalar_type() == ScalarType::Float && tensor_float32_allowed();
  return problem;
}

void contrastive_losses(const ContrastiveArguments& arguments, void* losses, void* stats,
                        void* stream) {
  const Embeddings embeddings = embeddings_of(arguments, stream);
  const ContrastiveProblem problem = problem_of(arguments, embeddings.anchors, embeddings.contrast);
  const Tensor scratch = scratch_of(arguments, contrastive_forward_scratch(problem));
  check(launch_contrastive_forward(problem, scratch.mutable_data_ptr(), losses, stats, stream),
        "contrastive_forward");
}

std::tuple<Tensor, Tensor> contrastive_gradients(const ContrastiveArguments& arguments,
                                                 const void* upstream, const void* stats,
                                                 void* stream, bool of_anchors,
                                                 bool of_contrast) {
  of_contrast = of_contrast && !arguments.symmetric;
  const auto none = [&] {
    return torch::stable::new_empty(arguments.anchors, {0, arguments.depth});
  };
  if (!of_anchors && !of_contrast) {
    return {none(), none()};
  }
  const Embeddings embeddings = embeddings_of(arguments, stream);
  Tensor grad_anchors = of_anchors ? torch::stable::empty_like(embeddings.anchors) : none();
  Tensor grad_contrast = of_contrast ? torch::stable::empty_like(embeddings.contrast) : none();
  const ContrastiveProblem problem = problem_of(arguments, embeddings.anchors, embeddings.contrast);
  const Tensor scratch = scratch_of(arguments, contrastive_backward_scratch(problem, of_contrast));
  check(launch_contrastive_backward(problem, upstream, stats, scratch.mutable_data_ptr(),
                                    of_anchors ? grad_anchors.mutable_data_ptr() : nullptr,
                                    of_contrast ? grad_contrast.mutable_data_ptr() : nullptr,
                                    stream),
        "contrastive_backward");
  if (!arguments.options.normalize) {
    return {grad_anchors, grad_contrast};
  }
  return {of_anchors
              ? through_scaling(arguments.anchors, embeddings.anchors, grad_anchors, stream)
              : none(),
          of_contrast
              ? through_scaling(arguments.contrast, embeddings.contrast, grad_contrast, stream)
              : none()};
}

std::tuple<Tensor, Tensor> contrastive_forward(
    const Tensor& anchors, const OptionalTensor& contrast, const Tensor& anchor_coordinates,
    const OptionalTensor& contrast_coordinates, const OptionalTensor& anchor_groups,
    const OptionalTensor& contrast_groups, const OptionalTensor& learned_temperature,
    double temperature, double radius, double sigma, double self_weight,
    std::optional<int64_t> self_offset, bool exclude_groups, bool normalize) {
  const DeviceGuard guard(anchors.get_device_index());
  const ContrastiveArguments arguments =
      check_contrastive(anchors, contrast, anchor_coordinates, contrast_coordinates, anchor_groups,
                        contrast_groups,
                        {learned_temperature, temperature, radius, sigma, self_weight, self_offset,
                         exclude_groups, normalize});
  const ScalarType type = accumulate_type(anchors.scalar_type());
  Tensor losses = torch::stable::new_empty(arguments.anchors, {arguments.rows}, type);
  Tensor stats = torch::stable::new_empty(arguments.anchors, {kStatsRows, arguments.rows}, type);
  contrastive_losses(arguments, losses.mutable_data_ptr(), stats.mutable_data_ptr(),
                     current_stream(anchors.get_device_index()));
  return {losses, stats};
}

std::tuple<Tensor, Tensor> contrastive_backward(
    const Tensor& grad_losses, const Tensor& anchors, const OptionalTensor& contrast,
    const Tensor& anchor_coordinates, const OptionalTensor& contrast_coordinates,
    const OptionalTensor& anchor_groups, const OptionalTensor& contrast_groups,
    const OptionalTensor& learned_temperature, const Tensor& stats, double temperature,
    double radius, double sigma, double self_weight, std::optional<int64_t> self_offset,
    bool exclude_groups, bool normalize, bool of_anchors, bool of_contrast) {
  const DeviceGuard guard(anchors.get_device_index());
  const ContrastiveArguments arguments =
      check_contrastive(anchors, contrast, anchor_coordinates, contrast_coordinates, anchor_groups,
                        contrast_groups,
                        {learned_temperature, temperature, radius, sigma, self_weight, self_offset,
                         exclude_groups, normalize});
  const auto [upstream, kept] = check_contrastive_backward(arguments, grad_losses, stats);
  return contrastive_gradients(arguments, upstream.const_data_ptr(), kept.const_data_ptr(),
                               current_stream(anchors.get_device_index()), of_anchors,
                               of_contrast);
}

}  // namespace univa::cuda
