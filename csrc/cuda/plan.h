// Which kernels serve an objective: all of it in one launch, or launch after launch. Host only.
#pragma once

#include <cstdint>

#include "cuda/launch.h"

namespace univa::cuda {

// Up to these sizes one launch is taken. From counts of operations, not from measurements: beyond,
// every block reads so much of the batch again that tiles on tensor cores win.
struct FusedLimit {
  Type type;
  int64_t rows;   // B
  int64_t depth;  // D
};
constexpr FusedLimit kFusedLimits[] = {
    {Type::kFloat, 512, 4096},
    {Type::kDouble, 384, 2048},
    {Type::kBFloat16, 384, 4096},
    {Type::kHalf, 384, 4096},
};
constexpr int64_t kFusedLabels = 64;         // L
constexpr int64_t kFusedPredictions = 4096;  // B L
constexpr int kFusedThreads = 256;
constexpr int kFusedRows = 8;  // a block's rows, one per warp

struct Plan {
  bool fused;
  int64_t blocks;  // of each modality; one more block has the classification term and the prior
  int64_t shared_bytes;
};

constexpr int64_t accumulate_bytes(Type type) { return type == Type::kDouble ? 8 : 4; }

// Dynamic shared memory of the fused kernels: rows, inner products and lengths; or predictions,
// their gradients and the pairs of labels.
inline int64_t fused_bytes(Type type, int64_t rows, int64_t depth, int64_t labels) {
  const auto pieces = [&](int64_t count) { return (count + 31) / 32 * 32; };
  const int64_t size = accumulate_bytes(type);
  const int64_t of_rows = pieces(kFusedRows * depth * size) + pieces(kFusedRows * rows * size) +
                          2 * pieces(rows * 8);
  const int64_t of_labels = 2 * pieces(rows * labels * size) + pieces(labels * labels * size);
  return of_rows > of_labels ? of_rows : of_labels;
}

// shared_limit: bytes that a block can have, static and dynamic, as the device says. depth: the largest.
inline Plan plan_objective(Type type, int64_t rows, int64_t depth, int64_t labels,
                           int64_t modalities, int64_t shared_limit) {
  const Plan apart{false, 0, 0};
  const FusedLimit limit = kFusedLimits[static_cast<int>(type)];
  const int64_t bytes = fused_bytes(type, rows, depth, labels);
  const bool fits = rows >= 1 && rows <= limit.rows && depth <= limit.depth && labels >= 1 &&
                    labels <= kFusedLabels && rows * labels <= kFusedPredictions &&
                    modalities <= kFusedModalities && bytes + kStaticShared <= shared_limit;
  return fits ? Plan{true, (rows + kFusedRows - 1) / kFusedRows, bytes} : apart;
}

}  // namespace univa::cuda
