// Marks for functions that the host compiler and nvcc both compile.
#pragma once

#if defined(__CUDACC__)
#define UNIVA_HD __host__ __device__ __forceinline__
#else
#define UNIVA_HD inline
#endif
