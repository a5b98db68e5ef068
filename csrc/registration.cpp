// Schemas of the ops and their implementations per device. Fake kernels and autograd: Python.

#include <torch/csrc/stable/library.h>

#include "ops.h"

STABLE_TORCH_LIBRARY(univa, library) {
  library.def(
      "contrastive_forward(Tensor anchors, Tensor? contrast, Tensor anchor_coordinates, "
      "Tensor? contrast_coordinates, Tensor? anchor_groups, Tensor? contrast_groups, "
      "float temperature, float radius, float self_weight, int? self_offset) "
      "-> (Tensor losses, Tensor stats)");
  library.def(
      "contrastive_backward(Tensor grad_losses, Tensor anchors, Tensor? contrast, "
      "Tensor anchor_coordinates, Tensor? contrast_coordinates, Tensor? anchor_groups, "
      "Tensor? contrast_groups, Tensor stats, float temperature, float radius, "
      "float self_weight, int? self_offset) "
      "-> (Tensor grad_anchors, Tensor grad_contrast)");
  library.def(
      "correlation_prior_forward(Tensor predictions, Tensor similarity, str form) -> Tensor");
  library.def(
      "correlation_prior_backward(Tensor grad, Tensor predictions, Tensor similarity, str form) "
      "-> (Tensor grad_predictions, Tensor grad_similarity)");
}

STABLE_TORCH_LIBRARY_IMPL(univa, CPU, library) {
  library.impl("contrastive_forward", TORCH_BOX(&univa::cpu::contrastive_forward));
  library.impl("contrastive_backward", TORCH_BOX(&univa::cpu::contrastive_backward));
  library.impl("correlation_prior_forward", TORCH_BOX(&univa::cpu::correlation_prior_forward));
  library.impl("correlation_prior_backward", TORCH_BOX(&univa::cpu::correlation_prior_backward));
}

#if defined(UNIVA_WITH_CUDA)
STABLE_TORCH_LIBRARY_IMPL(univa, CUDA, library) {
  library.impl("contrastive_forward", TORCH_BOX(&univa::cuda::contrastive_forward));
  library.impl("contrastive_backward", TORCH_BOX(&univa::cuda::contrastive_backward));
  library.impl("correlation_prior_forward", TORCH_BOX(&univa::cuda::correlation_prior_forward));
  library.impl("correlation_prior_backward", TORCH_BOX(&univa::cuda::correlation_prior_backward));
}
#endif
