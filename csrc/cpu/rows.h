// Embeddings as the contrastive loss takes them: in the accumulate type, of unit length if asked.
#pragma once

#include <cmath>
#include <vector>

#include "cpu/matrix.h"
#include "univa/unit.h"

namespace univa::cpu {

template <typename T>
class Rows {
 public:
  Rows(const Tensor& embeddings, bool normalize)
      : tensor_(converted(embeddings, scalar_type_of<T>())), depth_(embeddings.size(1)) {
    if (normalize) {
      scale();
    }
  }

  const Tensor& tensor() const { return tensor_; }

  const T* data() const { return tensor_.const_data_ptr<T>(); }

  // Turns the gradient of these rows into that of the embeddings, in place.
  void chain(T* gradient) const {
    for_rows([&](int64_t row) {
      const T* unit = data() + row * depth_;
      T* own = gradient + row * depth_;
      double along = 0;
      for (int64_t d = 0; d < depth_; ++d) {
        along += static_cast<double>(own[d]) * unit[d];
      }
      for (int64_t d = 0; d < depth_; ++d) {
        own[d] = static_cast<T>(through_unit<double>(own[d], unit[d], along, lengths_[row]));
      }
    });
  }

 private:
  void scale() {
    const Tensor source = tensor_;
    tensor_ = torch::stable::empty_like(source);
    lengths_.resize(source.size(0));
    const T* values = source.const_data_ptr<T>();
    T* unit = tensor_.mutable_data_ptr<T>();
    for_rows([&](int64_t row) {
      double squared = 0;
      for (int64_t d = row * depth_; d < (row + 1) * depth_; ++d) {
        squared += static_cast<double>(values[d]) * values[d];
      }
      lengths_[row] = std::sqrt(squared);
      const double divisor = unit_divisor(lengths_[row]);
      for (int64_t d = row * depth_; d < (row + 1) * depth_; ++d) {
        unit[d] = static_cast<T>(values[d] / divisor);
      }
    });
  }

  template <typename Body>
  void for_rows(const Body& body) const {
    const auto run = [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        body(row);
      }
    };
    torch::stable::parallel_for(0, static_cast<int64_t>(lengths_.size()), row_grain(depth_), run);
  }

  Tensor tensor_;
  int64_t depth_;
  std::vector<double> lengths_;  // empty where nothing is scaled
};

}  // namespace univa::cpu
