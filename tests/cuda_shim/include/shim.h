// A host shim of the CUDA execution model, for tests: the kernel sources of csrc/cuda, compiled as
// plain C++ against the headers beside this one, run block after block with the threads of a block
// as fibers. One thread runs until it waits at a barrier or ends, so a run is deterministic.
//
// It stops a launch, with a message that cudaGetErrorString gives back, at
//   - a barrier that not every thread of the block (or lane of the warp) reaches, or that they
//     reach at different places,
//   - an access outside of a shared array, or of the shared memory that was asked for,
//   - a read of shared memory that nothing has written (it is poisoned as well),
//   - two threads that touch the same shared memory, one of them writing, with no barrier between,
//   - more shared memory, static and dynamic, than the kernel was allowed or a block can have.
// cp.async copies late, when the thread waits for it; the wmma fragments are spread over the lanes
// in an order of our own. What it cannot show: races in global memory, and time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

namespace univa_shim {

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  dim3(unsigned along_x, unsigned along_y = 1, unsigned along_z = 1)
      : x(along_x), y(along_y), z(along_z) {}
};

constexpr int kWarpLanes = 32;
constexpr int kSharedByDefault = 48 * 1024;  // static and dynamic, without asking

struct Fiber;

// Two bytes of shared memory: who wrote and read them last, and after which barriers.
struct Granule {
  bool written = false;
  int writer = -1;
  int reader = -1;       // kSeveral: more than one thread
  int reader_warp = -1;  // kSeveral: more than one warp
  int written_at = -1, written_in_warp = -1;  // barriers of the block and of the warp so far
  int read_at = -1, read_in_warp = -1;
};

struct Warp {
  int barriers = 0;  // complete ones
  unsigned char exchange[kWarpLanes][16];
  const void* pointers[kWarpLanes];
};

struct Block {
  dim3 index, threads, grid;
  std::vector<Fiber*> fibers;
  std::vector<Warp> warps;
  int barriers = 0;
  unsigned char* memory = nullptr;  // dynamic shared memory, then static, then canaries
  std::vector<Granule> granules;
  size_t dynamic_bytes = 0;
  size_t static_bytes = 0;  // that the kernel has declared so far, as they lie here
  size_t declared = 0;      // the same, as a compiler packs them
  size_t room = 0;          // for static and dynamic shared memory together
  std::vector<std::pair<const void*, size_t>> statics;
};

enum class Wait { kNothing, kBlock, kNamed, kWarp };

struct Copy {
  void* to;
  const void* from;
  size_t bytes, zeros;
};

struct Fiber {
  Block* block;
  dim3 thread;
  int number;
  bool done = false;
  Wait wait = Wait::kNothing;
  const char* file = nullptr;
  int line = 0;
  unsigned mask = 0;     // of the warp barrier
  unsigned id = 0, count = 0;  // of the named barrier
  std::vector<std::vector<Copy>> copies{1};  // cp.async: batches, the last one open
  void* stack_pointer = nullptr;
};

Fiber* now();
inline int lane() { return now()->number % kWarpLanes; }
inline Warp& warp() { return now()->block->warps[now()->number / kWarpLanes]; }

// Ends the launch with this message. Does not return.
[[noreturn]] void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));

void block_barrier(const char* file, int line);
void named_barrier(unsigned id, unsigned count, const char* file, int line);
void warp_barrier(unsigned mask, const char* file, int line);

int launch(const void* kernel, dim3 grid, dim3 block, size_t bytes,
           const std::function<void()>& body);
int allow_shared(const void* kernel, int bytes);
int shared_limit();            // static and dynamic, per block; at first as on an H100
void limit_shared(int bytes);  // to that of another GPU
int take_error();
const char* message();
int launches();  // since the library was loaded
void run_blocks_backwards(bool yes);  // the last block of a grid first

// Shared memory of the running block.
unsigned char* dynamic_memory();
void* static_memory(const void* key, size_t bytes);
void check_shared(const void* address, size_t bytes);  // lies inside, or there is a fault
bool is_shared(const void* address);
void on_read(const void* address, size_t bytes);
void on_write(const void* address, size_t bytes);

void copy_async(void* to, const void* from, size_t bytes, size_t zeros);
void commit_copies();
void wait_for_copies(size_t batches_left);

template <typename T>
T shuffle(unsigned mask, T value, int source, const char* file, int line) {
  static_assert(sizeof(T) <= 16);
  std::memcpy(warp().exchange[lane()], &value, sizeof(T));
  warp_barrier(mask, file, line);
  if ((mask >> (source & 31) & 1u) == 0) {
    fault("shuffle at %s:%d from lane %d, which takes no part", file, line, source);
  }
  std::memcpy(&value, warp().exchange[source & 31], sizeof(T));
  warp_barrier(mask, file, line);
  return value;
}

inline unsigned ballot(unsigned mask, int vote, const char* file, int line) {
  unsigned votes = 0;
  for (int source = 0; source < kWarpLanes; ++source) {
    // Every lane takes part in each exchange; only those of the mask are asked.
    if (mask >> source & 1u) {
      votes |= shuffle(mask, vote != 0 ? 1u : 0u, source, file, line) << source;
    }
  }
  return votes;
}

// An element of shared memory; every access is checked.
template <typename T>
class Element {
 public:
  explicit Element(T* address) : address_(address) {}
  operator T() const {
    on_read(address_, sizeof(T));
    return *address_;
  }
  T operator=(T value) const {
    on_write(address_, sizeof(T));
    return *address_ = value;
  }
  T operator=(const Element& other) const { return *this = static_cast<T>(other); }
  T operator+=(T value) const { return *this = static_cast<T>(*this) + value; }

 private:
  T* address_;
};

}  // namespace univa_shim
