// The scheduler of the host shim and its checks. See include/shim.h.

#include "shim.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace univa_shim {

namespace {

constexpr size_t kStack = 64 * 1024;
constexpr int kSeveral = -2;
constexpr size_t kCanaries = 256;
constexpr size_t kStatics = 16 * 1024;  // room for arrays that a kernel declares
constexpr unsigned char kCanary = 0xc5;
constexpr unsigned char kPoison = 0xff;  // NaN in every floating type, -1 in every integer

Fiber* running = nullptr;
const std::function<void()>* body = nullptr;
std::string error;
bool failed = false;
int launch_count = 0;
bool backwards = false;
int limit_of_block = 232448;
std::map<const void*, int> allowed;  // dynamic shared memory by kernel
std::mutex one_launch;

// Switching between the stacks of fibers and that of the scheduler.
#if defined(__x86_64__)
void* scheduler = nullptr;
extern "C" void univa_shim_switch(void** save, void* to);
asm(R"(
.text
.globl univa_shim_switch
.hidden univa_shim_switch
univa_shim_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
)");

void* new_context(unsigned char* stack, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + kStack);
  *--top = nullptr;  // the entry finds its stack as after a call
  *--top = reinterpret_cast<void*>(entry);
  for (int r = 0; r < 6; ++r) {
    *--top = nullptr;
  }
  return top;
}
void to_fiber(Fiber* fiber) { univa_shim_switch(&scheduler, fiber->stack_pointer); }
void to_scheduler(Fiber* fiber) { univa_shim_switch(&fiber->stack_pointer, scheduler); }
void free_context(void*) {}
#else
ucontext_t scheduler;
void* new_context(unsigned char* stack, void (*entry)()) {
  auto* context = new ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = kStack;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
}
void to_fiber(Fiber* fiber) {
  swapcontext(&scheduler, static_cast<ucontext_t*>(fiber->stack_pointer));
}
void to_scheduler(Fiber* fiber) {
  swapcontext(static_cast<ucontext_t*>(fiber->stack_pointer), &scheduler);
}
void free_context(void* context) { delete static_cast<ucontext_t*>(context); }
#endif

void fiber_main() {
  (*body)();
  running->done = true;
  to_scheduler(running);
  std::abort();  // a fiber that is done is not resumed
}

// Stacks are kept between launches.
unsigned char* stack_of(size_t number) {
  static std::vector<unsigned char*> stacks;
  while (stacks.size() <= number) {
    stacks.push_back(static_cast<unsigned char*>(mmap(nullptr, kStack, PROT_READ | PROT_WRITE,
                                                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)));
  }
  return stacks[number];
}

void wait_at(Wait wait, const char* file, int line) {
  running->wait = wait;
  running->file = file;
  running->line = line;
  to_scheduler(running);
}

bool same_place(const Fiber* a, const Fiber* b) {
  return a->line == b->line && std::strcmp(a->file, b->file) == 0;
}

void record(const char* text) {
  if (!failed) {
    error = std::string("shim: ") + text;
  }
  failed = true;
}

// Lets those go on whose barrier is complete; false where nobody could.
bool release(Block& block) {
  bool any = false;
  const size_t count = block.fibers.size();
  // Warps first.
  for (size_t w = 0; w < block.warps.size(); ++w) {
    for (size_t l = 0; l < kWarpLanes; ++l) {
      Fiber* first = block.fibers[w * kWarpLanes + l];
      if (first->done || first->wait != Wait::kWarp) {
        continue;
      }
      bool complete = true;
      for (int other = 0; other < kWarpLanes; ++other) {
        const Fiber* fiber = block.fibers[w * kWarpLanes + other];
        if (first->mask >> other & 1u) {
          complete = complete && !fiber->done && fiber->wait == Wait::kWarp &&
                     fiber->mask == first->mask && same_place(fiber, first);
        }
      }
      if (complete) {
        for (int other = 0; other < kWarpLanes; ++other) {
          if (first->mask >> other & 1u) {
            block.fibers[w * kWarpLanes + other]->wait = Wait::kNothing;
          }
        }
        block.warps[w].barriers += first->mask == 0xffffffffu;
        any = true;
      }
    }
  }
  // Named barriers: as many arrivals as were asked for.
  for (size_t i = 0; i < count; ++i) {
    Fiber* first = block.fibers[i];
    if (first->done || first->wait != Wait::kNamed) {
      continue;
    }
    std::vector<Fiber*> there;
    for (Fiber* fiber : block.fibers) {
      if (!fiber->done && fiber->wait == Wait::kNamed && fiber->id == first->id) {
        there.push_back(fiber);
      }
    }
    if (there.size() >= first->count) {
      for (Fiber* fiber : there) {
        fiber->wait = Wait::kNothing;
      }
      ++block.barriers;
      any = true;
    }
  }
  const auto at_block = [](const Fiber* fiber) { return fiber->wait == Wait::kBlock; };
  if (std::all_of(block.fibers.begin(), block.fibers.end(), at_block)) {
    for (Fiber* fiber : block.fibers) {
      if (!same_place(fiber, block.fibers[0])) {
        char text[256];
        std::snprintf(text, sizeof text, "divergent barrier: thread 0 at line %d, thread %d at %d",
                      block.fibers[0]->line, fiber->number, fiber->line);
        record(text);
        return false;
      }
      fiber->wait = Wait::kNothing;
    }
    ++block.barriers;
    any = true;
  }
  return any;
}

