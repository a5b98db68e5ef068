// The importable module univa_kernels._C: what is not a tensor op. Importing it registers the ops.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/headeronly/version.h>

#include <sstream>
#include <string>
#include <vector>

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

// What this file was compiled with. Nothing here looks for a GPU. UNIVA_* come from setup.py.
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
#if defined(UNIVA_WITH_CUDA)
  info["cuda"] = UNIVA_CUDA_VERSION;
  info["cuda_architectures"] = split(UNIVA_CUDA_ARCHITECTURES);
  info["cuda_ptx"] = split(UNIVA_CUDA_PTX);
#else
  info["cuda"] = py::none();
  info["cuda_architectures"] = split("");
  info["cuda_ptx"] = split("");
#endif
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Compiled ops of univa_kernels, registered as torch.ops.univa when imported.";
  module.def("build_info", &build_info,
             "What the extension was built with: versions, compiler, CUDA architectures.");
  module.def("cuda_stream_found", &univa::cuda::stream_function_found,
             "Whether the loaded torch can tell its current CUDA stream. Needs no GPU.");
}
