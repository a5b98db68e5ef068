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

using GlobalContext = void* (*)();
using AllowTF32 = bool (*)(const void* context);

// at::globalContext() and at::Context::allowTF32CuBLAS() const. The stable interface does not tell
// of this setting; where a later torch has other names, float32 stays float32.
struct Setting {
  GlobalContext context = nullptr;
  AllowTF32 allow = nullptr;

  Setting() {
    if (void* library = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD)) {
      context = reinterpret_cast<GlobalContext>(dlsym(library, "_ZN2at13globalContextEv"));
      allow =
          reinterpret_cast<AllowTF32>(dlsym(library, "_ZNK2at7Context15allowTF32CuBLASEv"));
      dlclose(library);  // gives back the reference just taken
    }
  }
};

}  // namespace

bool tensor_float32_allowed() {
  static const Setting setting;
  if (setting.context == nullptr || setting.allow == nullptr) {
    return false;
  }
  try {
    return setting.allow(setting.context());
  } catch (...) {  // torch's old and new settings contradict each other
    return false;
  }
}

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