void report_stuck(const Block& block) {
  int done = 0;
  const Fiber* waiting = nullptr;
  for (const Fiber* fiber : block.fibers) {
    done += fiber->done;
    waiting = waiting == nullptr && !fiber->done ? fiber : waiting;
  }
  char text[512];
  std::snprintf(text, sizeof text,
                "divergent barrier: thread %d waits at %s:%d (%s) for threads that do not come; %d "
                "of %zu have ended",
                waiting->number, waiting->file, waiting->line,
                waiting->wait == Wait::kWarp    ? "warp"
                : waiting->wait == Wait::kBlock ? "block"
                                                : "named",
                done, block.fibers.size());
  record(text);
}

void check_canaries(const Block& block) {
  const unsigned char* start = block.memory + block.dynamic_bytes;
  if (!std::all_of(start, start + kCanaries, [](unsigned char c) { return c == kCanary; })) {
    record("out of bounds: the canaries behind dynamic shared memory were overwritten");
  }
}

void run_block(Block& block, std::vector<std::unique_ptr<Fiber>>& fibers) {
  const size_t bytes = block.dynamic_bytes + kCanaries + kStatics;
  std::memset(block.memory, kPoison, bytes);
  std::memset(block.memory + block.dynamic_bytes, kCanary, kCanaries);
  block.granules.assign(bytes / 2 + 1, Granule());
  for (size_t t = 0; t < fibers.size(); ++t) {
    Fiber& fiber = *fibers[t];
    fiber.done = false;
    fiber.wait = Wait::kNothing;
    fiber.copies.assign(1, {});
    fiber.stack_pointer = new_context(stack_of(t), fiber_main);
  }
  bool left = true;
  while (left && !failed) {
    left = false;
    for (Fiber* fiber : block.fibers) {
      if (!fiber->done && fiber->wait == Wait::kNothing && !failed) {
        running = fiber;
        to_fiber(fiber);
      }
      left = left || !fiber->done;
    }
    if (left && !failed && !release(block) && !failed) {
      report_stuck(block);
    }
  }
  for (const auto& fiber : fibers) {
    free_context(fiber->stack_pointer);
  }
  check_canaries(block);
}

}  // namespace

Fiber* now() { return running; }

void fault(const char* format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  const Fiber* fiber = running;
  char where[128];
  std::snprintf(where, sizeof where, " (block %u,%u thread %d)", fiber->block->index.x,
                fiber->block->index.y, fiber->number);
  record((std::string(text) + where).c_str());
  to_scheduler(running);
  std::abort();  // a launch that failed is not resumed
}

void block_barrier(const char* file, int line) { wait_at(Wait::kBlock, file, line); }

void named_barrier(unsigned id, unsigned count, const char* file, int line) {
  running->id = id;
  running->count = count;
  wait_at(Wait::kNamed, file, line);
}

void warp_barrier(unsigned mask, const char* file, int line) {
  if ((mask >> lane() & 1u) == 0) {
    fault("warp barrier at %s:%d by lane %d, which its mask leaves out", file, line, lane());
  }
  running->mask = mask;
  wait_at(Wait::kWarp, file, line);
}

