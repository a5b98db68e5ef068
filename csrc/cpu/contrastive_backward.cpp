// Backward of the contrastive loss on the CPU: the logits again, tile by tile, turned in place into
// the coefficients of two matrix products.
//
// Where the contrast set is the anchors, the coefficient of a pair takes both of its roles, and
// only tiles on and above the diagonal are computed: each serves its rows and its columns.

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "cpu/contrastive.h"
#include "cpu/matrix.h"
#include "cpu/positives.h"
#include "cpu/row_kernels.h"
#include "cpu/rows.h"
#include "univa/gradient.h"
#include "univa/reduction.h"

namespace univa::cpu {

namespace {

// What the backward needs to know of every row, one array per field so that loops run along it.
template <typename T>
class RowGradients {
 public:
  RowGradients(const T* upstream, const T* stats, int64_t rows)
      : log_z_(rows), upstream_(rows), inverse_count_(rows) {
    T lowest = std::numeric_limits<T>::infinity();
    T highest = -lowest;
    bool finite = true;
    for (int64_t row = 0; row < rows; ++row) {
      const T log_z = stats[kLogZ * rows + row];
      const T count = stats[kCount * rows + row];
      log_z_[row] = log_z;
      upstream_[row] = count == T(0) ? T(0) : upstream[row];
      inverse_count_[row] = count == T(0) ? T(0) : T(1) / count;
      finite = finite && log_z - log_z == T(0);
      lowest = std::min(lowest, log_z);
      highest = std::max(highest, log_z);
    }
    if (rows > 0 && finite && highest - lowest <= kNear) {
      const double centre = 0.5 * (static_cast<double>(lowest) + highest);
      for (const T log_z : log_z_) {
        row_weight_.push_back(static_cast<T>(std::exp(log_z - centre)));
        column_weight_.push_back(static_cast<T>(std::exp(centre - log_z)));
      }
      return;
    }
    for (int64_t row = 0; row < rows; ++row) {
      if (upstream_[row] == T(0) && inverse_count_[row] == T(0)) {
        log_z_[row] = std::numeric_limits<T>::infinity();  // a constant loss, whatever its logits
      }
    }
  }

  RowCoefficient<T> row(int64_t row) const {
    return {log_z_[row], upstream_[row], inverse_count_[row]};
  }

  T row_weight(int64_t row) const { return row_weight_.empty() ? T(0) : row_weight_[row]; }

  ColumnCoefficients<T> from(int64_t row) const {
    return {log_z_.data() + row, upstream_.data() + row, inverse_count_.data() + row,
            column_weight_.empty() ? nullptr : column_weight_.data() + row};
  }

 private:
  // Where all log Z are this close, e^kNear loses nothing to underflow: a share that matters to one
  // row is a normal number as a share of another.
  static constexpr T kNear = 40;

  std::vector<T> log_z_;
  std::vector<T> upstream_;       // 0 without positives
  std::vector<T> inverse_count_;  // 0 without positives
  std::vector<T> row_weight_;     // exp(log_z - centre), empty unless near
  std::vector<T> column_weight_;  // exp(centre - log_z), empty unless near
};

// Gradient rows of one set of embeddings, [rows, depth]; products are added block by block.
template <typename T>
class GradientSum {
 public:
  GradientSum(const Tensor& like, int64_t rows, int64_t depth, int64_t side)
      : tensor_(torch::stable::new_empty(like, {rows, depth}, scalar_type_of<T>())),
        data_(tensor_.mutable_data_ptr<T>()),
        depth_(depth),
        side_(side),
        started_((rows + side - 1) / side) {}

  // Adds coefficients [height, width] @ other [width, depth] to the rows from `row` on.
  void add(int64_t row, const Tensor& coefficients, int64_t height, const Tensor& other) {
    const bool started = started_[row / side_];
    started_[row / side_] = true;
    multiply(as_matrix(data_ + row * depth_, height, depth_), coefficients, other, started);
  }

  // As the gradient of `embeddings`, which `rows` were made of.
  Tensor finish(const Rows<T>& rows, const Tensor& embeddings) {
    for (size_t block = 0; block < started_.size(); ++block) {
      if (!started_[block]) {  // held against nothing
        const int64_t begin = static_cast<int64_t>(block) * side_;
        const int64_t end = std::min(begin + side_, embeddings.size(0));
        std::fill(data_ + begin * depth_, data_ + end * depth_, T(0));
      }
    }
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
  const Positives<T> positives(arguments);
  const RowGradients<T> gradients(upstream, stats, rows);
  const T scale = inverse_temperature<T>(options);
  const T self_weight = static_cast<T>(options.self_weight);
  const T log_self_weight = static_cast<T>(std::log(options.self_weight));

  const int64_t side = tile_side(rows, columns);
  GradientSum<T> grad_anchors(anchors.tensor(), rows, depth, side);
  GradientSum<T> grad_contrast(anchors.tensor(), symmetric ? 0 : columns, depth, side);
  GradientSum<T>& grad_columns = symmetric ? grad_anchors : grad_contrast;
  const std::unique_ptr<T[]> tile(new T[std::min(side, rows) * std::min(side, columns)]);
  for (int64_t row = 0; row < rows && depth > 0; row += side) {
    const int64_t height = std::min(side, rows - row);
    const T* row_data = anchors.data() + row * depth;
    for (int64_t column = symmetric ? row : 0; column < columns; column += side) {
      const int64_t width = std::min(side, columns - column);
      const T* column_data = contrast.data() + column * depth;
      const bool triangular = symmetric && column == row;
      dot_products(tile.get(), row_data, height, column_data, width, depth);
      torch::stable::parallel_for(0, height, row_grain(width), [&](int64_t begin, int64_t end) {
        T positive[kMaxTile];
        for (int64_t r = begin; r < end; ++r) {
          T* dots = tile.get() + r * width;
          const RowCoefficient<T> own = gradients.row(row + r);
          const int64_t self = self_column(row + r, arguments.has_self, arguments.self_offset,
                                           columns) - column;
          const bool here = self >= 0 && self < width;
          const T self_logit = here ? dots[self] * scale : T(0);
          if (here) {
            dots[self] = negative_infinity<T>();  // may lie far above log Z: no exponent for it
          }
          const int64_t c = triangular ? r + 1 : 0;
          positives.exclude(row + r, column + c, width - c, dots + c);
          positives.fill(row + r, column + c, width - c, positive);
          if (symmetric) {
            coefficients_of_both(dots + c, positive, width - c, scale, own,
                                 gradients.row_weight(row + r), gradients.from(column + c));
          } else {
            if (here) {
              positive[self] = T(0);
            }
            coefficients_of_row(dots, positive, width, scale, own);
          }
          if (here) {
            const T share = self_weight > T(0) && own.inverse_count != T(0)
                                ? own.upstream * (std::exp(self_logit + log_self_weight - own.log_z) -
                                                  self_weight * own.inverse_count)
                                : T(0);
            dots[self] = (symmetric ? share + share : share) * scale;
          }
        }
      });
      if (triangular) {
        mirror(tile.get(), height);
      }
      grad_anchors.add(row, as_matrix(tile.get(), height, width), height,
                       as_matrix(column_data, width, depth));
      if (!triangular) {
        grad_columns.add(column, as_matrix(tile.get(), width, height, /*transposed=*/true), width,
                         as_matrix(row_data, height, depth));
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
