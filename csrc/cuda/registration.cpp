// The CUDA kernels of the ops that csrc/registration.cpp defines.

#include <torch/csrc/stable/library.h>

#include "ops.h"

STABLE_TORCH_LIBRARY_IMPL(univa, CUDA, library) {
  library.impl("contrastive_forward", TORCH_BOX(&univa::cuda::contrastive_forward));
  library.impl("contrastive_backward", TORCH_BOX(&univa::cuda::contrastive_backward));
  library.impl("correlation_prior_forward", TORCH_BOX(&univa::cuda::correlation_prior_forward));
  library.impl("correlation_prior_backward", TORCH_BOX(&univa::cuda::correlation_prior_backward));
  library.impl("objective_forward", TORCH_BOX(&univa::cuda::objective_forward));
  library.impl("objective_backward", TORCH_BOX(&univa::cuda::objective_backward));
}
