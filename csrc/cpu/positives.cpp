#include "cpu/positives.h"

#include "cpu/clones.h"
#include "cpu/vector_exp.h"

namespace univa::cpu {

namespace {

// Squared distances of one point to `count` columns, in [p, M] layout, handed to `take(c, d^2)`.
// The number of coordinates is a constant where it is small, so that one pass does.
template <int P, typename U, typename Take>
UNIVA_INLINE void few_coordinates(const U* point, const U* columns, int64_t stride, int64_t count,
                                  const Take& take) {
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) {
    U squared = 0;
    for (int d = 0; d < P; ++d) {
      squared = add_squared_difference(squared, point[d], columns[d * stride + c]);
    }
    take(c, squared);
  }
}

template <typename U, typename Take>
UNIVA_INLINE void many_coordinates(const U* point, const U* columns, int64_t stride,
                                   int64_t dimensions, int64_t count, const Take& take) {
  constexpr int64_t kStrip = 64;
  U squared[kStrip];
  for (int64_t begin = 0; begin < count; begin += kStrip) {
    const int64_t width = std::min(kStrip, count - begin);
    std::fill(squared, squared + kStrip, U(0));
    for (int64_t d = 0; d < dimensions; ++d) {
      const U* others = columns + d * stride + begin;
#pragma omp simd
      for (int64_t c = 0; c < width; ++c) {
        squared[c] = add_squared_difference(squared[c], point[d], others[c]);
      }
    }
#pragma omp simd
    for (int64_t c = 0; c < width; ++c) {
      take(begin + c, squared[c]);
    }
  }
}

template <typename U, typename Take>
UNIVA_INLINE void squared_distances_to(const Points<U>& points, int64_t count, const Take& take) {
  switch (points.dimensions) {
    case 1:
      return few_coordinates<1>(points.point, points.columns, points.stride, count, take);
    case 2:
      return few_coordinates<2>(points.point, points.columns, points.stride, count, take);
    case 3:
      return few_coordinates<3>(points.point, points.columns, points.stride, count, take);
    default:
      return many_coordinates(points.point, points.columns, points.stride, points.dimensions, count,
                              take);
  }
}

template <typename T, typename U>
UNIVA_INLINE void weigh(const Points<U>& points, const PositiveRule<T, U>& rule, int64_t count,
                        T* positive) {
  if (rule.gaussian) {
    const T factor = rule.factor;
    squared_distances_to(points, count, [=](int64_t c, U squared) {
      positive[c] = vector_exp(static_cast<T>(squared) * factor);
    });
  } else {
    const U threshold = rule.threshold;
    squared_distances_to(points, count, [=](int64_t c, U squared) {
      positive[c] = squared < threshold ? T(1) : T(0);
    });
  }
}

}  // namespace

UNIVA_CLONES(void, positive_weights,
             (const Points<float>& points, const PositiveRule<float, float>& rule, int64_t count,
              float* positive),
             (points, rule, count, positive), weigh(points, rule, count, positive))
UNIVA_CLONES(void, positive_weights,
             (const Points<double>& points, const PositiveRule<float, double>& rule, int64_t count,
              float* positive),
             (points, rule, count, positive), weigh(points, rule, count, positive))
UNIVA_CLONES(void, positive_weights,
             (const Points<float>& points, const PositiveRule<double, float>& rule, int64_t count,
              double* positive),
             (points, rule, count, positive), weigh(points, rule, count, positive))
UNIVA_CLONES(void, positive_weights,
             (const Points<double>& points, const PositiveRule<double, double>& rule, int64_t count,
              double* positive),
             (points, rule, count, positive), weigh(points, rule, count, positive))

}  // namespace univa::cpu
