#include "cuda/stream.h"

#include <dlfcn.h>
#include <torch/headeronly/util/Exception.h>

namespace univa::cuda {

namespace {

using GetCurrentStream = int32_t (*)(int32_t device_index, void** stream);

// Only a CUDA build of torch has this symbol, in libtorch_cuda.so, so it is looked up instead of
// linked. RTLD_NOLOAD: the library is there already or not at all.
GetCurrentStream find() {
  constexpr const char* kName = "aoti_torch_get_current_cuda_stream";
  void* function = nullptr;
  if (void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD)) {
    function = dlsym(library, kName);
    dlclose(library);  // gives back the reference just taken; torch holds its own
  }
  if (function == nullptr) {
    function = dlsym(RTLD_DEFAULT, kName);  // torch linked into one library or executable
  }
  return reinterpret_cast<GetCurrentStream>(function);
}

GetCurrentStream get_current_stream() {
  static const GetCurrentStream function = find();
  return function;
}

}  // namespace

bool stream_function_found() { return get_current_stream() != nullptr; }

void* current_stream(int32_t device_index) {
  const GetCurrentStream function = get_current_stream();
  STD_TORCH_CHECK(function != nullptr, "the loaded torch has no CUDA: found no "
                                       "aoti_torch_get_current_cuda_stream");
  void* stream = nullptr;
  STD_TORCH_CHECK(function(device_index, &stream) == 0, "torch has no current CUDA stream on device ",
                  device_index);
  return stream;
}

}  // namespace univa::cuda
