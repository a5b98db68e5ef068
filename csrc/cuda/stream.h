// The current CUDA stream of the loaded torch, which may be a CPU build.
#pragma once

#include <cstdint>

namespace univa::cuda {

// Whether the loaded torch has the symbol.
bool stream_function_found();

// A cudaStream_t. Throws where torch has no CUDA.
void* current_stream(int32_t device_index);

}  // namespace univa::cuda
