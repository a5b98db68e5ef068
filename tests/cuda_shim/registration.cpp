// The ops of csrc/cuda, with their own launch code, as ops of `univa_shim` on CPU tensors; and
// kernels that do wrong, to show that the shim sees it.

#include <torch/csrc/stable/library.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/launch.h"
#include "cuda/stream.h"
#include "ops.h"
#include "shim.h"

namespace univa_shim {
const char* run_faulty(int which);  // faults.cu
}

namespace univa::cuda {

namespace {
bool allow_tensor_float32 = false;
}

bool stream_function_found() { return true; }
void* current_stream(int32_t) { return nullptr; }
bool tensor_float32_allowed() { return allow_tensor_float32; }

}  // namespace univa::cuda

// By ctypes.
#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT const char* univa_shim_faulty(int which) {
  const char* error = univa_shim::run_faulty(which);
  return error == nullptr ? "" : error;
}
EXPORT int univa_shim_launches() { return univa_shim::launches(); }
EXPORT void univa_shim_backwards(int yes) { univa_shim::run_blocks_backwards(yes != 0); }
EXPORT int univa_shim_shared_limit() { return univa_shim::shared_limit(); }
EXPORT void univa_shim_limit_shared(int bytes) { univa_shim::limit_shared(bytes); }
EXPORT void univa_shim_allow_tf32(int allow) { univa::cuda::allow_tensor_float32 = allow != 0; }
EXPORT int univa_shim_bfloat16_bits(float value) { return __nv_bfloat16(value).bits; }
EXPORT int univa_shim_float16_bits(float value) { return __half(value).bits; }
EXPORT float univa_shim_float16(int bits) {
  __half half;
  half.bits = static_cast<uint16_t>(bits);
  return half;
}

STABLE_TORCH_LIBRARY(univa_shim, library) {
  library.def(
      "contrastive_forward(Tensor anchors, Tensor? contrast, Tensor anchor_coordinates, "
      "Tensor? contrast_coordinates, Tensor? anchor_groups, Tensor? contrast_groups, "
      "Tensor? learned_temperature, float temperature, float radius, float sigma, "
      "float self_weight, int? self_offset, bool exclude_groups, bool normalize) "
      "-> (Tensor, Tensor)");
  library.def(
      "contrastive_backward(Tensor grad_losses, Tensor anchors, Tensor? contrast, "
      "Tensor anchor_coordinates, Tensor? contrast_coordinates, Tensor? anchor_groups, "
      "Tensor? contrast_groups, Tensor? learned_temperature, Tensor stats, float temperature, "
      "float radius, float sigma, float self_weight, int? self_offset, bool exclude_groups, "
      "bool normalize, bool of_anchors, bool of_contrast) -> (Tensor, Tensor)");
  library.def(
      "correlation_prior_forward(Tensor predictions, Tensor similarity, str form) -> Tensor");
  library.def(
      "correlation_prior_backward(Tensor grad, Tensor predictions, Tensor similarity, str form) "
      "-> (Tensor, Tensor)");
  library.def(
      "objective_forward(Tensor logits, Tensor labels, Tensor? similarity, Tensor[] embeddings, "
      "Tensor[] coordinates, float[] weights, Tensor? learned_temperature, float temperature, "
      "float radius, float sigma, float alpha, float self_weight, bool skip_rows, "
      "bool normalize, str classification, str prior) -> (Tensor, Tensor)");
  library.def(
      "objective_backward(Tensor grad_terms, Tensor logits, Tensor labels, Tensor? similarity, "
      "Tensor[] embeddings, Tensor[] coordinates, Tensor? learned_temperature, Tensor stats, "
      "float[] weights, float temperature, float radius, float sigma, float alpha, "
      "float self_weight, bool skip_rows, bool normalize, str classification, str prior) "
      "-> (Tensor, Tensor, Tensor, Tensor[])");
}

STABLE_TORCH_LIBRARY_IMPL(univa_shim, CPU, library) {
  library.impl("contrastive_forward", TORCH_BOX(&univa::cuda::contrastive_forward));
  library.impl("contrastive_backward", TORCH_BOX(&univa::cuda::contrastive_backward));
  library.impl("correlation_prior_forward", TORCH_BOX(&univa::cuda::correlation_prior_forward));
  library.impl("correlation_prior_backward", TORCH_BOX(&univa::cuda::correlation_prior_backward));
  library.impl("objective_forward", TORCH_BOX(&univa::cuda::objective_forward));
  library.impl("objective_backward", TORCH_BOX(&univa::cuda::objective_backward));
}
