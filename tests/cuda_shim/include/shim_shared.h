// The shim's half of csrc/cuda/shared.cuh: the same types, with every access checked.
#pragma once

#include "shim.h"

namespace univa::cuda {

template <typename T>
class Shared {
 public:
  Shared(T* data, int count) : data_(data), count_(count) {}

  univa_shim::Element<T> operator[](int index) const {
    return univa_shim::Element<T>(range(index, 1));
  }

  T* range(int index, int count) const {
    if (index < 0 || count < 0 || index + count > count_) {
      univa_shim::fault("out of bounds: [%d, %d) of a shared array of %d", index, index + count,
                        count_);
    }
    univa_shim::check_shared(data_ + index, count * sizeof(T));
    return data_ + index;
  }

  Shared part(int index, int count) const {
    if (index < 0 || count < 0 || index + count > count_) {
      univa_shim::fault("out of bounds: part [%d, %d) of a shared array of %d", index,
                        index + count, count_);
    }
    return Shared(data_ + index, count);
  }

 private:
  T* data_;
  int count_;
};

inline unsigned char* dynamic_shared() { return univa_shim::dynamic_memory(); }

#define UNIVA_SHARED(Type, name, count)                                                         \
  static const char name##_key = 0;                                                             \
  const ::univa::cuda::Shared<Type> name(                                                       \
      static_cast<Type*>(univa_shim::static_memory(&name##_key, (count) * sizeof(Type))), count)

}  // namespace univa::cuda
