// Backward of the contrastive loss on the CPU: the logits again, tile by tile, turned in place into
// the coefficients of two matrix products.
//
// Where the contrast set is the anchors, the coefficient of a pair takes both of its roles, and
// only tiles on and above the diagonal are computed: each serves its rows and its columns.

#include <cmath>
#include <memory>
#include <vector>

#include "cpu/contrastive.h"
#include "cpu/matrix.h"
#include "cpu/positives.h"
#include "cpu/rows.h"
#include "cpu/vector_exp.h"
#include "univa/gradient.h"
#include "univa/reduction.h"

namespace univa::cpu {

namespace {

// RowGradients of the columns' own rows, from one column on; null where they have no such role.
template <typename T>
struct ColumnGradients {
  const T* log_z = nullptr;
  const T* scale = nullptr;
  const T* count = nullptr;
};

// RowGradient of every row, one array per field so that loops can run along it.
template <typename T>
struct RowGradients {
  std::vector<T> log_z;
  std::vector<T> scale;
  std::vector<T> count;

  RowGradients(const T* upstream, const T* stats, int64_t rows)
      : log_z(rows), scale(rows), count(rows) {
    for (int64_t row = 0; row < rows; ++row) {
      const RowGradient<T> gradient = RowGradient<T>::make(
          upstream[row], stats[kLogZ * rows + row], stats[kCount * rows + row]);
      log_z[row] = gradient.log_z;
      scale[row] = gradient.scale;
      count[row] = gradient.count;
    }
  }

  RowGradient<T> operator[](int64_t row) const { return {log_z[row], scale[row], count[row]}; }

  ColumnGradients<T> from(int64_t row) const {
    return {log_z.data() + row, scale.data() + row, count.data() + row};
  }
};

// Gradient rows of one set of embeddings, [rows, depth]; products are added block by block.
template <typename T>
class GradientSum {
 public:
  GradientSum(const Tensor& like, int64_t rows, int64_t depth, int64_t side)
      : tensor_(torch::stable::new_zeros(like, {rows, depth}, scalar_type_of<T>())),
        data_(tensor_.mutable_data_ptr<T>()),
        depth_(depth),
        side_(side),
        started_((rows + side - 1) / side) {}

  // Adds coefficients [height, width] @ other [width, depth] to the rows from `row` on.
  void add(int64_t row, const Tensor& coefficients, int64_t height, const Tensor& other,
           std::unique_ptr<T[]>& scratch) {
    T* target = data_ + row * depth_;
    if (!started_[row / side_]) {
      started_[row / side_] = true;
      multiply(as_matrix(target, height, depth_), coefficients, other);
      return;
    }
    if (!scratch) {
      scratch.reset(new T[side_ * depth_]);
    }
    multiply(as_matrix(scratch.get(), height, depth_), coefficients, other);
    const T* source = scratch.get();
    torch::stable::parallel_for(0, height * depth_, 16384, [&](int64_t begin, int64_t end) {
      for (int64_t e = begin; e < end; ++e) {
        target[e] += source[e];
      }
    });
  }

  // As the gradient of `embeddings`, which `rows` were made of.
  Tensor finish(const Rows<T>& rows, const Tensor& embeddings) {
    rows.chain(data_);
    return converted(tensor_, embeddings.scalar_type());
  }

 private:
  Tensor tensor_;
  T* data_;
  int64_t depth_;
  int64_t side_;
  std::vector<bool> started_;
};

// Turns a row of dot products into the coefficients of its pairs, 1/temperature included.
template <typename T>
UNIVA_INLINE void fill_coefficients(T* row_of_tile, const T* positive, int64_t count,
                                    T inverse_temperature, const RowGradient<T>& row,
                                    const ColumnGradients<T>& others) {
  if (others.log_z == nullptr) {
#pragma omp simd
    for (int64_t c = 0; c < count; ++c) {
      const T logit = row_of_tile[c] * inverse_temperature;
      const T own = row.scale * (vector_exp(logit - row.log_z) - positive[c] / row.count);
      row_of_tile[c] = own * inverse_temperature;
    }
    return;
  }
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) {
    const T logit = row_of_tile[c] * inverse_temperature;
    const T own = row.scale * (vector_exp(logit - row.log_z) - positive[c] / row.count);
    const T other =
        others.scale[c] * (vector_exp(logit - others.log_z[c]) - positive[c] / others.count[c]);
    row_of_tile[c] = (own + other) * inverse_temperature;
  }
}

UNIVA_CLONES void coefficients_in_place(float* row_of_tile, const float* positive, int64_t count,
                                        float inverse_temperature, const RowGradient<float>& row,
                                        const ColumnGradients<float>& others) {
  fill_coefficients(row_of_tile, positive, count, inverse_temperature, row, others);
}

void coefficients_in_place(double* row_of_tile, const double* positive, int64_t count,
                           double inverse_temperature, const RowGradient<double>& row,
                           const ColumnGradients<double>& others) {
  fill_coefficients(row_of_tile, positive, count, inverse_temperature, row, others);
}

}  // namespace

