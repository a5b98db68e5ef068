// What the loaded torch, which may be a CPU build, says of its stream and its settings.
#pragma once

#include <cstdint>

namespace univa::cuda {

// Whether the loaded torch has the symbol.
bool stream_function_found();

// A cudaStream_t. Throws where torch has no CUDA.
void* current_stream(int32_t device_index);

// Whether torch's setting lets float32 products be computed as TF32; false where it cannot be asked.
bool tensor_float32_allowed();

}  // namespace univa::cuda
