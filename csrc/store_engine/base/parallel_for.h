// Shares the work on a range of numbers among threads, chunk by chunk.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <thread>
#include <vector>

#include "store_engine/base/openmp.h"

namespace store_engine {

enum class Threads {
  kOwn,     // started for each call: nothing survives it, and no other library is involved
  kOpenMp,  // those of the process's OpenMP runtime if it has one, else as kOwn
};

struct ParallelOptions {
  int64_t num_chunks, num_threads;  // the calling thread is one of them
  Threads threads = Threads::kOwn;
};

// Calls work() on up to num_threads threads, one of which is the caller's.
template <typename Work>
void run_on_own_threads(int64_t num_threads, const Work& work) {
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(num_threads - 1));
  try {
    while (static_cast<int64_t>(threads.size()) < num_threads - 1) {
      threads.emplace_back(std::cref(work));
    }
  } catch (const std::exception&) {
    // the system has no more threads or memory: those that there are do all the work
  }
  work();
  for (std::thread& thread : threads) thread.join();
}

// Calls body(chunk_id, begin, end) for num_chunks contiguous chunks of [0, count), each on the next
// thread that is free; there are no more chunks than numbers, and at least one. If chunks throw,
// all others still run; then the exception of the lowest is rethrown: errors do not depend on
// timing.
template <typename Body>
void parallel_for(int64_t count, const ParallelOptions& options, const Body& body) {
  const int64_t chunks = std::max<int64_t>(1, std::min(count, options.num_chunks));
  const int64_t threads = std::min(chunks, options.num_threads);
  const int64_t size = count / chunks, rest = count % chunks;  // `rest` chunks are one longer
  const auto begin_of = [size, rest](int64_t chunk) {
    return size * chunk + std::min(chunk, rest);
  };
  std::vector<std::exception_ptr> errors(static_cast<size_t>(chunks));
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t chunk; (chunk = next.fetch_add(1, std::memory_order_relaxed)) < chunks;) {
      try {
        body(chunk, begin_of(chunk), begin_of(chunk + 1));
      } catch (...) {
        errors[static_cast<size_t>(chunk)] = std::current_exception();
      }
    }
  };
  const bool is_shared = threads > 1 && options.threads == Threads::kOpenMp;
  const OpenMpParallel openmp = is_shared ? openmp_parallel() : nullptr;
  if (openmp != nullptr) {
    using Work = decltype(work);
    openmp([](void* data) { (*static_cast<const Work*>(data))(); },
           const_cast<void*>(static_cast<const void*>(&work)), static_cast<unsigned>(threads), 0);
  } else {
    run_on_own_threads(std::max<int64_t>(1, threads), work);
  }
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

// The same on threads of its own, one chunk for each.
template <typename Body>
void parallel_for(int64_t count, int64_t num_threads, const Body& body) {
  parallel_for(count, ParallelOptions{num_threads, num_threads}, body);
}

}  // namespace store_engine
