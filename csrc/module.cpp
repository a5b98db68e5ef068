// The importable module univa_kernels._C: what is not a tensor op. Importing it registers the ops.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/headeronly/version.h>

#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include "cpu/clones.h"
#include "cuda/plan.h"
#include "cuda/stream.h"

namespace py = pybind11;

namespace {

std::vector<std::string> split(const std::string& text) {
  std::istringstream words(text);
  std::vector<std::string> list;
  for (std::string word; words >> word;) {
    list.push_back(word);
  }
  return list;
}

// What this file was compiled with, and the loops that run. Nothing here looks for a GPU. UNIVA_*
// come from setup.py.
py::dict build_info() {
  py::dict info;
  info["version"] = UNIVA_VERSION;
  info["torch_build_version"] = TORCH_VERSION;
  info["target_torch"] = UNIVA_TARGET_TORCH;
#if defined(__clang__)
  info["compiler"] = "clang " __clang_version__;
#else
  info["compiler"] = "gcc " __VERSION__;
#endif
  info["cxx_standard"] = __cplusplus;
  info["cpu_capability"] = univa::cpu::capability_name();
#if defined(UNIVA_WITH_CUDA)
  info["cuda"] = UNIVA_CUDA_VERSION;
  info["cuda_left_out"] = py::none();
  info["cuda_architectures"] = split(UNIVA_CUDA_ARCHITECTURES);
  info["cuda_ptx"] = split(UNIVA_CUDA_PTX);
#else
  info["cuda"] = py::none();
  info["cuda_left_out"] = UNIVA_CUDA_LEFT_OUT;
  info["cuda_architectures"] = split("");
  info["cuda_ptx"] = split("");
#endif
  return info;
}

using univa::cuda::Type;

const std::vector<std::pair<std::string, Type>>& types() {
  static const std::vector<std::pair<std::string, Type>> list{{"float32", Type::kFloat},
                                                              {"float64", Type::kDouble},
                                                              {"bfloat16", Type::kBFloat16},
                                                              {"float16", Type::kHalf}};
  return list;
}

// Up to which sizes the CUDA backend takes one launch for an objective.
py::list launch_table() {
  py::list table;
  for (const auto& [name, type] : types()) {
    const univa::cuda::FusedLimit limit = univa::cuda::kFusedLimits[static_cast<int>(type)];
    py::dict row;
    row["dtype"] = name;
    row["rows"] = limit.rows;
    row["depth"] = limit.depth;
    row["labels"] = univa::cuda::kFusedLabels;
    row["predictions"] = univa::cuda::kFusedPredictions;
    row["modalities"] = univa::cuda::kFusedModalities;
    table.append(row);
  }
  return table;
}

py::dict launch_plan(const std::string& dtype, int64_t rows, int64_t depth, int64_t labels,
                     int64_t modalities, int64_t shared_limit) {
  for (const auto& [name, type] : types()) {
    if (name == dtype) {
      const univa::cuda::Plan plan =
          univa::cuda::plan_objective(type, rows, depth, labels, modalities, shared_limit);
      py::dict result;
      result["one_launch"] = plan.fused;
      result["blocks"] = plan.fused ? modalities * plan.blocks + 1 : 0;
      result["threads"] = plan.fused ? univa::cuda::kFusedThreads : 0;
      result["shared_bytes"] = plan.shared_bytes;
      result["static_bytes_reserved"] = univa::cuda::kStaticShared;
      return result;
    }
  }
  throw py::value_error("dtype must be float32, float64, bfloat16 or float16, got " + dtype);
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  const char* wanted = std::getenv("UNIVA_CPU_CAPABILITY");
  univa::cpu::choose_capability(wanted == nullptr ? "" : wanted);
  module.doc() = "Compiled ops of univa_kernels, registered as torch.ops.univa when imported.";
  module.def("build_info", &build_info,
             "What the extension was built with: versions, compiler, CUDA architectures.");
  module.def("launch_table", &launch_table,
             "Up to which sizes the CUDA backend serves an objective in one launch each way.");
  module.def("launch_plan", &launch_plan, py::arg("dtype"), py::arg("rows"), py::arg("depth"),
             py::arg("labels"), py::arg("modalities") = 3, py::arg("shared_limit") = 232448,
             "How the CUDA backend serves an objective of these sizes. Needs no GPU; shared_limit "
             "is what a block of it can have, static and dynamic, in bytes.");
  module.def("tensor_float32_allowed", &univa::cuda::tensor_float32_allowed,
             "Whether torch's setting lets the CUDA backend multiply float32 as TF32.");
  module.def("cuda_stream_found", &univa::cuda::stream_function_found,
             "Whether the loaded torch can tell its current CUDA stream. Needs no GPU.");
}
