// torch's header of this name with another guard: the shim's tensors are on the CPU, which has none.
#pragma once

#define DeviceGuard DeviceGuardOfTorch
#include_next <torch/csrc/stable/accelerator.h>
#undef DeviceGuard

namespace torch::stable::accelerator {

class DeviceGuard {
 public:
  explicit DeviceGuard(DeviceIndex) {}
  ~DeviceGuard() {}  // not trivial: a guard that is only held counts as used
};

}  // namespace torch::stable::accelerator
