#include "arguments.h"

#include <torch/csrc/stable/ops.h>

#include <cmath>

namespace univa {

namespace {

using torch::headeronly::toString;

std::string shape(const Tensor& tensor) {
  std::string text = "[";
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    text += (d == 0 ? "" : ", ") + std::to_string(tensor.size(d));
  }
  return text + "]";
}

bool same_device(const Tensor& a, const Tensor& b) {
  return a.device().type() == b.device().type() && a.get_device_index() == b.get_device_index();
}

void check_matrix(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == 2, name, " must be a matrix, got shape ", shape(tensor));
}

void check_groups(const Tensor& groups, const Tensor& of, const char* name, const char* of_name) {
  STD_TORCH_CHECK(groups.scalar_type() == ScalarType::Long, name, " must be int64, got ",
                  toString(groups.scalar_type()));
  STD_TORCH_CHECK(groups.dim() == 1 && groups.size(0) == of.size(0), name, " must have shape [",
                  of.size(0), "], one per row of ", of_name, ", got ", shape(groups));
  STD_TORCH_CHECK(same_device(groups, of), name, " must be on the device of ", of_name);
}

void check_coordinates(const Tensor& coordinates, const Tensor& of, const char* name,
                       const char* of_name) {
  check_matrix(coordinates, name);
  STD_TORCH_CHECK(coordinates.scalar_type() == ScalarType::Float ||
                      coordinates.scalar_type() == ScalarType::Double,
                  name, " must be float32 or float64, got ", toString(coordinates.scalar_type()));
  STD_TORCH_CHECK(coordinates.size(0) == of.size(0), name, " must have one row per row of ",
                  of_name, " (", of.size(0), "), got shape ", shape(coordinates));
  STD_TORCH_CHECK(same_device(coordinates, of), name, " must be on the device of ", of_name);
}

OptionalTensor contiguous(const OptionalTensor& tensor) {
  return tensor.has_value() ? OptionalTensor(torch::stable::contiguous(*tensor)) : std::nullopt;
}

void check_contrast(const Tensor& anchors, const Tensor& contrast, const Tensor& anchor_coordinates,
                    const OptionalTensor& contrast_coordinates, const OptionalTensor& anchor_groups,
                    const OptionalTensor& contrast_groups) {
  check_matrix(contrast, "contrast");
  STD_TORCH_CHECK(contrast.scalar_type() == anchors.scalar_type(), "contrast must be ",
                  toString(anchors.scalar_type()), " like the anchors, got ",
                  toString(contrast.scalar_type()));
  STD_TORCH_CHECK(contrast.size(1) == anchors.size(1), "contrast must have ", anchors.size(1),
                  " columns like the anchors, got shape ", shape(contrast));
  STD_TORCH_CHECK(same_device(contrast, anchors), "contrast must be on the device of anchors");
  STD_TORCH_CHECK(contrast_coordinates.has_value(), "contrast needs contrast_coordinates");
  check_coordinates(*contrast_coordinates, contrast, "contrast_coordinates", "contrast");
  STD_TORCH_CHECK(
      contrast_coordinates->scalar_type() == anchor_coordinates.scalar_type() &&
          contrast_coordinates->size(1) == anchor_coordinates.size(1),
      "contrast_coordinates must have the dtype and the columns of anchor_coordinates");
  STD_TORCH_CHECK(anchor_groups.has_value() == contrast_groups.has_value(),
                  "anchor_groups and contrast_groups must be given together");
  if (contrast_groups.has_value()) {
    check_groups(*contrast_groups, contrast, "contrast_groups", "contrast");
  }
}

}  // namespace

ScalarType accumulate_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