int launch(const void* kernel, dim3 grid, dim3 threads, size_t bytes,
           const std::function<void()>& kernel_body) {
  const std::lock_guard<std::mutex> lock(one_launch);
  ++launch_count;
  failed = false;
  const size_t count = static_cast<size_t>(threads.x) * threads.y * threads.z;
  const auto found = allowed.find(kernel);
  const bool asked = found != allowed.end();
  const int limit = asked ? found->second : kSharedByDefault;
  if (count == 0 || count > 1024 || count % kWarpLanes != 0 || threads.y * threads.z != 1 ||
      grid.x == 0 || grid.y == 0 || grid.y > UNIVA_GRID_LIMIT || grid.z != 1) {
    record("launch: blocks of whole warps along x, at most 1024 threads, a grid that is not empty "
           "nor too large along y");
    return 1;
  }
  if (bytes > static_cast<size_t>(limit)) {
    record("launch: more dynamic shared memory than the kernel was allowed");
    return 1;
  }
  std::vector<unsigned char> memory(bytes + kCanaries + kStatics + 256);
  Block block;
  block.threads = threads;
  block.grid = grid;
  block.memory = memory.data() + (128 - reinterpret_cast<uintptr_t>(memory.data()) % 128);
  block.dynamic_bytes = bytes;
  // Who asks for dynamic memory is refused where static memory does not fit beside what was asked.
  block.room = asked ? limit_of_block - limit + bytes : kSharedByDefault;
  block.warps.resize(count / kWarpLanes);
  std::vector<std::unique_ptr<Fiber>> fibers;
  for (size_t t = 0; t < count; ++t) {
    fibers.push_back(std::make_unique<Fiber>());
    fibers[t]->block = &block;
    fibers[t]->thread = dim3(static_cast<unsigned>(t), 0, 0);
    fibers[t]->number = static_cast<int>(t);
    block.fibers.push_back(fibers[t].get());
  }
  body = &kernel_body;
  for (unsigned z = 0; z < grid.z && !failed; ++z) {
    for (unsigned y = 0; y < grid.y && !failed; ++y) {
      for (unsigned x = 0; x < grid.x && !failed; ++x) {
        block.index = backwards ? dim3(grid.x - 1 - x, grid.y - 1 - y, grid.z - 1 - z)
                                : dim3(x, y, z);
        block.barriers = 0;
        block.static_bytes = 0;
        block.declared = 0;
        block.statics.clear();
        for (Warp& warp : block.warps) {
          warp.barriers = 0;
        }
        run_block(block, fibers);
      }
    }
  }
  running = nullptr;
  return failed ? 1 : 0;
}

int allow_shared(const void* kernel, int bytes) {
  if (bytes > limit_of_block) {
    record("launch: more dynamic shared memory than a block can have");
    return 1;
  }
  allowed[kernel] = bytes;
  return 0;
}

int shared_limit() { return limit_of_block; }

void limit_shared(int bytes) {
  limit_of_block = bytes;
  allowed.clear();
}

int take_error() {
  const int code = failed ? 1 : 0;
  failed = false;
  return code;
}

const char* message() { return error.c_str(); }

int launches() { return launch_count; }

void run_blocks_backwards(bool yes) { backwards = yes; }

unsigned char* dynamic_memory() { return running->block->memory; }

void* static_memory(const void* key, size_t bytes) {
  Block& block = *running->block;
  for (const auto& [known, offset] : block.statics) {
    if (known == key) {
      return block.memory + offset;
    }
  }
  const size_t rounded = (bytes + 127) / 128 * 128;
  if (block.static_bytes + rounded > kStatics) {
    fault("more than %zu bytes of static shared memory", kStatics);
  }
  // Arrays lie one after the other, and dynamic memory behind them at a multiple of 128 bytes.
  block.declared = (block.declared + 15) / 16 * 16 + bytes;
  const size_t statics = (block.declared + 127) / 128 * 128;
  if (block.dynamic_bytes + statics > block.room) {
    fault("launch: %zu bytes of static shared memory do not fit beside the dynamic", statics);
  }
  const size_t offset = block.dynamic_bytes + kCanaries + block.static_bytes;
  block.static_bytes += rounded;
  block.statics.emplace_back(key, offset);
  return block.memory + offset;
}

bool is_shared(const void* address) {
  const Block& block = *running->block;
  const auto* byte = static_cast<const unsigned char*>(address);
  return byte >= block.memory &&
         byte < block.memory + block.dynamic_bytes + kCanaries + kStatics;
}

