#include <barrier>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "cuda_runtime.h"

namespace simt {

Device device;
Counters counters;

namespace {

constexpr int kWarp = 32;
constexpr size_t kLaneBytes = 16;

[[noreturn]] void fail(const char* sentence) {
  std::fprintf(stderr, "simt: %s\n", sentence);
  std::abort();
}

/// Two buffers taken in turn: a lane that writes the next one has passed the barrier before it,
/// and so has every lane that still read the last but one.
struct Warp {
  std::barrier<> barrier{kWarp};
  unsigned char lanes[2][kWarp][kLaneBytes];
};

struct Launch {
  dim3 grid;
  dim3 block;
  size_t shared_bytes;
  const std::function<void()>* body;
  unsigned threads;
  std::barrier<> barrier;
  std::vector<std::unique_ptr<Warp>> warps;
  std::unique_ptr<unsigned char[]> shared;

  Launch(dim3 grid_, dim3 block_, size_t shared_bytes_, const std::function<void()>& body_)
      : grid(grid_),
        block(block_),
        shared_bytes(shared_bytes_),
        body(&body_),
        threads(block_.x * block_.y * block_.z),
        barrier(threads) {
    for (unsigned i = 0; i < threads / kWarp; ++i) warps.push_back(std::make_unique<Warp>());
    // operator new aligns to 16, as the kernels may assume of dynamic shared memory.
    shared.reset(new unsigned char[shared_bytes]);
  }
};

thread_local Launch* current;
thread_local unsigned thread_index;
thread_local unsigned exchanges;

/// The life of one CUDA thread position: all blocks of the grid, one after another.
void execute(Launch& launch, unsigned index) {
  current = &launch;
  thread_index = index;
  exchanges = 0;
  const dim3 b = launch.block;
  threadIdx = {index % b.x, index / b.x % b.y, index / (b.x * b.y)};
  blockDim = b;
  gridDim = launch.grid;
  for (unsigned z = 0; z < launch.grid.z; ++z)
    for (unsigned y = 0; y < launch.grid.y; ++y)
      for (unsigned x = 0; x < launch.grid.x; ++x) {
        blockIdx = {x, y, z};
        // All bits set are NaNs and absurd integers: nothing survives from the last block.
        if (index == 0) std::memset(launch.shared.get(), 0xff, launch.shared_bytes);
        launch.barrier.arrive_and_wait();
        (*launch.body)();
        launch.barrier.arrive_and_wait();
      }
}

/// Threads are kept between launches, because starting one costs more than most blocks do.
class Pool {
 public:
  void run(Launch& launch) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (threads_.size() < launch.threads) {
      const unsigned index = static_cast<unsigned>(threads_.size());
      threads_.emplace_back([this, index, seen = generation_] { work(index, seen); });
    }
    launch_ = &launch;
    running_ = launch.threads;
    ++generation_;
    start_.notify_all();
    done_.wait(lock, [this] { return running_ == 0; });
    launch_ = nullptr;
  }

  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    start_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  void work(unsigned index, long seen) {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      start_.wait(lock, [&] { return stopping_ || generation_ != seen; });
      if (stopping_) return;
      seen = generation_;
      if (launch_ == nullptr || index >= launch_->threads) continue;
      Launch& launch = *launch_;
      lock.unlock();
      execute(launch, index);
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable start_;
  std::condition_variable done_;
  std::vector<std::thread> threads_;
  Launch* launch_ = nullptr;
  unsigned running_ = 0;
  long generation_ = 0;
  bool stopping_ = false;
};

Warp& warp(unsigned mask) {
  if (mask != 0xffffffffu) fail("a warp operation must name all 32 lanes");
  return *current->warps[thread_index / kWarp];
}

}  // namespace

void run(dim3 grid, dim3 block, size_t shared, const std::function<void()>& body) {
  const unsigned threads = block.x * block.y * block.z;
  if (threads == 0 || threads % kWarp != 0) fail("a block must be a whole number of warps");
  if (threads > 1024) fail("a block has at most 1024 threads");
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) fail("a grid needs at least one block");
  if (shared > static_cast<size_t>(device.shared_per_block))
    fail("the block asks for more shared memory than the device has");
  static Pool pool;
  Launch launch(grid, block, shared, body);
  ++counters.launches;
  counters.blocks += static_cast<long>(grid.x) * grid.y * grid.z;
  pool.run(launch);
}

void* dynamic_shared() { return current->shared.get(); }

void sync_block() { current->barrier.arrive_and_wait(); }

void sync_warp(unsigned mask) { warp(mask).barrier.arrive_and_wait(); }

int lane() { return static_cast<int>(thread_index % kWarp); }

void exchange(unsigned mask, const void* mine, void* theirs, size_t bytes, int source) {
  Warp& w = warp(mask);
  auto& buffer = w.lanes[exchanges++ % 2];
  std::memcpy(buffer[lane()], mine, bytes);
  w.barrier.arrive_and_wait();
  std::memcpy(theirs, buffer[source], bytes);
}

unsigned ballot(unsigned mask, bool predicate) {
  Warp& w = warp(mask);
  auto& buffer = w.lanes[exchanges++ % 2];
  buffer[lane()][0] = predicate;
  w.barrier.arrive_and_wait();
  unsigned bits = 0;
  for (int i = 0; i < kWarp; ++i) bits |= static_cast<unsigned>(buffer[i][0]) << i;
  return bits;
}

}  // namespace simt

cudaError_t cudaGetDevice(int* index) {
  *index = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = simt::device.max_threads;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = simt::device.multiprocessors;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = simt::device.shared_per_block;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = simt::device.shared_per_multiprocessor;
      return cudaSuccess;
  }
  return cudaErrorInvalidValue;
}

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int value) {
  return value <= simt::device.shared_per_block ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "invalid argument";
}