template <typename T>
std::tuple<Tensor, Tensor> contrastive_gradients(const ContrastiveArguments& arguments,
                                                 const T* upstream, const T* stats) {
  const int64_t rows = arguments.rows;
  const int64_t columns = arguments.columns;
  const int64_t depth = arguments.depth;
  const bool symmetric = arguments.symmetric;
  const ContrastiveOptions& options = arguments.options;
  const Rows<T> anchors(arguments.anchors, options.normalize);
  const Rows<T> contrast = symmetric ? anchors : Rows<T>(arguments.contrast, options.normalize);
  const T* anchor_data = anchors.data();
  const T* contrast_data = contrast.data();
  const Positives positives(arguments);
  const RowGradients<T> gradients(upstream, stats, rows);
  const T scale = inverse_temperature<T>(options);
  const T self_weight = static_cast<T>(options.self_weight);
  const T log_self_weight = static_cast<T>(std::log(options.self_weight));

  const int64_t side = tile_side<T>(depth);
  GradientSum<T> grad_anchors(anchors.tensor(), rows, depth, side);
  GradientSum<T> grad_contrast(anchors.tensor(), symmetric ? 0 : columns, depth, side);
  GradientSum<T>& grad_columns = symmetric ? grad_anchors : grad_contrast;
  const std::unique_ptr<T[]> tile(new T[std::min(side, rows) * std::min(side, columns)]);
  std::unique_ptr<T[]> scratch;
  for (int64_t row = 0; row < rows && depth > 0; row += side) {
    const int64_t height = std::min(side, rows - row);
    const Tensor row_block = as_matrix(anchor_data + row * depth, height, depth);
    for (int64_t column = symmetric ? row : 0; column < columns; column += side) {
      const int64_t width = std::min(side, columns - column);
      const Tensor column_block = as_matrix(contrast_data + column * depth, width, depth);
      dot_products(tile.get(), anchor_data + row * depth, height, contrast_data + column * depth,
                   width, depth);
      if (symmetric && column == row) {
        mirror(tile.get(), height);
      }
      const auto fill_rows = [&](int64_t begin, int64_t end) {
        T positive[kMaxTile];
        for (int64_t r = begin; r < end; ++r) {
          T* values = tile.get() + r * width;
          const RowGradient<T> gradient = gradients[row + r];
          const int64_t self = self_column(row + r, arguments.has_self, arguments.self_offset,
                                           columns) - column;
          const bool here = self >= 0 && self < width;
          const T self_logit = here ? values[self] * scale : T(0);
          positives.fill(row + r, column, width, positive, values);
          if (here) {
            values[self] = negative_infinity<T>();  // may lie far above log Z: no exponent for it
          }
          coefficients_in_place(values, positive, width, scale, gradient,
                                symmetric ? gradients.from(column) : ColumnGradients<T>{});
          if (here) {
            const T own =
                self_weight > T(0)
                    ? gradient.coefficient(self_logit + log_self_weight, self_weight)
                    : T(0);
            values[self] = (symmetric ? own + own : own) * scale;
          }
        }
      };
      torch::stable::parallel_for(0, height, row_grain(width), fill_rows);
      grad_anchors.add(row, as_matrix(tile.get(), height, width), height, column_block, scratch);
      if (!symmetric || column != row) {
        grad_columns.add(column, as_matrix(tile.get(), width, height, /*transposed=*/true), width,
                         row_block, scratch);
      }
    }
  }
  Tensor of_anchors = grad_anchors.finish(anchors, arguments.anchors);
  if (symmetric) {
    return {of_anchors, torch::stable::new_empty(arguments.anchors, {0, depth})};
  }
  return {of_anchors, grad_contrast.finish(contrast, arguments.contrast)};
}

template std::tuple<Tensor, Tensor> contrastive_gradients(const ContrastiveArguments&,
                                                          const float*, const float*);
template std::tuple<Tensor, Tensor> contrastive_gradients(const ContrastiveArguments&,
                                                          const double*, const double*);

std::tuple<Tensor, Tensor> contrastive_backward(
    const Tensor& grad_losses, const Tensor& anchors, const OptionalTensor& contrast,
    const Tensor& anchor_coordinates, const OptionalTensor& contrast_coordinates,
    const OptionalTensor& anchor_groups, const OptionalTensor& contrast_groups,
    const OptionalTensor& learned_temperature, const Tensor& stats, double temperature,
    double radius, double sigma, double self_weight, std::optional<int64_t> self_offset,
    bool exclude_groups, bool normalize) {
  const ContrastiveArguments arguments =
      check_contrastive(anchors, contrast, anchor_coordinates, contrast_coordinates, anchor_groups,
                        contrast_groups,
                        {learned_temperature, temperature, radius, sigma, self_weight, self_offset,
                         exclude_groups, normalize});
  const auto [upstream, kept] = check_contrastive_backward(arguments, grad_losses, stats);
  if (kept.scalar_type() == ScalarType::Double) {
    return contrastive_gradients(arguments, upstream.const_data_ptr<double>(),
                                 kept.const_data_ptr<double>());
  }
  return contrastive_gradients(arguments, upstream.const_data_ptr<float>(),
                               kept.const_data_ptr<float>());
}

}  // namespace univa::cpu