ContrastiveArguments check_contrastive(
    const Tensor& anchors, const OptionalTensor& contrast, const Tensor& anchor_coordinates,
    const OptionalTensor& contrast_coordinates, const OptionalTensor& anchor_groups,
    const OptionalTensor& contrast_groups, double temperature, double radius, double self_weight,
    std::optional<int64_t> self_offset) {
  check_matrix(anchors, "anchors");
  const ScalarType type = anchors.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double ||
                      type == ScalarType::BFloat16 || type == ScalarType::Half,
                  "anchors must be float32, float64, bfloat16 or float16, got ", toString(type));
  check_coordinates(anchor_coordinates, anchors, "anchor_coordinates", "anchors");
  if (anchor_groups.has_value()) {
    check_groups(*anchor_groups, anchors, "anchor_groups", "anchors");
  }
  STD_TORCH_CHECK(std::isfinite(temperature) && temperature > 0,
                  "temperature must be finite and above 0, got ", temperature);
  STD_TORCH_CHECK(radius >= 0, "radius must be at least 0, got ", radius);
  STD_TORCH_CHECK(self_weight >= 0 && self_weight <= 1, "self_weight must lie in [0, 1], got ",
                  self_weight);

  const bool symmetric = !contrast.has_value();
  if (symmetric) {
    STD_TORCH_CHECK(!contrast_coordinates.has_value() && !contrast_groups.has_value(),
                    "contrast_coordinates and contrast_groups need contrast");
    STD_TORCH_CHECK(self_offset.value_or(0) == 0,
                    "self_offset must be 0 or None without contrast, got ", self_offset.value_or(0));
  } else {
    check_contrast(anchors, *contrast, anchor_coordinates, contrast_coordinates, anchor_groups,
                   contrast_groups);
  }

  Tensor rows = torch::stable::contiguous(anchors);
  Tensor columns = symmetric ? rows : torch::stable::contiguous(*contrast);
  Tensor row_coordinates = torch::stable::contiguous(anchor_coordinates);
  Tensor column_coordinates =
      symmetric ? row_coordinates : torch::stable::contiguous(*contrast_coordinates);
  OptionalTensor row_groups = contiguous(anchor_groups);
  OptionalTensor column_groups = symmetric ? row_groups : contiguous(contrast_groups);
  const int64_t n = rows.size(0);
  const int64_t m = columns.size(0);
  // An offset beyond both sets reaches nothing; dropping it here keeps row + offset in range.
  const int64_t offset = self_offset.value_or(0);
  const bool has_self = self_offset.has_value() && offset > -n && offset < m;
  return {rows,
          columns,
          row_coordinates,
          column_coordinates,
          row_groups,
          column_groups,
          n,
          m,
          rows.size(1),
          row_coordinates.size(1),
          1.0 / temperature,
          radius,
          self_weight,
          symmetric,
          has_self,
          has_self ? offset : 0};
}

std::tuple<Tensor, Tensor> check_contrastive_backward(const ContrastiveArguments& arguments,
                                                      const Tensor& grad_losses,
                                                      const Tensor& stats) {
  const ScalarType type = accumulate_type(arguments.anchors.scalar_type());
  STD_TORCH_CHECK(grad_losses.dim() == 1 && grad_losses.size(0) == arguments.rows,
                  "grad_losses must have shape [", arguments.rows, "], got ", shape(grad_losses));
  STD_TORCH_CHECK(stats.dim() == 2 && stats.size(0) == 4 && stats.size(1) == arguments.rows,
                  "stats must have shape [4, ", arguments.rows, "], got ", shape(stats));
  STD_TORCH_CHECK(grad_losses.scalar_type() == type && stats.scalar_type() == type,
                  "grad_losses and stats must be ", toString(type), ", got ",
                  toString(grad_losses.scalar_type()), " and ", toString(stats.scalar_type()));
  STD_TORCH_CHECK(
      same_device(grad_losses, arguments.anchors) && same_device(stats, arguments.anchors),
      "grad_losses and stats must be on the device of anchors");
  return {torch::stable::contiguous(grad_losses), torch::stable::contiguous(stats)};
}

PriorArguments check_prior(const Tensor& predictions, const Tensor& similarity,
                           const std::string& form) {
  check_matrix(predictions, "predictions");
  check_matrix(similarity, "similarity");
  const ScalarType type = predictions.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double ||
                      type == ScalarType::BFloat16 || type == ScalarType::Half,
                  "predictions must be float32, float64, bfloat16 or float16, got ",
                  toString(type));
  STD_TORCH_CHECK(similarity.scalar_type() == type, "similarity must be ", toString(type),
                  " like the predictions, got ", toString(similarity.scalar_type()));
  const int64_t labels = predictions.size(1);
  STD_TORCH_CHECK(similarity.size(0) == labels && similarity.size(1) == labels,
                  "similarity must have shape [", labels, ", ", labels, "], got ",
                  shape(similarity));
  STD_TORCH_CHECK(same_device(predictions, similarity),
                  "similarity must be on the device of predictions");
  STD_TORCH_CHECK(form == "quadratic" || form == "norm",
                  "form must be \"quadratic\" or \"norm\", got \"", form, "\"");
  return {torch::stable::contiguous(predictions), torch::stable::contiguous(similarity),
          predictions.size(0), labels,
          form == "norm" ? PriorForm::kNorm : PriorForm::kQuadratic};
}

Tensor check_prior_backward(const PriorArguments& arguments, const Tensor& grad) {
  STD_TORCH_CHECK(grad.numel() == 1, "grad must be a scalar, got shape ", shape(grad));
  STD_TORCH_CHECK(grad.scalar_type() == arguments.predictions.scalar_type(), "grad must be ",
                  toString(arguments.predictions.scalar_type()), " like the predictions, got ",
                  toString(grad.scalar_type()));
  STD_TORCH_CHECK(same_device(grad, arguments.predictions),
                  "grad must be on the device of predictions");
  return torch::stable::contiguous(grad);
}

}  // namespace univa
