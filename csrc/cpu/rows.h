// Embeddings as the contrastive loss takes them: in the accumulate type, of unit length if asked.
#pragma once

#include <memory>
#include <vector>

#include "arguments.h"
#include "cpu/matrix.h"
#include "cpu/row_kernels.h"
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
      lengths_[row] = unit_row(values + row * depth_, depth_, unit + row * depth_);
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

// The contrast set, a tile's rows at a time. Where every row is asked for once and has to be scaled,
// that happens there, in cache: no copy of a memory that is much larger.
template <typename T>
class ContrastRows {
 public:
  // once: blocks are asked for once each. side: rows of a block, at most.
  ContrastRows(const ContrastiveArguments& arguments, const Rows<T>& anchors, bool once,
               int64_t side)
      : rows_(arguments.symmetric
                  ? anchors
                  : Rows<T>(arguments.contrast, arguments.options.normalize && !once)),
        depth_(arguments.depth) {
    if (once && !arguments.symmetric && arguments.options.normalize) {
      block_.reset(new T[side * depth_]);
    }
  }

  // Rows from `begin` on; where they had to be scaled, until the next call.
  const T* block(int64_t begin, int64_t count) {
    const T* values = rows_.data() + begin * depth_;
    if (block_ == nullptr) {
      return values;
    }
    T* unit = block_.get();
    torch::stable::parallel_for(0, count, row_grain(depth_), [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        unit_row(values + row * depth_, depth_, unit + row * depth_);
      }
    });
    return unit;
  }

  // All of them, where blocks are asked for more than once.
  const Rows<T>& rows() const { return rows_; }

 private:
  Rows<T> rows_;
  int64_t depth_;
  std::unique_ptr<T[]> block_;
};

}  // namespace univa::cpu