void check_shared(const void* address, size_t bytes) {
  const Block& block = *running->block;
  const size_t offset = static_cast<const unsigned char*>(address) - block.memory;
  const size_t statics = block.dynamic_bytes + kCanaries;
  const bool inside = offset + bytes <= block.dynamic_bytes ||
                      (offset >= statics && offset + bytes <= statics + block.static_bytes);
  if (!is_shared(address) || !inside) {
    fault("out of bounds: bytes [%zd, %zd) of shared memory, of which there are %zu",
          static_cast<ssize_t>(offset), static_cast<ssize_t>(offset + bytes), block.dynamic_bytes);
  }
}

void on_read(const void* address, size_t bytes) {
  check_shared(address, bytes);
  Block& block = *running->block;
  const size_t offset = static_cast<const unsigned char*>(address) - block.memory;
  const int own_warp = running->number / kWarpLanes;
  const int in_warp = block.warps[own_warp].barriers;
  for (size_t g = offset / 2; g <= (offset + bytes - 1) / 2; ++g) {
    Granule& granule = block.granules[g];
    if (!granule.written) {
      fault("read of uninitialised shared memory at byte %zu", offset);
    }
    if (granule.writer != running->number && granule.written_at == block.barriers &&
        !(granule.writer / kWarpLanes == own_warp && granule.written_in_warp < in_warp)) {
      fault("race: read of shared memory at byte %zu, which thread %d wrote with no barrier since",
            offset, granule.writer);
    }
    if (granule.read_at != block.barriers) {
      granule.reader = running->number;
      granule.reader_warp = own_warp;
    } else {
      granule.reader_warp = granule.reader_warp == own_warp ? own_warp : kSeveral;
      const bool again = granule.reader == running->number || granule.read_in_warp < in_warp;
      granule.reader = again ? running->number : kSeveral;
    }
    granule.read_at = block.barriers;
    granule.read_in_warp = in_warp;
  }
}

void on_write(const void* address, size_t bytes) {
  check_shared(address, bytes);
  Block& block = *running->block;
  const size_t offset = static_cast<const unsigned char*>(address) - block.memory;
  const int own_warp = running->number / kWarpLanes;
  const int in_warp = block.warps[own_warp].barriers;
  for (size_t g = offset / 2; g <= (offset + bytes - 1) / 2; ++g) {
    Granule& granule = block.granules[g];
    const bool written_apart = granule.writer / kWarpLanes == own_warp && granule.writer >= 0 &&
                               granule.written_in_warp < in_warp;
    if (granule.written && granule.writer != running->number &&
        granule.written_at == block.barriers && !written_apart) {
      fault("race: write to shared memory at byte %zu, which thread %d wrote with no barrier since",
            offset, granule.writer);
    }
    const bool read_apart = granule.reader_warp == own_warp &&
                            (granule.reader == running->number || granule.read_in_warp < in_warp);
    if (granule.read_at == block.barriers && !read_apart) {
      fault("race: write to shared memory at byte %zu, which others read with no barrier since",
            offset);
    }
    granule.written = true;
    granule.writer = running->number;
    granule.written_at = block.barriers;
    granule.written_in_warp = in_warp;
  }
}

void copy_async(void* to, const void* from, size_t bytes, size_t zeros) {
  if ((bytes != 4 && bytes != 8 && bytes != 16) || zeros > bytes ||
      reinterpret_cast<uintptr_t>(to) % bytes != 0 ||
      reinterpret_cast<uintptr_t>(from) % bytes != 0) {
    fault("cp.async of %zu bytes: 4, 8 or 16, at addresses that are multiples of it", bytes);
  }
  check_shared(to, bytes);
  running->copies.back().push_back({to, from, bytes, zeros});
}

void commit_copies() { running->copies.emplace_back(); }

void wait_for_copies(size_t batches_left) {
  // The last batch is open: nothing waits for it.
  while (running->copies.size() > batches_left + 1) {
    for (const Copy& copy : running->copies.front()) {
      on_write(copy.to, copy.bytes);
      std::memcpy(copy.to, copy.from, copy.bytes - copy.zeros);
      std::memset(static_cast<unsigned char*>(copy.to) + copy.bytes - copy.zeros, 0, copy.zeros);
    }
    running->copies.erase(running->copies.begin());
  }
}

}  // namespace univa_shim
