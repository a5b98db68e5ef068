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

template <typename T>
class Backward : public GradientsTask {
 public:
  Backward(const ContrastiveArguments& arguments, const T* upstream, const T* stats,
           bool of_anchors, bool of_contrast)
      : arguments_(arguments),
        symmetric_(arguments.symmetric),
        of_anchors_(of_anchors),
        of_contrast_(of_contrast && !symmetric_),
        scale_(inverse_temperature<T>(arguments.options)),
        self_weight_(static_cast<T>(arguments.options.self_weight)),
        log_self_weight_(static_cast<T>(std::log(arguments.options.self_weight))),
        anchors_(arguments.anchors, arguments.options.normalize),
        side_(tile_side(arguments.rows, arguments.columns)),
        contrast_(arguments, anchors_, arguments.rows <= side_ && !of_contrast_, side_),
        positives_(arguments),
        row_gradients_(upstream, stats, arguments.rows),
        grad_anchors_(anchors_.tensor(), of_anchors_ ? arguments.rows : 0, arguments.depth, side_),
        grad_contrast_(anchors_.tensor(), of_contrast_ ? arguments.columns : 0, arguments.depth,
                       side_) {}

  void run() override {
    const int64_t rows = arguments_.rows;
    const int64_t columns = arguments_.columns;
    if (!of_anchors_ && !of_contrast_) {
      return;
    }
    tile_.reset(new T[std::min(side_, rows) * std::min(side_, columns)]);
    for (row_ = 0; row_ < rows && arguments_.depth > 0; row_ += side_) {
      height_ = std::min(side_, rows - row_);
      for (column_ = symmetric_ ? row_ : 0; column_ < columns; column_ += side_) {
        width_ = std::min(side_, columns - column_);
        add_tile();
      }
    }
  }

  std::tuple<Tensor, Tensor> gradients() override {
    const auto none = [&] {
      return torch::stable::new_empty(arguments_.anchors, {0, arguments_.depth});
    };
    return {of_anchors_ ? grad_anchors_.finish(anchors_, arguments_.anchors) : none(),
            of_contrast_ ? grad_contrast_.finish(contrast_.rows(), arguments_.contrast) : none()};
  }

 private:
  bool triangular() const { return symmetric_ && row_ == column_; }

  void add_tile() {
    const int64_t depth = arguments_.depth;
    const T* row_data = anchors_.data() + row_ * depth;
    const T* column_data = contrast_.block(column_, width_);
    dot_products(tile_.get(), row_data, height_, column_data, width_, depth);
    torch::stable::parallel_for(0, height_, row_grain(width_), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        fill_coefficients(r);
      }
    });
    if (triangular()) {
      mirror(tile_.get(), height_);
    }
    if (of_anchors_) {
      grad_anchors_.add(row_, as_matrix(tile_.get(), height_, width_), height_,
                        as_matrix(column_data, width_, depth));
    }
    if (symmetric_ ? !triangular() : of_contrast_) {
      GradientSum<T>& grad_columns = symmetric_ ? grad_anchors_ : grad_contrast_;
      grad_columns.add(column_, as_matrix(tile_.get(), width_, height_, /*transposed=*/true),
                       width_, as_matrix(row_data, height_, depth));
    }
  }

  // Row r of the tile; of a triangular one, what is right of its diagonal, and the self pair.
  void fill_coefficients(int64_t r) {
    T positive[kMaxTile];
    T* dots = tile_.get() + r * width_;
    const RowCoefficient<T> own = row_gradients_.row(row_ + r);
    const int64_t self = self_column(row_ + r, arguments_.has_self, arguments_.self_offset,
                                     arguments_.columns) - column_;
    const bool here = self >= 0 && self < width_;
    const T self_logit = here ? dots[self] * scale_ : T(0);
    if (here) {
      dots[self] = negative_infinity<T>();  // may lie far above log Z: no exponent for it
    }
    const int64_t first = triangular() ? r + 1 : 0;
    const int64_t count = width_ - first;
    positives_.exclude(row_ + r, column_ + first, count, dots + first);
    positives_.fill(row_ + r, column_ + first, count, positive);
    if (symmetric_) {
      coefficients_of_both(dots + first, positive, count, scale_, own,
                           row_gradients_.row_weight(row_ + r),
                           row_gradients_.from(column_ + first));
    } else {
      if (here) {
        positive[self] = T(0);
      }
      coefficients_of_row(dots, positive, width_, scale_, own);
    }
    if (here) {
      T share = 0;
      if (self_weight_ > T(0) && own.inverse_count != T(0)) {
        share = own.upstream * (std::exp(self_logit + log_self_weight_ - own.log_z) -
                                self_weight_ * own.inverse_count);
      }
      dots[self] = (symmetric_ ? share + share : share) * scale_;
    }
  }

  const ContrastiveArguments& arguments_;
  const bool symmetric_;
  const bool of_anchors_;
  const bool of_contrast_;  // as a set of its own
  const T scale_;
  const T self_weight_;
  const T log_self_weight_;
  const Rows<T> anchors_;
  const int64_t side_;
  ContrastRows<T> contrast_;
  const Positives<T> positives_;
  const RowGradients<T> row_gradients_;
  GradientSum<T> grad_anchors_;
  GradientSum<T> grad_contrast_;
  std::unique_ptr<T[]> tile_;

  // The tile at hand.
  int64_t row_ = 0;
  int64_t column_ = 0;
  int64_t height_ = 0;
  int64_t width_ = 0;
};

}  // namespace

template <typename T>
std::unique_ptr<GradientsTask> gradients_task(const ContrastiveArguments& arguments,
                                              const T* upstream, const T* stats, bool of_anchors,
                                              bool of_contrast) {
  return std::make_unique<Backward<T>>(arguments, upstream, stats, of_anchors, of_contrast);
}

template std::unique_ptr<GradientsTask> gradients_task(const ContrastiveArguments&, const float*,
                                                       const float*, bool, bool);
template std::unique_ptr<GradientsTask> gradients_task(const ContrastiveArguments&, const double*,
                                                       const double*, bool, bool);

std::tuple<Tensor, Tensor> contrastive_backward(
    const Tensor& grad_losses, const Tensor& anchors, const OptionalTensor& contrast,
    const Tensor& anchor_coordinates, const OptionalTensor& contrast_coordinates,
    const OptionalTensor& anchor_groups, const OptionalTensor& contrast_groups,
    const OptionalTensor& learned_temperature, const Tensor& stats, double temperature,
    double radius, double sigma, double self_weight, std::optional<int64_t> self_offset,
    bool exclude_groups, bool normalize, bool of_anchors, bool of_contrast) {
  const ContrastiveArguments arguments =
      check_contrastive(anchors, contrast, anchor_coordinates, contrast_coordinates, anchor_groups,
                        contrast_groups,
                        {learned_temperature, temperature, radius, sigma, self_weight, self_offset,
                         exclude_groups, normalize});
  const auto [upstream, kept] = check_contrastive_backward(arguments, grad_losses, stats);
  const auto task = kept.scalar_type() == ScalarType::Double
                        ? gradients_task(arguments, upstream.const_data_ptr<double>(),
                                         kept.const_data_ptr<double>(), of_anchors, of_contrast)
                        : gradients_task(arguments, upstream.const_data_ptr<float>(),
                                         kept.const_data_ptr<float>(), of_anchors, of_contrast);
  task->run();
  return task->gradients();
}

}  // namespace univa::cpu
