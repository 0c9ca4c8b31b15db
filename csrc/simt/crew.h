// Who runs the CUDA threads of a launch: operating-system threads, whose races ThreadSanitizer
// sees, or with SIMT_FIBERS contexts that take turns at barriers, an order of magnitude faster.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#ifdef SIMT_FIBERS
#include <ucontext.h>

#include <deque>
#else
#include <barrier>
#include <condition_variable>
#include <mutex>
#include <thread>
#endif

namespace simt {

[[noreturn]] inline void fail(const char* sentence) {
  std::fprintf(stderr, "simt: %s\n", sentence);
  std::abort();
}

class Crew;
Crew& crew();

#ifdef SIMT_FIBERS

/// Runs a task for each of a number of indices, on this thread.
class Crew {
 public:
  void run(unsigned count, const std::function<void(unsigned)>& task) {
    task_ = &task;
    while (fibers_.size() < count) fibers_.push_back(std::make_unique<Fiber>());
    for (unsigned i = 0; i < count; ++i) {
      ucontext_t& context = fibers_[i]->context;
      getcontext(&context);
      context.uc_stack.ss_sp = fibers_[i]->stack.get();
      context.uc_stack.ss_size = kStack;
      context.uc_link = &caller_;
      makecontext(&context, enter, 0);
      ready_.push_back(i);
    }
    for (unsigned left = count; left > 0; --left) {  // one ends whenever this goes on
      running_ = next();
      swapcontext(&caller_, &fibers_[running_]->context);
    }
  }

  unsigned running() const { return running_; }

  /// Lets the others run until somebody resumes this one.
  void suspend() {
    const unsigned me = running_;
    running_ = next();
    swapcontext(&fibers_[me]->context, &fibers_[running_]->context);
  }

  void resume(unsigned index) { ready_.push_back(index); }

 private:
  static constexpr size_t kStack = 128 << 10;

  struct Fiber {
    ucontext_t context;
    std::unique_ptr<unsigned char[]> stack{new unsigned char[kStack]};
  };

  static void enter() { (*crew().task_)(crew().running_); }

  unsigned next() {
    if (ready_.empty()) fail("every thread waits at a barrier");
    const unsigned index = ready_.front();
    ready_.pop_front();
    return index;
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::deque<unsigned> ready_;
  const std::function<void(unsigned)>* task_ = nullptr;
  unsigned running_ = 0;
  ucontext_t caller_;
};

class Barrier {
 public:
  using Token = long;

  explicit Barrier(unsigned count) : count_(count) {}

  Token arrive() {
    const Token token = generation_;
    if (++arrived_ < count_) return token;
    arrived_ = 0;
    ++generation_;
    for (const unsigned index : waiting_) crew().resume(index);
    waiting_.clear();
    return token;
  }
  void wait(Token token) {
    if (generation_ != token) return;
    waiting_.push_back(crew().running());
    crew().suspend();
  }
  void arrive_and_wait() { wait(arrive()); }

 private:
  unsigned count_;
  unsigned arrived_ = 0;
  Token generation_ = 0;
  std::vector<unsigned> waiting_;
};

#else

class Barrier : public std::barrier<> {
 public:
  using Token = arrival_token;

  explicit Barrier(unsigned count) : std::barrier<>(count) {}
};

/// Runs a task for each of a number of indices, on as many threads. They are kept, because starting
/// one costs more than most blocks do.
class Crew {
 public:
  void run(unsigned count, const std::function<void(unsigned)>& task) {
    std::unique_lock<std::mutex> lock(mutex_);
    while (threads_.size() < count) {
      const unsigned index = static_cast<unsigned>(threads_.size());
      threads_.emplace_back([this, index, seen = generation_] { work(index, seen); });
    }
    task_ = &task;
    count_ = running_ = count;
    ++generation_;
    start_.notify_all();
    done_.wait(lock, [this] { return running_ == 0; });
    task_ = nullptr;
  }

  ~Crew() {
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
      if (task_ == nullptr || index >= count_) continue;
      const auto& task = *task_;
      lock.unlock();
      task(index);
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable start_;
  std::condition_variable done_;
  std::vector<std::thread> threads_;
  const std::function<void(unsigned)>* task_ = nullptr;
  unsigned count_ = 0;
  unsigned running_ = 0;
  long generation_ = 0;
  bool stopping_ = false;
};

#endif

inline Crew& crew() {
  static Crew all;
  return all;
}

}  // namespace simt
