// What the ops on CUDA tensors share: from torch's terms to those of launch.h. The kernels
// themselves are in the .cu files.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include "arguments.h"
#include "cuda/launch.h"
#include "cuda/stream.h"

namespace univa::cuda {

using torch::stable::accelerator::DeviceGuard;

// Blocks along x are as many as rows.
constexpr int64_t kMaxRows = 2147483647;
constexpr int64_t kMaxLabels = 46340;  // pairs of labels stay below 2^31

inline Type type_of(const Tensor& tensor) {
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

inline void check(const char* error, const char* op) {
  STD_TORCH_CHECK(error == nullptr, "univa::", op, " on CUDA: ", error);
}

inline const void* data_or_null(const OptionalTensor& tensor) {
  return tensor.has_value() ? tensor->const_data_ptr() : nullptr;
}

// The tensor itself where it already has the type, else a converted copy.
inline Tensor converted(const Tensor& tensor, ScalarType type) {
  return tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
}

// The problem of contrasting these embeddings, as they lie there.
ContrastiveProblem problem_of(const ContrastiveArguments& arguments, const Tensor& anchors,
                              const Tensor& contrast);

// Contrastive losses [N] and stats [4, N], in the accumulate type; for the op and the objective.
void contrastive_losses(const ContrastiveArguments& arguments, void* losses, void* stats,
                        void* stream);

// Gradients of the anchors and of the contrast set, in the embeddings' type, from the gradients of
// the losses [N] and stats [4, N]. Without rows: what was not asked for, and that of a contrast set
// that is the anchors.
std::tuple<Tensor, Tensor> contrastive_gradients(const ContrastiveArguments& arguments,
                                                 const void* upstream, const void* stats,
                                                 void* stream, bool of_anchors = true,
                                                 bool of_contrast = true);

}  // namespace univa::cuda
